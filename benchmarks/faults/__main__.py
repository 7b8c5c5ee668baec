"""A campaign of faults: kills, signals, failing storage, damaged inputs and long runs against the commands.

The promises: what is killed or stopped goes on as if nothing had happened; a signal ends a command in time, with its
exit code; damaged input is used, or skipped and counted, or refused with exit code 2 and one sentence; no command ends
with a traceback, hangs, leaves half-written files, prints numbers that JSON lacks or needs more than 2 GiB.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from i3d_jax.system import lock
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run
from i3d_jax.system.progress import Bar

from . import commands, ends, growth, hosts, inputs, processes, record, storage
from .materials import Materials
from .tried import Campaign, Tried

EXAMPLE = """\
classes:
  kill      SIGKILL of prepare, main and features at random moments, and a restart: the same bytes and metrics
  signal    Ctrl-C and SIGTERM at random moments of the same, convert, predict and study, inside compilations,
            evaluations and checkpoints of main and to two processes of a run, and a restart
  storage   disks that are full, out of inodes or turn read-only (where a tmpfs may be mounted), lose a file or are slow
            (where there is a C compiler), and `ulimit -f`
  read      mutants of every kind of input, read by the functions that the commands read them with, many a second
  command   mutants given to the commands themselves
  hosts     one of two or four processes of a run is killed, stopped or cut off from the others, and a restart
  growth    a run of thousands of steps: memory, open files, threads and the time of a step stay as they are

examples:
  python -m benchmarks.faults --minutes 30 --seed 1
  python -m benchmarks.faults --count kill=100 signal=200 read=10000 --folder faults
  python -m benchmarks.faults --count kill=100 signal=200 read=10000 --folder faults --minutes 60 --resume
  python -m benchmarks.faults --table faults
  python -m benchmarks.faults --replay read:1234 --seed 1

On Linux, from the checkout. It is long: nothing else should have the machine, or commands miss their time.
"""
# Says whose a folder is.
MARK = "faults.folder"
# Of the time, each class's share.
SHARES = {
    "kill": 0.2, "signal": 0.25, "storage": 0.1, "read": 0.15, "command": 0.15, "hosts": 0.08, "growth": 0.07,
}  # fmt: skip
USUAL_MINUTES = 10
# Of those read in one process, so many are asked for at once.
AT_ONCE = 600
ONE_BY_ONE: dict[str, Callable[[Campaign, int], Tried]] = {
    "kill": ends.kill,
    "signal": ends.interrupt,
    "storage": storage.strike,
    "command": commands.give,
    "hosts": hosts.strike,
    "growth": growth.grow,
}


def main(arguments: Sequence[str]) -> int:
    """Runs the campaign; returns 1 where a promise was broken."""
    options = _parser().parse_args(arguments)
    if options.table:
        return _tell([line for folder in options.table for line in record.read(folder)])
    counts = _counts(options.count)
    replayed = _replayed(options.replay)
    folder, before = _own_folder(options)
    # Two campaigns there would remove each other's files.
    with lock.held(folder):
        _make_room(folder, kept=options.resume or replayed is not None)
        return _run(options, counts, replayed, folder, before)


def _run(
    options: argparse.Namespace,
    counts: dict[str, int],
    replayed: tuple[str, int] | None,
    folder: Path,
    before: Sequence[dict[str, Any]],
) -> int:
    minutes = options.minutes or (None if counts else USUAL_MINUTES)
    processes.set_up(folder / "caches")
    campaign = Campaign(folder, options.seed, Materials(folder / "materials"), options.steps)
    if replayed:
        return _try_again(campaign, *replayed)
    kept = record.Record(folder, options.seed, before)
    done = {name: kept.numbers(name) for name in SHARES}
    began = time.monotonic()
    missing = {name: [number for number in range(count) if number not in done[name]] for name, count in counts.items()}
    plan = _by_numbers(campaign, missing) if counts else _by_time(campaign, done)
    for name, tried in _with_bar(plan, sum(map(len, missing.values())) if counts else None, minutes):
        again = kept.add(name, tried)
        if tried.violated:
            print(f"violated: {name}, {tried.kind}: {tried.violated}\n  {tried.what}\n  {again}", file=sys.stderr)
        else:
            shutil.rmtree(folder / f"{name}_{tried.number}", ignore_errors=True)
        kept.write(time.monotonic() - began)
    print("\n".join(record.table(kept.lines)))
    print(f"seed {options.seed}, {(time.monotonic() - began) / 60:.0f} minutes; {folder / record.WHOLE} has the same")
    return 1 if kept.violations else 0


def _try_again(campaign: Campaign, name: str, number: int) -> int:
    """Tries one fault, and keeps what it leaves; the record of the folder's campaign stays as it is."""
    [(_, tried)] = _numbers(campaign, name, [number])
    print(f"{name}, {tried.kind}: {tried.what}" + (" (missed: it came after the end)" if tried.missed else ""))
    print(f"violated: {tried.violated}" if tried.violated else "no promise was broken")
    return 1 if tried.violated else 0


def _tell(lines: Sequence[dict[str, Any]]) -> int:
    print("\n".join(record.table(lines)))
    for line in lines:
        if line["violated"]:
            print(f"\n{record.replay(line)}\n  {line['kind']}: {line['what']}\n  {line['violated']}")
    return 0


def _numbers(campaign: Campaign, name: str, numbers: Sequence[int]) -> Generator[tuple[str, Tried]]:
    if name == "read":
        yield from ((name, tried) for tried in inputs.read(campaign, numbers))
        return
    for number in numbers:
        # A fault that was cut short, or is tried again, has left something.
        shutil.rmtree(campaign.folder / f"{name}_{number}", ignore_errors=True)
        yield name, ONE_BY_ONE[name](campaign, number)


def _by_numbers(campaign: Campaign, wanted: dict[str, list[int]]) -> Generator[tuple[str, Tried]]:
    for name, numbers in wanted.items():
        yield from _numbers(campaign, name, numbers)


def _by_time(campaign: Campaign, done: dict[str, set[int]]) -> Generator[tuple[str, Tried]]:
    """Goes on without end, with the class that has had the least of its share."""
    spent = dict.fromkeys(SHARES, 0.0)
    rest = {name: (number for number in itertools.count() if number not in done[name]) for name in SHARES}
    while True:
        name = min(SHARES, key=lambda one: spent[one] / SHARES[one])
        start = time.monotonic()
        numbers = list(itertools.islice(rest[name], AT_ONCE if name == "read" else 1))
        yield from _numbers(campaign, name, numbers)
        spent[name] += time.monotonic() - start


def _with_bar(plan: Generator[tuple[str, Tried]], count: int | None, minutes: float | None):
    """Yields what a plan yields until the time is over, with a progress bar: of faults if counted, else of minutes."""
    if count is not None:
        bar = Bar("trying", total=count, unit="faults")
    else:
        bar = Bar("trying", total=minutes, unit="minutes", rate_of="faults")
    began = time.monotonic()
    # What it has begun is ended with it.
    with bar, contextlib.closing(plan):
        for number, one in enumerate(plan, 1):
            spent = (time.monotonic() - began) / 60
            if count is not None:
                bar.add()
            else:
                bar.to(min(minutes, spent), faults=number)
            yield one
            if minutes is not None and spent > minutes:
                return


def _own_folder(options: argparse.Namespace) -> tuple[Path, list[dict[str, Any]]]:
    """Returns the folder of the campaign, and the record to resume.

    Raises:
      UserError: it is not its own, or there is nothing to resume.
    """
    path = options.folder
    if path is None:
        if options.resume:
            raise UserError("--resume needs the --folder of the campaign that it resumes")
        path = Path(tempfile.mkdtemp(prefix="faults_"))
        print(f"everything is written to {path}", file=sys.stderr)
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise UserError(f"--folder: a folder was expected at {path}, found something else")
    if path.exists() and any(path.iterdir()) and not (path / MARK).is_file():
        raise UserError(f"--folder: an empty folder, or one of an earlier campaign, was expected at {path}")
    before = record.read(path) if options.resume else []
    if seeds := {line["seed"] for line in before} - {options.seed}:
        raise UserError(f"--resume: the campaign at {path} has --seed {seeds.pop()}, found {options.seed}")
    path.mkdir(parents=True, exist_ok=True)
    (path / MARK).touch()
    return path, before


def _make_room(folder: Path, *, kept: bool) -> None:
    """Removes what an earlier campaign has left, but its materials, what is compiled and, where kept, its faults."""
    for name in ("batch", "whole", "logs_whole", *(() if kept else SHARES)):
        for entry in folder.glob(f"{name}_*"):
            shutil.rmtree(entry, ignore_errors=True)
    (folder / "caches").mkdir(exist_ok=True)


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
    minutes_help = f"shared by the classes (default: {USUAL_MINUTES}); with --count an end, whatever is missing then"
    add("--minutes", metavar="M", type=_minutes, help=minutes_help)
    count_help = "so many faults of each class named, one class after the other, and none of the others"
    add("--count", metavar="CLASS=N", nargs="+", default=[], help=count_help)
    resume_help = (
        "go on with the campaign of --folder, of the same --seed: what was tried there counts, and is not again"
    )
    add("--resume", action="store_true", help=resume_help)
    table_help = "print the table of these campaigns together, in Markdown, and their violations; try nothing"
    add("--table", metavar="DIR", nargs="+", type=Path, help=table_help)
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
    os.umask(0o022)
    processes.begin()
    # Its own processes are in sessions of their own: what it leaves behind at Ctrl-C it has to end.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    run(main)
