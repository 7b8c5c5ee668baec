"""What a fault that was tried is, and how what commands leave behind is compared."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np

from .materials import Materials

# Of lines of metrics.jsonl: figures of time, which no two runs share.
TIMES = ("clips_per_second", "data_wait_share", "seconds_left")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tried:
    """A fault that was tried.

    Attributes:
      kind: a row of the table, within the class.
      number: of the fault; with the seed it says all that is drawn.
      what: was done.
      violated: which promise was broken and how; None where all were kept.
      missed: whether the command was over before the fault came, so that nothing was tried.
    """

    kind: str
    number: int
    what: str
    violated: str | None = None
    missed: bool = False


@dataclasses.dataclass(frozen=True)
class Campaign:
    """What every class is given.

    Attributes:
      folder: everything is written below it.
      seed: of what is drawn.
      materials: what faults are tried on.
      steps: of the run whose growth is measured.
    """

    folder: Path
    seed: int
    materials: Materials
    steps: int = 2000

    def draw(self, name: str, number: int) -> random.Random:
        """Returns the source of everything that is drawn for a fault."""
        return random.Random(f"{self.seed} {name} {number}")


def files(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def half_written(folder: Path) -> list[str]:
    """Returns the names of what a command has begun to write and neither finished nor removed."""
    marks = (".tmp-", ".partial", ".orbax-checkpoint-tmp")
    names = (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    return [name for name in names if any(mark in name for mark in marks)]


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> str | None:
    """Says in which files two folders differ; None where they are the same."""
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return f"{len(names)} files differ: {', '.join(names[:4])}" if names else None


def outcome_of_run(workdir: Path) -> dict[str, bytes]:
    """Returns what two runs must have in common: metrics without times, digests of all arrays, figures, predictions."""
    found = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        fields = json.loads(line)
        values = {name: value for name, value in fields.items() if name not in TIMES}
        found[f"metrics.jsonl, step {fields['step']}, {fields['split']}"] = json.dumps(values).encode()
    for path in [*workdir.glob("checkpoints/*/digests.json"), workdir / "results.json"]:
        found[str(path.relative_to(workdir))] = path.read_bytes()
    for path in workdir.glob("predictions/*.npz"):
        with np.load(path) as arrays:
            found |= {f"{path.name}, {name}": arrays[name].tobytes() for name in arrays.files}
    return found
