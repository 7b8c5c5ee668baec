"""Mutants: bytes and texts as disks, copies, editors and other programs leave them."""

from __future__ import annotations

import io
import json
import random
import warnings
from typing import Any

import numpy as np

# Values that a file of JSON or a table holds where another was expected.
ODD = (
    None, True, -1, 0, 1 << 31, 1 << 63, 10**30, -0.0, 1e308, 1.5, "", " ", "a", "\x1b[31mred\x1b[0m",
    "../../etc/passwd", "/dev/zero", "\x00", "\ud800", "é", "<script>", [], {}, [[]], [None], {"a": {}}, "x" * 10_000,
)  # fmt: skip
ODD_TEXTS = (
    "", " ", "-1", "0", "1e308", "nan", "inf", "-inf", "1" * 400, "99999999999999999999", "\x1b[31mred", "../../x.mp4",
    "/dev/zero", "\x00", '"', '""', "\r", "é", "e\u0301", "=1+1", "None", "x" * 10_000, "'", ",", "\ufeff", "5:30",
)  # fmt: skip
LEVELS = "[" * 100_000


def mutated(content: bytes, draw: random.Random) -> tuple[bytes | None, str]:
    """Returns a file's bytes after one damage of many kinds, or None for no file at all, and what was done."""
    kind = draw.choice(list(_KINDS))
    # Damage to what is short is mostly that of its beginning, where formats say what follows.
    place = draw.randrange(len(content) + 1) if draw.random() < 0.7 else draw.randrange(min(len(content), 200) + 1)
    size = draw.choice((1, 2, 4, 16, 64, 512, 4096))
    return _KINDS[kind](content, place, size, draw), f"{kind} at {place}, {size} bytes"


def _flip(content: bytes, place: int, size: int, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 8, 64))):
        if changed:
            changed[min(place, len(changed) - 1)] ^= 1 << draw.randrange(8)
            place = draw.randrange(len(changed))
    return bytes(changed)


def _swap(content: bytes, place: int, size: int, draw: random.Random) -> bytes:
    other = draw.randrange(len(content) + 1)
    first, second = sorted((place, other))
    size = min(size, second - first)
    one, two = content[first : first + size], content[second : second + size]
    return content[:first] + two + content[first + size : second] + one + content[second + size :]


_KINDS = {
    "flipped bits": _flip,
    "cut short": lambda content, place, size, draw: content[:place],
    "zeroed": lambda content, place, size, draw: (
        content[:place] + bytes(min(size, len(content) - place)) + content[place + size :]
    ),
    "ones": lambda content, place, size, draw: content[:place] + b"\xff" * size + content[place + size :],
    "swapped": _swap,
    "inserted": lambda content, place, size, draw: content[:place] + draw.randbytes(size) + content[place:],
    "left out": lambda content, place, size, draw: content[:place] + content[place + size :],
    "twice": lambda content, place, size, draw: content[:place] + content,
    "noise": lambda content, place, size, draw: draw.randbytes(size),
    "emptied": lambda content, place, size, draw: b"",
    "vanished": lambda content, place, size, draw: None,
}


def mutated_json(content: bytes, draw: random.Random) -> tuple[bytes | None, str]:
    """Returns JSON with one value exchanged for an odd one, left out or nested without end; or `mutated` bytes."""
    if draw.random() < 0.25:
        return mutated(content, draw)
    value = json.loads(content)
    spots = list(_spots(value))
    if not spots or draw.random() < 0.05:
        return LEVELS.encode(), "levels without end"
    holder, key = draw.choice(spots)
    if draw.random() < 0.15:
        del holder[key]
        return json.dumps(value).encode(), f"{key!r} left out"
    if isinstance(holder[key], list) and holder[key] and draw.random() < 0.4:
        holder[key] = draw.choice((holder[key] * 2, holder[key][:-1], holder[key][::-1]))
        return json.dumps(value).encode(), f"{key!r} of another length or order"
    if isinstance(holder[key], int) and draw.random() < 0.4:
        holder[key] += draw.choice((-1, 1, 7))
        return json.dumps(value).encode(), f"{key!r} changed to {holder[key]}"
    odd = draw.choice((*ODD, float("nan"), float("inf")))
    holder[key] = odd
    return json.dumps(value).encode(), f"{key!r} changed to {odd!r:.40}"


def _spots(value: Any):
    """Yields (holder, key) of every value within a value of JSON."""
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else range(min(len(value), 20))
        for key in keys:
            yield value, key
            yield from _spots(value[key])


def mutated_table(content: bytes, draw: random.Random) -> tuple[bytes | None, str]:
    """Returns a table with one field exchanged for an odd one, or a line moved, left out or doubled; or bytes."""
    if draw.random() < 0.25:
        return mutated(content, draw)
    lines = content.decode().splitlines()
    number = draw.randrange(len(lines))
    kind = draw.choice(("field", "field", "field", "doubled", "left out", "first"))
    if kind == "field":
        fields = lines[number].split(",") if "," in lines[number] else lines[number].split(" ")
        separator = "," if "," in lines[number] else " "
        place = draw.randrange(len(fields))
        fields[place] = draw.choice(ODD_TEXTS)
        lines[number] = separator.join(fields)
        what = f"field {place} of line {number + 1} changed to {fields[place]!r:.40}"
    else:
        line = lines.pop(number)
        if kind != "left out":
            lines[0:0] = [line] if kind == "first" else [line, line]
        what = f"line {number + 1} {kind}"
    return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n", what


def mutated_arrays(content: bytes, draw: random.Random) -> tuple[bytes | None, str]:
    """Returns an .npz file with one array left out, or of other values, shape or kind; or `mutated` bytes."""
    if draw.random() < 0.4:
        return mutated(content, draw)
    with np.load(io.BytesIO(content)) as stored:
        arrays = dict(stored)
    name = draw.choice(sorted(arrays))
    array = arrays.pop(name)
    what = "left out"
    if array.dtype.kind == "U" and not array.ndim and str(array).startswith("{") and draw.random() < 0.9:
        after, what = mutated_json(str(array).encode(), draw)
        arrays[name] = np.array((after or b"").decode(errors="replace"))
    elif draw.random() < 0.9:
        what = draw.choice(list(_OTHER_ARRAYS))
        # Of numbers that the other kind lacks.
        with warnings.catch_warnings(action="ignore"):
            arrays[name] = _OTHER_ARRAYS[what](array, draw)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue(), f"the array {name}: {what}"


def _with_odd_values(array: np.ndarray, draw: random.Random) -> np.ndarray:
    changed = array.copy()
    if array.size:
        odd = {"f": ("nan", "inf", "-inf", "1e38"), "U": ("", "a\x1b[31m", "../x", "\n")}
        place = draw.randrange(array.size)
        changed.reshape(-1)[place] = np.array(draw.choice(odd.get(array.dtype.kind, ("-1", "7"))), changed.dtype)
    return changed


_OTHER_ARRAYS = {
    "odd values": _with_odd_values,
    "one row less": lambda array, draw: array[1:] if array.ndim else array.reshape(1),
    "no rows": lambda array, draw: array[:0] if array.ndim else array.reshape(1)[:0],
    "one axis more": lambda array, draw: array[None],
    "flat": lambda array, draw: array.reshape(-1)[:1].reshape(()) if array.size == 1 else array.reshape(-1),
    "in another order": lambda array, draw: array[::-1] if array.ndim else array,
    "all the same": lambda array, draw: np.broadcast_to(array.reshape(-1)[0], array.shape) if array.size else array,
    "text": lambda array, draw: array.astype(np.str_),
    "bytes": lambda array, draw: array.astype(np.bytes_) if array.dtype.kind != "U" else np.array([b"\xff"]),
    "halves": lambda array, draw: array.astype(np.float16) if array.dtype.kind != "U" else array.astype("U1"),
    "whole numbers": lambda array, draw: array.astype(np.int64) if array.dtype.kind != "U" else np.arange(array.size),
    "complex numbers": lambda array, draw: np.full(array.shape, 1j),
    "dates": lambda array, draw: np.zeros(array.shape, "datetime64[s]"),
    "objects": lambda array, draw: array.astype(object),
    "records": lambda array, draw: np.zeros(array.shape, [("a", "i4")]),
}

# Lines of a recipe that are wrong, or odd.
ODD_STATEMENTS = (
    "1 / 0", "undefined", "import nothing_there", "raise SystemExit(3)", "assert False, 'why'", "raise Exception",
    "get_config()", "open('/no/such/file')", "config.new = 1", "config.total_steps = 'many'", "return {}",
    "return None", "return 5", "config.optimizer = None", "config.data.frames = None", "config.data = {}",
    "config.model.name = 'i4d'",
    "config.batch_size = 10**30", "config.batch_size = -1", "config.optimizer.learning_rates = ()", "del config.seed",
    "config.optimizer.learning_rates = (float('nan'),)", "config.optimizer.boundaries = ('a',)", "config.seed = 1.5",
    "config.model.width_multiplier = 1e-9", "raise ValueError('two\\nlines')", "config = config.to_dict()", "(",
    "x = '",    "config.unlock(); del config.evaluation", "config.unlock(); config.model = 'i3d'",
    "raise KeyError", "raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'why')", "config.data.directory = '/dev/zero'",
    "config.init_from = '../x'", "config.evaluation.windows = 0", "config.checkpoints.keep_last = 10**9", "pass",
)  # fmt: skip


def mutated_recipe(content: bytes, draw: random.Random) -> tuple[bytes | None, str]:
    """Returns a recipe with a line that is wrong or odd, or left out, doubled or moved in; or `mutated` bytes."""
    if draw.random() < 0.25:
        return mutated(content, draw)
    lines = content.decode().splitlines()
    place = draw.randrange(len(lines))
    kind = draw.choice(("another", "another", "another", "left out", "doubled", "moved in"))
    if kind == "another":
        # In the function, past its first line.
        place = draw.randrange(next(n for n, line in enumerate(lines) if "config = " in line) + 1, len(lines))
        lines.insert(place, f"    {draw.choice(ODD_STATEMENTS)}")
        return "\n".join(lines).encode() + b"\n", f"line {place + 1} is now {lines[place].strip()}"
    line = lines.pop(place)
    lines[place:place] = {"left out": [], "doubled": [line, line], "moved in": [f"  {line}"]}[kind]
    return "\n".join(lines).encode() + b"\n", f"line {place + 1} {kind}"
