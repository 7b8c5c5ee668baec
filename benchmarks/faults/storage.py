"""Disks that are full, turn read-only or lose files while a command works on them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

from .ends import verbs
from .processes import Process, run, violation
from .tried import Campaign, Tried, half_written

KINDS = ("full disk", "read-only disk", "vanished file", "limit on files")
VERBS = ("prepare", "main", "convert")


def strike(campaign: Campaign, number: int) -> Tried:
    """Lets storage fail under a command: it ends with one sentence, and well once there is room again."""
    draw = campaign.draw("storage", number)
    kind, name = KINDS[number % len(KINDS)], VERBS[number // len(KINDS) % len(VERBS)]
    folder = campaign.folder / f"storage_{number}"
    folder.mkdir(parents=True)
    if kind == "vanished file":
        return _vanish(campaign, number, folder)
    if kind == "limit on files":
        return _limit(campaign, number, name, folder)
    verb = verbs(campaign)[name]
    seconds, expected = verb.whole(name)
    disk = folder / "disk"
    disk.mkdir()
    most = {"prepare": 300, "main": 3000, "convert": 60_000}[name]
    size = draw.randrange(16, most) if kind == "full disk" else 1 << 20
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", disk], capture_output=True).returncode:
        return Tried(kind=kind, number=number, what="no disk may be mounted here", missed=True)
    try:
        missed = False
        process = Process(verb.arguments(disk / "output"), folder / "logs")
        what = f"{name} on a disk of {size} kB"
        if kind == "read-only disk":
            # Refused while a file is open for writing, as the lock of a workdir is: mostly it comes before that.
            moment = draw.choice((0.0, 0.1, draw.uniform(0, seconds)))
            time.sleep(moment)
            what = f"{name} on a disk that turns read-only after {moment:.2f} s"
            while (busy := _mount("ro", disk)) and not process.is_over():
                time.sleep(0.02)
            missed = bool(busy) or process.is_over()
        ended = process.wait()
        wrong = violation(ended)
        if wrong is None:
            _mount(f"rw,size={1 << 20}k", disk)
            again = run(verb.arguments(disk / "output"), folder / "logs_again")
            done = name == "convert" and ended.code == 0
            wrong = None if done else violation(again, allowed=(0,))
            wrong = wrong or verb.wrong(disk / "output", expected)
            if wrong is None and half_written(disk):
                wrong = f"half-written: {half_written(disk)[:3]}"
            wrong = f"with room again: {wrong}" if wrong else None
    finally:
        subprocess.run(["umount", "-l", disk], check=False, capture_output=True)
    what = f"{what}: exit code {ended.code}"
    return Tried(kind=kind, number=number, what=what, violated=wrong, missed=missed)


def _mount(options: str, disk: Path) -> int:
    return subprocess.run(["mount", "-o", f"remount,{options}", disk], capture_output=True).returncode


def _vanish(campaign: Campaign, number: int, folder: Path) -> Tried:
    """Removes a file that `main` reads, or has written, while it works."""
    draw = campaign.draw("vanish", number)
    materials = campaign.materials
    seconds, _ = verbs(campaign)["main"].whole("main")
    dataset, workdir = folder / "dataset", folder / "output"
    shutil.copytree(materials.dataset(), dataset)
    process = Process(materials.main_arguments(workdir, dataset), folder / "logs")
    moment = draw.uniform(0, seconds)
    time.sleep(moment)
    there = [*dataset.rglob("*.tfrecord"), *dataset.rglob("*.json"), *workdir.glob("*.json*"), *workdir.glob("checkp*")]
    victim = draw.choice(sorted(there))
    missed = process.is_over()
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink(missing_ok=True)
    ended = process.wait()
    what = f"main without {victim.relative_to(folder)} after {moment:.2f} s: exit code {ended.code}"
    return Tried(kind="vanished file", number=number, what=what, violated=violation(ended), missed=missed)


def _limit(campaign: Campaign, number: int, name: str, folder: Path) -> Tried:
    """Runs a command with a limit on the size of files, as `ulimit -f` sets it."""
    draw = campaign.draw("limit", number)
    verb = verbs(campaign)[name]
    verb.whole(name)
    size = draw.randrange(4, {"prepare": 60, "main": 300, "convert": 50_000}[name]) << 10
    _, module, *arguments = verb.arguments(folder / "output")
    program = (
        "import resource, runpy, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        f"sys.argv[1:] = {arguments!r}\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    ended = run(["-c", program], folder / "logs")
    wrong = violation(ended, allowed=(0, 2, -signal.SIGXFSZ))
    what = f"{name} with files of at most {size} bytes: exit code {ended.code}"
    return Tried(kind="limit on files", number=number, what=what, violated=wrong)
