"""A campaign of faults: kills, signals, failing storage, damaged inputs and long runs against the commands.

The promises: what is killed or stopped goes on as if nothing had happened; a signal ends a command in time, with its
exit code; damaged input is used, or skipped and counted, or refused with exit code 2 and one sentence; no command ends
with a traceback, hangs, leaves half-written files, prints numbers that JSON lacks or needs more than 2 GiB.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run
from i3d_jax.system.files import written_whole

from . import commands, ends, growth, inputs, processes, storage
from .materials import Materials
from .tried import Campaign, Tried

EXAMPLE = """\
classes:
  kill      SIGKILL of prepare, main and features at random moments, and a restart: the same bytes and metrics
  signal    Ctrl-C and SIGTERM at random moments of the same, convert, predict and study, and a restart
  storage   disks that are full, turn read-only (where a tmpfs may be mounted) or lose a file, and `ulimit -f`
  read      mutants of every kind of input, read by the functions that the commands read them with, many a second
  command   mutants given to the commands themselves
  growth    a run of thousands of steps: memory, open files, threads and the time of a step stay as they are

examples:
  python -m benchmarks.faults --minutes 30 --seed 1
  python -m benchmarks.faults --count kill=100 signal=200 read=10000 --folder faults
  python -m benchmarks.faults --replay read:1234 --seed 1

On Linux, from the checkout. It is long: nothing else should have the machine, or commands miss their time.
"""
# Says whose a folder is.
MARK = "faults.folder"
# Of the time, each class's share.
SHARES = {"kill": 0.22, "signal": 0.3, "storage": 0.1, "read": 0.15, "command": 0.15, "growth": 0.08}
# Of those read in one process, so many are asked for at once.
AT_ONCE = 600
ONE_BY_ONE: dict[str, Callable[[Campaign, int], Tried]] = {
    "kill": ends.kill,
    "signal": ends.interrupt,
    "storage": storage.strike,
    "command": commands.give,
    "growth": growth.grow,
}


def main(arguments: Sequence[str]) -> int:
    """Runs the campaign; returns 1 where a promise was broken."""
    options = _parser().parse_args(arguments)
    counts = _counts(options.count)
    replayed = _replayed(options.replay)
    folder = _own_folder(options.folder)
    processes.set_up(folder / "caches")
    campaign = Campaign(folder, options.seed, Materials(folder / "materials"), options.steps)
    began = time.monotonic()
    rows: dict[tuple[str, str], collections.Counter] = collections.defaultdict(collections.Counter)
    broken: list[dict[str, object]] = []
    if replayed:
        plan: Iterator[tuple[str, Tried]] = _numbers(campaign, replayed[0], [replayed[1]])
    else:
        plan = _by_counts(campaign, counts) if counts else _by_time(campaign, options.minutes * 60)
    for name, tried in _with_bar(plan, counts, options.minutes, replayed is not None):
        rows[name, tried.kind]["missed" if tried.missed else "tried"] += 1
        rows[name, tried.kind]["violated"] += tried.violated is not None
        if replayed:
            print(f"{tried.kind}: {tried.what}")
        if tried.violated:
            replay = f"python -m benchmarks.faults --replay {name}:{tried.number} --seed {options.seed}"
            broken.append({"class": name, **dataclasses.asdict(tried), "replay": replay})
            print(f"violated: {name}, {tried.kind}: {tried.violated}\n  {tried.what}\n  {replay}", file=sys.stderr)
        elif not replayed:
            shutil.rmtree(folder / f"{name}_{tried.number}", ignore_errors=True)
        with open(folder / "tried.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"class": name, **dataclasses.asdict(tried)}) + "\n")
        _write(folder, options.seed, time.monotonic() - began, rows, broken)
    print("\n".join(_table(rows)))
    print(f"seed {options.seed}, {(time.monotonic() - began) / 60:.0f} minutes; {folder / 'faults.json'} has the same")
    return 1 if broken else 0


def _numbers(campaign: Campaign, name: str, numbers: Sequence[int]) -> Iterator[tuple[str, Tried]]:
    if name == "read":
        yield from ((name, tried) for tried in inputs.read(campaign, numbers))
    else:
        yield from ((name, ONE_BY_ONE[name](campaign, number)) for number in numbers)


def _by_counts(campaign: Campaign, counts: dict[str, int]) -> Iterator[tuple[str, Tried]]:
    for name, count in counts.items():
        yield from _numbers(campaign, name, range(count))


def _by_time(campaign: Campaign, seconds: float) -> Iterator[tuple[str, Tried]]:
    """Goes on with the class that has had the least of its share, until the time is over."""
    spent = dict.fromkeys(SHARES, 0.0)
    next_number = {name: itertools.count() for name in SHARES}
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        name = min(SHARES, key=lambda one: spent[one] / SHARES[one])
        start = time.monotonic()
        numbers = list(itertools.islice(next_number[name], AT_ONCE if name == "read" else 1))
        yield from _numbers(campaign, name, numbers)
        spent[name] += time.monotonic() - start


def _with_bar(plan: Iterator[tuple[str, Tried]], counts: dict[str, int], minutes: float, quiet: bool):
    """Yields what a plan yields, with a progress bar: of faults where they are counted, else of minutes."""
    from tqdm import tqdm

    total = sum(counts.values()) if counts else minutes
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}]"
    with tqdm(total=total, unit="faults" if counts else "minutes", bar_format=form, disable=quiet) as bar:
        began = time.monotonic()
        for name, tried in plan:
            bar.set_description(name, refresh=False)
            done = bar.n + 1 if counts else min(minutes, (time.monotonic() - began) / 60)
            bar.update(done - bar.n)
            yield name, tried


def _table(rows: dict[tuple[str, str], collections.Counter]) -> list[str]:
    """The lines of the table; a fault that came after the end of its command counts as none."""
    lines = ["| class | of | tried | survived | violated |", "|---|---|---:|---:|---:|"]
    for (name, kind), found in sorted(rows.items()):
        tried, violated = found["tried"], found["violated"]
        lines.append(f"| {name} | {kind} | {tried} | {max(0, tried - violated)} | {violated} |")
    return lines


def _write(folder: Path, seed: int, seconds: float, rows, broken: list) -> None:
    table = [{"class": name, "of": kind, **found} for (name, kind), found in sorted(rows.items())]
    with written_whole(folder / "faults.json") as file:
        content = {"seed": seed, "seconds": round(seconds), "table": table, "violations": broken}
        file.write(json.dumps(content, indent=1).encode() + b"\n")


def _own_folder(path: Path | None) -> Path:
    """Returns the folder of the campaign; a `UserError` says that it is not its own."""
    if path is None:
        path = Path(tempfile.mkdtemp(prefix="faults_"))
        print(f"everything is written to {path}", file=sys.stderr)
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise UserError(f"--folder: a folder was expected at {path}, found something else")
    if path.exists() and any(path.iterdir()) and not (path / MARK).is_file():
        raise UserError(f"--folder: an empty folder, or one of an earlier campaign, was expected at {path}")
    path.mkdir(parents=True, exist_ok=True)
    (path / MARK).touch()
    (path / "tried.jsonl").unlink(missing_ok=True)
    # Of an earlier campaign, the materials and what is compiled stay.
    for name in ("batch", "whole", "logs_whole", *SHARES):
        for entry in path.glob(f"{name}_*"):
            shutil.rmtree(entry, ignore_errors=True)
    (path / "caches").mkdir(exist_ok=True)
    return path


def _counts(given: Sequence[str]) -> dict[str, int]:
    counts = {}
    for one in given:
        name, _, count = one.partition("=")
        if name not in SHARES or not count.isdecimal():
            raise UserError(f"--count: CLASS=N was expected, with a class of {', '.join(SHARES)}, found {one!r}")
        counts[name] = int(count)
    return counts


def _replayed(given: str | None) -> tuple[str, int] | None:
    if given is None:
        return None
    name, _, number = given.partition(":")
    if name not in SHARES or not number.isdecimal():
        raise UserError(f"--replay: CLASS:NUMBER was expected, with a class of {', '.join(SHARES)}, found {given!r}")
    return name, int(number)


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.faults", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("--seed", metavar="N", type=int, default=0, help="of everything that is drawn (default: %(default)s)")
    add("--minutes", metavar="M", type=_minutes, default=10.0, help="shared by the classes (default: %(default)g)")
    count_help = "so many faults of each class named, and none of the others, in place of --minutes"
    add("--count", metavar="CLASS=N", nargs="+", default=[], help=count_help)
    add("--replay", metavar="CLASS:NUMBER", help="try one fault again, of the same --seed, and keep what it leaves")
    folder_help = "gets all that is written: a new or empty one, or one of an earlier campaign (default: a new one)"
    add("--folder", metavar="DIR", type=Path, help=folder_help)
    add("--steps", metavar="N", type=int, default=2000, help="of the run of `growth` (default: %(default)s)")
    return parser


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise argparse.ArgumentTypeError(f"a number above 0 was expected, found {text!r}")
    return minutes


if __name__ == "__main__":
    # Its own processes are in sessions of their own: what it leaves behind at Ctrl-C it has to end.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.umask(0o022)
    run(main)
