"""Runs `reading` in processes of their own, a batch of mutants in each, so that what ends one is known."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence

from .processes import Process
from .reading import KINDS, SECONDS
from .tried import Campaign, Tried

BATCH = 1200


def read(campaign: Campaign, numbers: Sequence[int]) -> Iterator[Tried]:
    """Reads the mutants of these numbers; one that ends its process, or takes a minute, is a violation."""
    # They are made here, by commands.
    for make in ("trained", "small", "recipes", "hub", "features"):
        getattr(campaign.materials, make)()
    rest = list(numbers)
    while rest:
        folder = campaign.folder / f"batch_{rest[0]}"
        given = [str(campaign.materials.folder), str(folder / "mutant"), str(campaign.seed), *map(str, rest[:BATCH])]
        process = Process(["-m", "benchmarks.faults.reading", *given], folder / "logs")
        begun = None
        done = 0
        try:
            # It ends by itself where one takes too long.
            for line in process.lines():
                if not line.startswith("{"):
                    continue
                found = json.loads(line)
                begun = found.get("begun")
                if begun is None:
                    done += 1
                    yield _tried(found)
        finally:
            # Where nobody asks for the rest.
            process.send(signal.SIGKILL)
        ended = process.wait()
        if begun is not None:
            done += 1
            kind = list(KINDS)[begun % len(KINDS)]
            how = f"over {SECONDS} s" if ended.code == -14 else f"the process ended with {ended.code}"
            last = " ".join(ended.errors.split())[-200:]
            yield Tried(kind=kind, number=begun, what="", violated=f"{how}: {last}")
        elif ended.code != 0 and not done:
            raise RuntimeError(f"the reading of mutants ended with {ended.code}: {ended.errors[-2000:]}")
        rest = rest[done:]


def _tried(found: dict) -> Tried:
    what = f"{found['what']}: {found['outcome']}"
    return Tried(kind=found["kind"], number=found["number"], what=what, violated=found["violated"])
