"""Compiles the training step for TPUs that are not there, and says what it needs of each chip.

That is the step that training runs (bfloat16, the release's optimizer, the state's memory used again), compiled ahead
of time by libtpu for every chip of a topology: memory, operations, bytes moved, collectives, and from them and the
chip's datasheet the shortest time that a step can take. Nothing runs, so no time here is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hlo
import machine
import roofline
from machine import positive

from i3d_jax.system import files
from i3d_jax.system.errors import UserError, run

EXAMPLE = """\
examples:
  python benchmarks/tpu_compile.py --architectures i3d --breakdown 15
  python benchmarks/tpu_compile.py --topologies v5e:2x4,v5e:16x16,v5p:2x2x2 --json tpu.json
  python benchmarks/tpu_compile.py --architectures i3d --clips 8 --option temporal_padding=replicate

A topology is a chip and how many of it along each axis. I3D's step compiles in 5 to 10 minutes on two quiet cores.
"""
# Clips of Table 1 for each chip: the release's 6 of I3D, of the others what takes about as much memory.
CLIPS = {"i3d": 6, "conv_lstm": 8, "c3d": 16, "two_stream": 64, "fused": 16}
PACKAGES = ("jax", "jaxlib", "flax", "libtpu")
COLUMNS = (
    *("", "chips", "clips a chip", "arguments, GB", "temporaries, GB", "TFLOP", "bytes accessed, GB", "in HBM, GB"),
    *("collectives, MB", "arithmetic, ms", "HBM, ms", "links, ms", "clips/s a chip, at most"),
)


@dataclass(frozen=True)
class Compiled:
    """One program; figures are of one chip and one step.

    Attributes:
      clip: the shape of a clip, by stream.
      argument_bytes, temporary_bytes: of memory; the outputs take the place of the arguments.
      bytes_accessed: by XLA's own cost analysis; it counts the memory on the chip (VMEM) too.
      hbm_bytes: those of the program's operations in the large memory, as stored (`hlo.operations`).
      collectives: (count, bytes) by kind.
      by_opcode, by_layer: (bytes, of these in HBM) of the program's operations.
    """

    architecture: str
    topology: str
    chips: int
    clips: int
    clip: dict[str, tuple[int, ...]]
    compile_seconds: float
    argument_bytes: int
    temporary_bytes: int
    flops: float
    bytes_accessed: float
    hbm_bytes: int
    collectives: dict[str, tuple[int, int]]
    by_opcode: dict[str, tuple[int, int]]
    by_layer: dict[str, tuple[int, int]]

    def times(self) -> roofline.Times:
        """The least seconds of a step."""
        return roofline.times(
            roofline.CHIPS[_chip(self.topology)],
            flops=self.flops,
            memory_bytes=self.hbm_bytes,
            collectives=self.collectives,
            devices=self.chips,
        )

    def summary(self) -> dict[str, Any]:
        """All of it with the times, ready for JSON."""
        times = self.times()
        return {**asdict(self), "least_seconds": {**times._asdict(), "bound": times.bound}}


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark."""
    options = _parser().parse_args(arguments)
    for name in options.architectures:
        if name not in CLIPS:
            raise UserError(f"there is no architecture {name!r} here; expected some of {', '.join(CLIPS)}")
    for topology in options.topologies:
        _chip(topology)
    if options.json and not options.json.parent.is_dir():
        raise UserError(f"the folder of --json does not exist: {options.json.parent}")
    if options.hlo and not options.hlo.is_dir():
        raise UserError(f"the folder of --hlo does not exist: {options.hlo}")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, the compiler for TPUs, is not installed: pip install libtpu")
    # No TPU is at hand: JAX itself works on the CPU, and libtpu is to look for nobody who knows what machine this is.
    os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    # No two processes may use a TPU at once; two that only compile may.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    about = machine.about(PACKAGES, gpu=None)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    print(f"{about['date']}, compiled on {about['cpu']} with {about['cores']} cores; nothing ran on a TPU\n{versions}")
    print(f"`{about['command']}`\n\n| {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * (len(COLUMNS) - 2)}", flush=True)
    programs = []
    for topology in options.topologies:
        for name in options.architectures:
            programs.append(compile_step(name, topology, options))
            print(f"| {' | '.join(_row(programs[-1]))} |", flush=True)
    if options.breakdown:
        for program in programs:
            _print_breakdown(program, options.breakdown)
    if options.json:
        with files.written_whole(options.json) as file:
            file.write(
                json.dumps({**about, "programs": [program.summary() for program in programs]}, indent=1).encode()
            )


def compile_step(architecture: str, topology: str, options: argparse.Namespace) -> Compiled:
    """Compiles the training step of an architecture for a topology."""
    # Imported late: --help and mistakes need no JAX.
    from ahead import lowered_step
    from jax.experimental import topologies

    try:
        chips = topologies.get_topology_desc(topology, "tpu").devices
    except (RuntimeError, ValueError) as error:
        raise UserError(f"libtpu knows no topology {topology!r}: {str(error).splitlines()[0]}") from error
    clips = options.clips or CLIPS[architecture]
    begin = time.perf_counter()
    lowered, clip = lowered_step(
        architecture, chips, clips, frames=options.frames, size=options.size, options=dict(options.option)
    )
    compiled = lowered.compile()
    seconds = time.perf_counter() - begin
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    text = compiled.as_text()
    if options.hlo:
        (options.hlo / f"{architecture}-{topology.replace(':', '-')}.hlo").write_text(text)
    program = hlo.parse(text)
    operations = list(hlo.operations(program))
    return Compiled(
        architecture=architecture,
        topology=topology,
        chips=len(chips),
        clips=clips,
        clip=clip,
        compile_seconds=seconds,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        hbm_bytes=sum(operation.large_memory_bytes for operation in operations),
        collectives=hlo.collectives(program),
        by_opcode=_sums(operations, lambda operation: operation.opcode),
        by_layer=_sums(operations, lambda operation: "/".join(operation.scope.split("/")[: options.depth])),
    )


def _sums(operations: Sequence[hlo.Operation], key) -> dict[str, tuple[int, int]]:
    """(bytes, of these in HBM) by a key, the largest first."""
    moved, large = Counter(), Counter()
    for operation in operations:
        moved[key(operation)] += operation.bytes
        large[key(operation)] += operation.large_memory_bytes
    return {name: (total, large[name]) for name, total in moved.most_common()}


def _row(program: Compiled) -> list[str]:
    times = program.times()
    collectives = ", ".join(
        f"{size / 1e6:.3g} in {count} {kind}" for kind, (count, size) in program.collectives.items()
    )
    return [
        program.architecture,
        f"{program.chips} {_chip(program.topology)}",
        f"{program.clips} of {_clip_words(program.clip)}",
        f"{program.argument_bytes / 1e9:.2f}",
        f"{program.temporary_bytes / 1e9:.2f}",
        f"{program.flops / 1e12:.2f}",
        f"{program.bytes_accessed / 1e9:.1f}",
        f"{program.hbm_bytes / 1e9:.1f}",
        collectives or "none",
        f"{1e3 * times.arithmetic:.1f}",
        f"{1e3 * times.memory:.1f}",
        f"{1e3 * times.links:.1f}",
        f"{program.clips / times.bound:.0f}",
    ]


def _clip_words(clip: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{stream} {'x'.join(map(str, shape))}" for stream, shape in clip.items())


def _print_breakdown(program: Compiled, rows: int) -> None:
    """Prints which kinds of operations and which layers move the most."""
    for title, parts in (("operation", program.by_opcode), ("layer", program.by_layer)):
        total = sum(moved for moved, _ in parts.values())
        what = f"{program.architecture}, {program.chips} {_chip(program.topology)}: {title}"
        print(f"\n| {what} | GB | in HBM, GB | share |")
        print("|---|---:|---:|---:|")
        for name, (moved, large) in list(parts.items())[:rows]:
            print(
                f"| {name or 'added by the compiler'} | {moved / 1e9:.2f} | {large / 1e9:.2f} | {moved / total:.1%} |"
            )


def _chip(topology: str) -> str:
    """The chip of a topology such as "v5e:2x4"."""
    chip, _, shape = topology.partition(":")
    if chip not in roofline.CHIPS or not shape:
        raise UserError(
            f"a topology is a chip ({', '.join(roofline.CHIPS)}) and its numbers along the axes, such as v5e:2x4 or "
            f"v5p:2x2x2, found {topology!r}"
        )
    return chip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = "names with commas between them (default: all five)"
    add("--architectures", metavar="NAMES", type=_words, default=tuple(CLIPS), help=names)
    add("--topologies", metavar="NAMES", type=_words, default=("v5e:2x4",), help="(default: v5e:2x4, eight chips)")
    add("--clips", metavar="N", type=positive, help="for each chip (default: 6 of I3D, as the release)")
    add("--frames", metavar="N", type=positive, help="of a clip (default: the paper's Table 1)")
    add("--size", metavar="PIXELS", type=positive, help="of a side (default: the paper's Table 1)")
    option_help = "an option of the model, such as stream=flow; may be given again"
    add("--option", metavar="NAME=VALUE", type=_option, action="append", default=[], help=option_help)
    add(
        "--breakdown",
        metavar="ROWS",
        type=positive,
        help="print what moves the most bytes, by operation and layer",
    )
    depth_help = "parts of a layer's name that the breakdown tells apart (default: %(default)s)"
    add("--depth", metavar="N", type=positive, default=1, help=depth_help)
    add("--json", metavar="FILE", type=Path, help="write all of it, for programs")
    add("--hlo", metavar="DIRECTORY", type=Path, help="write the compiled programs there, as text")
    return parser


def _words(text: str) -> list[str]:
    return text.split(",")


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"NAME=VALUE was expected, found {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


if __name__ == "__main__":
    run(main)
