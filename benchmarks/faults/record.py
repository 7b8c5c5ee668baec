"""What a campaign has tried so far, a line of JSON each, and the table that it comes to."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from i3d_jax.system.errors import UserError
from i3d_jax.system.files import written_whole

from .tried import Tried

# The lines, and the same as one object.
LINES, WHOLE = "tried.jsonl", "faults.json"


class Record:
    """The faults that were tried in a folder.

    Attributes:
      lines: of each fault the class, the fields of `Tried` and the seed.
    """

    def __init__(self, folder: Path, seed: int, lines: Sequence[dict[str, Any]] = ()):
        """Begins a record with the lines of an earlier one of that folder; its files are written anew."""
        self._folder, self._seed = folder, seed
        self.lines = list(lines)
        with written_whole(folder / LINES) as file:
            file.write("".join(json.dumps(line) + "\n" for line in self.lines).encode())

    def add(self, name: str, tried: Tried) -> str:
        """Writes down a fault of a class, and returns the command that tries it again."""
        line = {"class": name, **dataclasses.asdict(tried), "seed": self._seed}
        self.lines.append(line)
        with open(self._folder / LINES, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return replay(line)

    def numbers(self, name: str) -> set[int]:
        """Returns the numbers of those of a class that were tried."""
        return {line["number"] for line in self.lines if line["class"] == name}

    @property
    def violations(self) -> list[dict[str, Any]]:
        """Those that broke a promise, with the command that tries each again."""
        return [{**line, "replay": replay(line)} for line in self.lines if line["violated"]]

    def write(self, seconds: float) -> None:
        """Writes the table and the violations as one object."""
        rows = [{"class": name, "of": kind, **found} for (name, kind), found in sorted(counted(self.lines).items())]
        content = {"seed": self._seed, "seconds": round(seconds), "table": rows, "violations": self.violations}
        with written_whole(self._folder / WHOLE) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")


def replay(line: dict[str, Any]) -> str:
    """Returns the command that tries a fault again."""
    return f"python -m benchmarks.faults --replay {line['class']}:{line['number']} --seed {line['seed']}"


def read(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of a folder's record; a `UserError` says that it has none."""
    path = folder / LINES
    if not path.is_file():
        raise UserError(f"the folder of a campaign was expected at {folder}: it has no {LINES}")
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        # The last one may have been cut short with its campaign.
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def counted(lines: Iterable[dict[str, Any]]) -> dict[tuple[str, str], collections.Counter]:
    """Returns by class and kind how many were tried, violated and missed: came after the end of their command."""
    rows: dict[tuple[str, str], collections.Counter] = collections.defaultdict(collections.Counter)
    for line in lines:
        row = rows[line["class"], line["kind"]]
        row["missed" if line["missed"] else "tried"] += 1
        row["violated"] += line["violated"] is not None
    return rows


def table(lines: Iterable[dict[str, Any]]) -> list[str]:
    """Returns the lines of the table in Markdown; a fault that came after the end of its command counts as none."""
    told = ["| class | of | tried | survived | violated |", "|---|---|---:|---:|---:|"]
    for (name, kind), found in sorted(counted(lines).items()):
        tried, violated = found["tried"], found["violated"]
        told.append(f"| {name} | {kind} | {tried} | {max(0, tried - violated)} | {violated} |")
    return told
