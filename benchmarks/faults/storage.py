"""Disks that are full, turn read-only or lose files while a command works on them."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path

from .ends import verbs
from .processes import Process, run, violation
from .tried import Campaign, Tried, half_written

KINDS = ("full disk", "read-only disk", "vanished file", "limit on files", "no inodes", "slow disk")
VERBS = ("prepare", "main", "convert")
# What a new interpreter takes until its command begins.
IMPORTS_SECONDS = 6.0


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
    if kind == "slow disk":
        return _slow(campaign, number, name, folder)
    verb = verbs(campaign)[name]
    seconds, expected = verb.whole(name)
    disk = folder / "disk"
    disk.mkdir()
    most = {"prepare": 300, "main": 3000, "convert": 60_000}[name]
    size = draw.randrange(16, most) if kind == "full disk" else 1 << 20
    inodes = draw.randrange(2, {"prepare": 20, "main": 150, "convert": 40}[name]) if kind == "no inodes" else 1 << 20
    options = f"size={size}k,nr_inodes={inodes}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], capture_output=True).returncode:
        return Tried(kind=kind, number=number, what="no disk may be mounted here", missed=True)
    try:
        missed = False
        process = Process(verb.arguments(disk / "output"), folder / "logs")
        what = f"{name} on a disk of {size} kB" if kind == "full disk" else f"{name} on a disk of {inodes} inodes"
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
            _mount(f"rw,size={1 << 20}k,nr_inodes={1 << 20}", disk)
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


def _slow(campaign: Campaign, number: int, name: str, folder: Path) -> Tried:
    """Lets every fsync of a command take its time; half of the commands are killed in the middle and started again."""
    draw = campaign.draw("slow", number)
    verb = verbs(campaign)[name]
    seconds, expected = verb.whole(name)
    if (library := _slow_library(campaign.folder / "caches")) is None:
        return Tried(kind="slow disk", number=number, what="there is no C compiler here", missed=True)
    pause = draw.choice((0.05, 0.2, 1.0))
    changes = {"LD_PRELOAD": str(library), "FSYNC_MICROSECONDS": str(round(pause * 1e6))}
    output = folder / "output"
    process = Process(verb.arguments(output), folder / "logs", fresh=True, changes=changes)
    what = f"{name} with {pause} s for every fsync"
    missed = False
    if draw.random() < 0.5:
        moment = draw.uniform(0, 2 * seconds) + IMPORTS_SECONDS
        time.sleep(moment)
        missed = process.is_over()
        process.send(signal.SIGKILL)
        process.wait()
        what += f", killed after {moment:.2f} s"
        # Of a folder that is whole the second one would be refused.
        done = name == "convert" and (output / "tree").exists()
        ended = run(verb.arguments(output), folder / "logs_again") if not (missed or done) else None
    else:
        ended = process.wait()
    wrong = (ended and violation(ended, allowed=(0,))) or (None if missed else verb.wrong(output, expected))
    return Tried(kind="slow disk", number=number, what=what, violated=wrong, missed=missed)


def _slow_library(folder: Path) -> Path | None:
    """Compiles what stands before the C library's fsync, where that has not been done; None where nothing compiles."""
    library, source = folder / "slow.so", folder / "slow.c"
    if not library.exists():
        source.write_text(SLOW)
        command = ["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
        with contextlib.suppress(OSError):
            subprocess.run(command, check=False, capture_output=True)
    return library if library.exists() else None


SLOW = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static int wait_and_call(const char *name, int descriptor) {
  usleep(atoi(getenv("FSYNC_MICROSECONDS")));
  return ((int (*)(int))dlsym(RTLD_NEXT, name))(descriptor);
}

int fsync(int descriptor) { return wait_and_call("fsync", descriptor); }
int fdatasync(int descriptor) { return wait_and_call("fdatasync", descriptor); }
"""
