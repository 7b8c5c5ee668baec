"""What a compiled program moves, read from the text of its optimised HLO: bytes, and collectives between devices.

The text holds one device's share of the work. An operation of the program (an XLA fusion is one) reads its operands
from memory and writes its outputs; what goes on inside it stays on the chip.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# These move nothing: names for values, and the ends of transfers that began elsewhere.
_STILL = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "partition-id", "replica-id", "after-all"}
_STILL |= {"while", "conditional", "call"}
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+[a-z0-9]*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(r"\b(?:calls|body|condition|to_apply)=%?([\w.\-]+)|\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')


class Array(NamedTuple):
    """An array of the program.

    Attributes:
      shape: sizes of its axes.
      bits: of an element.
      layout: how it lies in memory, as the HLO writes it; "" where it does not say.
    """

    shape: tuple[int, ...]
    bits: int
    layout: str

    @property
    def bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.bits // 8

    @property
    def bytes_in_memory(self) -> int:
        """Bytes that it takes with its last axes filled up to whole tiles, which is how a TPU stores it."""
        axes, _, rest = self.layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", rest)
        if not tile:
            return self.bytes
        sizes = [self.shape[int(axis)] for axis in axes.split(",") if axis]
        for place, size in enumerate(map(int, reversed(tile[1].split(",")))):
            if place < len(sizes):
                sizes[place] = -(-sizes[place] // size) * size
        return math.prod(sizes) * self.bits // 8

    @property
    def on_chip(self) -> bool:
        """Whether it lies in a memory of the chip's own (S(1) and above), not in the large one."""
        return re.search(r"S\([1-9]", self.layout) is not None


@dataclass(frozen=True)
class Instruction:
    """One line of a computation; `operands` and `called` are names, of instructions and of computations."""

    name: str
    opcode: str
    outputs: tuple[Array, ...]
    operands: tuple[str, ...]
    called: tuple[str, ...]
    trips: int
    op_name: str


@dataclass(frozen=True)
class Program:
    """The computations by name, each its instructions by name, and the name of the one that is run."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


class Operation(NamedTuple):
    """What one operation of the program moves in a step.

    Attributes:
      opcode: its kind.
      scope: the layer that it belongs to, as JAX names it; "" where the compiler added it.
      bytes: read and written in all, as stored.
      large_memory_bytes: of these, in the large memory (a TPU's HBM).
      name: XLA's, which tells of a fusion what it does.
    """

    opcode: str
    scope: str
    bytes: int
    large_memory_bytes: int
    name: str


def parse(text: str) -> Program:
    """Reads the text of an optimised HLO module."""
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current[found[1]] = _instruction(found[1], found[2])
    return Program(computations, entry)


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of an HLO type; a tuple has several."""
    found = []
    for dtype, sizes, layout in _ARRAY.findall(text):
        digits = re.search(r"\d+", dtype)
        bits = {"pred": 8, "token": 0}.get(dtype) if digits is None else int(digits[0])
        found.append(Array(tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size), bits, layout))
    return tuple(found)


def operations(program: Program) -> Iterator[Operation]:
    """The operations that move bytes, those of a loop as often as it runs."""
    for instruction, computation, times in _executed(program, program.entry, 1):
        if instruction.opcode in _STILL or instruction.opcode.endswith("-done"):
            continue
        read = [array for name in instruction.operands if name in computation for array in computation[name].outputs]
        written = instruction.outputs
        if instruction.opcode in ("copy-start", "slice-start"):
            # The outputs name the source too; as many bytes are read of it as are written.
            destination = written[0] if instruction.opcode == "copy-start" else written[1]
            source = destination._replace(layout=_place(read[0].layout, destination.layout))
            read, written = [source], [destination]
        moved = [*read, *written]
        yield Operation(
            instruction.opcode,
            scope(instruction.op_name),
            times * sum(array.bytes_in_memory for array in moved),
            times * sum(array.bytes_in_memory for array in moved if not array.on_chip),
            instruction.name,
        )


def collectives(program: Program) -> dict[str, tuple[int, int]]:
    """The collectives by kind: (how many a step, bytes of the whole arrays that they combine, on each device)."""
    counts, sizes = Counter(), Counter()
    for instruction, computation, times in _executed(program, program.entry, 1, fusions=True):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        read = sum(array.bytes for name in instruction.operands for array in computation[name].outputs)
        written = sum(array.bytes for array in instruction.outputs)
        if instruction.opcode == "all-gather-start":
            # Its outputs name its operands too.
            written -= read
        counts[kind] += times
        sizes[kind] += times * (read if kind == "all-reduce" else max(read, written))
    return {kind: (counts[kind], sizes[kind]) for kind in COLLECTIVES if counts[kind]}


def scope(op_name: str) -> str:
    """The layer of an operation's name, "forward Mixed_3b/Branch_0/…" or "backward …"; "" of a name without layers."""
    layers = re.search(r"jvp\([^)]*\)\)*/(.*)", op_name.replace("\\'", "'"))
    if not layers:
        return ""
    # Flax writes the name of a module's method after the module's own.
    layer = layers[1].replace(".with_pool", "")
    return f"{'backward' if 'transpose(' in op_name else 'forward'} {layer}"


def _instruction(name: str, rest: str) -> Instruction:
    split = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    outputs, rest = arrays(rest[:split]), rest[split:].lstrip()
    opens = rest.index("(")
    closes = _closing(rest, opens)
    attributes = rest[closes:]
    called = [
        part.strip().lstrip("%") for pair in _CALLED.findall(attributes) for part in ",".join(pair).split(",") if part
    ]
    trips, op_name = _TRIPS.search(attributes), _OP_NAME.search(attributes)
    return Instruction(
        name,
        rest[:opens],
        outputs,
        tuple(re.findall(r"%([\w.\-]+)", rest[opens:closes])),
        tuple(called),
        int(trips[1]) if trips else 1,
        op_name[1] if op_name else "",
    )


def _closing(text: str, opens: int) -> int:
    """The place of the parenthesis that closes the one at `opens`."""
    depth = 0
    for place in range(opens, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    raise ValueError(f"a parenthesis is not closed in {text[:80]!r}")


def _place(layout: str, like: str) -> str:
    """A layout in the tiles of `like`, in the memory of `layout`."""
    memory = re.search(r"S\(\d+\)", layout)
    return re.sub(r"S\(\d+\)", "", like) + (memory[0] if memory else "")


def _executed(program: Program, name: str, times: int, *, fusions: bool = False):
    """Yields (instruction, its computation, how often it runs); with `fusions`, those inside other operations too."""
    computation = program.computations[name]
    for instruction in computation.values():
        yield instruction, computation, times
        if fusions or instruction.opcode in ("while", "conditional", "call"):
            for called in instruction.called:
                yield from _executed(program, called, times * instruction.trips, fusions=fusions)
