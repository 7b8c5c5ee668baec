"""A long run of a tiny network: memory, open files, threads and the time of a step stay as they are."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from pathlib import Path

from .processes import Process, violation
from .tried import Campaign, Tried

# Between the median of the second quarter and that of the last one.
MOST_BYTES, MOST_TIMES_SLOWER = 64 << 20, 1.5


def grow(campaign: Campaign, number: int) -> Tried:
    """Trains for many steps and compares the last quarter with the second."""
    folder = campaign.folder / f"growth_{number}"
    workdir = folder / "output"
    arguments = campaign.materials.main_arguments(workdir, steps=campaign.steps)
    process = Process([*arguments, "--config.log_every=10"], folder / "logs")
    seen = []
    while not process.is_over():
        with contextlib.suppress(OSError, StopIteration):
            seen.append(_sample(process.pid))
        time.sleep(0.25)
    ended = process.wait()
    wrong = violation(ended, allowed=(0,))
    what = f"{campaign.steps} steps"
    if wrong is None:
        rates = [
            fields["clips_per_second"]
            for fields in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
            if fields["split"] == "train" and fields.get("clips_per_second")
        ]
        columns = {"bytes": [s[0] for s in seen], "files": [s[1] for s in seen], "threads": [s[2] for s in seen]}
        columns["clips a second"] = rates
        early, late = ({name: _median(values, quarter) for name, values in columns.items()} for quarter in (1, 3))
        told = (f"{name} {early[name]:.4g} to {late[name]:.4g}" for name in columns)
        what += f", {ended.seconds:.0f} s: {', '.join(told)}"
        if late["bytes"] - early["bytes"] > MOST_BYTES:
            wrong = "memory grows"
        elif late["files"] > early["files"] + 2 or late["threads"] > early["threads"] + 2:
            wrong = "open files or threads grow"
        elif late["clips a second"] * MOST_TIMES_SLOWER < early["clips a second"]:
            wrong = "steps take longer and longer"
    return Tried(kind="main", number=number, what=what, violated=wrong)


def _sample(pid: int) -> tuple[int, int, int]:
    """Bytes of memory, open files and threads of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) << 10, len(os.listdir(f"/proc/{pid}/fd")), int(lines["Threads"])


def _median(values: list, quarter: int) -> float:
    part = values[len(values) * quarter // 4 : len(values) * (quarter + 1) // 4]
    return statistics.median(part or values or [0])
