"""One of several processes of a run is killed, stopped or cut off: the others end in time, and the run goes on."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .processes import TRACEBACK, Process, slowness, violation
from .tried import Campaign, Tried, differences, outcome_of_run

KINDS = ("killed", "stopped", "cut off")
COUNTS = (2, 4)
STEPS = 16
# What docs/several_devices.md promises: after how many seconds the others end, and launch/local.sh those that do not.
OTHERS_SECONDS, LAUNCHER_SECONDS = 75.0, 100.0
# Of the two hosts that are connected by nothing but one cable.
ADDRESSES = ("10.77.0.1", "10.77.0.2")
_SENTENCE = re.compile(r"error: process \d of \d stops, because")
# What JAX says when the coordinator's process is killed, before it ends the others by SIGABRT.
_OF_JAX = "another task died"


def launch(arguments: Sequence[str], count: int, logs: Path) -> tuple[Process, int]:
    """Starts `python -m i3d_jax.main ARGUMENTS` as several processes by launch/local.sh, and returns their port too."""
    port = free_port()
    flags = ["launch/local.sh", "--processes", str(count), "--port", str(port)]
    program = ("bash", *flags)
    return Process(arguments, logs, fresh=True, program=program, changes={"PYTHON": sys.executable}), port


def free_port() -> int:
    """A port of this machine that nobody listens at, below those that the system gives to whoever asks for any."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("localhost", port)):
            return port


def arguments_of_main(campaign: Campaign, workdir: Path) -> list[str]:
    """The arguments of a `main` that any number of processes may share, without the module."""
    _, _, *arguments = campaign.materials.main_arguments(workdir, steps=STEPS)
    return [*arguments, "--config.batch_size=4"]


def members(port: int) -> dict[int, int]:
    """The processes of a run by their numbers: those that live and meet at a port."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if any(word.endswith(f":{port}") for word in words) and "--process_id" in words and _lives(path.parent):
                found[int(words[words.index("--process_id") + 1])] = int(path.parent.name)
    return found


def _lives(process: Path) -> bool:
    return (process / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"


def strike(campaign: Campaign, number: int) -> Tried:
    """Takes one process from a run: the others end with a sentence and in time, and the run ends well in the end."""
    draw = campaign.draw("hosts", number)
    kind, count = KINDS[number % len(KINDS)], COUNTS[number // len(KINDS) % len(COUNTS)]
    name = f"{kind}, one of {count}"
    which, step, pause = draw.randrange(count), draw.randrange(1, STEPS - 4), draw.uniform(0, 0.3)
    expected = _whole(campaign, count)
    folder = campaign.folder / f"hosts_{number}"
    workdir = folder / "output"
    arguments = arguments_of_main(campaign, workdir)
    what = f"process {which} {kind} after step {step}"
    try:
        if kind == "cut off":
            if not _makes_networks():
                return Tried(kind=name, number=number, what="no network of its own may be made here", missed=True)
            wrong, told = _cut_off(arguments, folder, count, which, (workdir, step, pause))
        else:
            wrong, told = _taken(kind, arguments, folder, count, which, (workdir, step, pause))
    except _Missed:
        return Tried(kind=name, number=number, what=what, missed=True)
    if wrong is None:
        again, _ = launch(arguments, count, folder / "logs_again")
        ended = again.wait()
        wrong = violation(ended, allowed=(0,)) or differences(outcome_of_run(workdir), expected)
        wrong = f"started again: {wrong}" if wrong else None
    return Tried(kind=name, number=number, what=f"{what}: {told}", violated=wrong)


class _Missed(Exception):
    """The run was over before its process could be taken."""


_wholes: dict[int, dict[str, bytes]] = {}


def _whole(campaign: Campaign, count: int) -> dict[str, bytes]:
    """What a run of so many processes has that nothing interrupts."""
    if count not in _wholes:
        output = campaign.folder / f"whole_{count}_processes"
        process, _ = launch(arguments_of_main(campaign, output), count, campaign.folder / f"logs_whole_{count}")
        ended = process.wait()
        if ended.code != 0:
            raise RuntimeError(f"{count} processes do not end well without a fault: {ended.errors[-2000:]}")
        _wholes[count] = outcome_of_run(output)
    return _wholes[count]


def _await_step(process: Process, workdir: Path, step: int, pause: float) -> None:
    path = workdir / "metrics.jsonl"
    while not (path.exists() and path.read_bytes().count(b"\n") >= step):
        if process.is_over():
            raise _Missed
        time.sleep(0.02)
    time.sleep(pause)


def _taken(
    kind: str, arguments: list[str], folder: Path, count: int, which: int, moment: tuple[Path, int, float]
) -> tuple[str | None, str]:
    """Kills or stops one of those that launch/local.sh has started; returns what is wrong and what was seen."""
    launcher, port = launch(arguments, count, folder / "logs")
    _await_step(launcher, *moment)
    if len(running := members(port)) < count:
        launcher.wait()
        raise _Missed
    os.kill(running[which], signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
    took = seconds_until(lambda: members(port).keys() <= {which}, OTHERS_SECONDS * 2)
    ended = launcher.wait(LAUNCHER_SECONDS * 2)
    all_took = time.monotonic() - launcher.began
    left = members(port)
    for pid in left.values():
        os.kill(pid, signal.SIGKILL)
    codes = {"killed": [128 + signal.SIGKILL, 1, *([128 + signal.SIGABRT] if which == 0 else [])], "stopped": [1]}[kind]
    told = f"the others ended after {took:.0f} s, launch/local.sh with {ended.code} {all_took:.0f} s after its start"
    sentences = len(_SENTENCE.findall(ended.errors))
    # Where process 0 is killed, JAX may be quicker than our sentence.
    aborted = kind == "killed" and which == 0 and _OF_JAX in ended.errors
    wrong = _late(took)
    if left:
        wrong = f"launch/local.sh leaves processes {sorted(left)}"
    elif TRACEBACK in ended.errors:
        wrong = f"a traceback: {ended.errors[-300:]}"
    elif ended.code not in codes:
        wrong = f"launch/local.sh ended with {ended.code}, not one of {codes}: {ended.errors[-300:]}"
    elif sentences < count - 1 and not aborted:
        wrong = f"{sentences} sentences of {count - 1} others: {ended.errors[-500:]}"
    return wrong, told


def _cut_off(
    arguments: list[str], folder: Path, count: int, which: int, moment: tuple[Path, int, float]
) -> tuple[str | None, str]:
    """Cuts the cable between one process and the others; all of them have to end."""
    with _two_hosts(folder) as (enters, cut):
        # The first host has all but one.
        host = [int(number == which) for number in range(count)]
        coordinator = f"{ADDRESSES[host[0]]}:{free_port()}"
        processes = []
        for number in range(count):
            flags = ["--coordinator", coordinator, "--num_processes", str(count), "--process_id", str(number)]
            program = (*enters[host[number]], sys.executable, "-m", "i3d_jax.main")
            logs = folder / f"logs_{number}"
            processes.append(Process([*arguments, *flags], logs, fresh=True, program=program))
        _await_step(processes[0], *moment)
        if any(process.is_over() for process in processes):
            for process in processes:
                process.wait()
            raise _Missed
        cut()
        took = seconds_until(lambda: all(process.is_over() for process in processes), OTHERS_SECONDS * 2)
        ended = [process.wait(1) for process in processes]
    told = f"all ended after {took:.0f} s with {', '.join(str(one.code) for one in ended)}"
    for number, one in enumerate(ended):
        last = " ".join(one.errors.split())[-300:]
        if one.code != 1 or TRACEBACK in one.errors or len(_SENTENCE.findall(one.errors)) != 1:
            return f"process {number} ended with {one.code}, not 1 and one sentence: {last}", told
    return _late(took), told


def seconds_until(condition: Callable[[], bool], limit: float) -> float:
    """Waits until something holds, or for so many seconds, and returns how long that was."""
    began = time.monotonic()
    while not condition() and time.monotonic() - began < limit:
        time.sleep(0.1)
    return time.monotonic() - began


def _late(took: float) -> str | None:
    # For what is said and closed at the end, two seconds.
    limit = OTHERS_SECONDS + 2 * slowness()
    return f"the others ended after {took:.0f} s, later than {limit:.0f} s" if took > limit else None


def _makes_networks() -> bool:
    tools = ("ip", "nsenter")
    makes = ["unshare", "--net", "--uts", "--mount", "true"]
    with contextlib.suppress(OSError):
        there = [subprocess.run([tool, "-V"], capture_output=True).returncode == 0 for tool in tools]
        return all(there) and subprocess.run(makes, capture_output=True).returncode == 0
    return False


@contextlib.contextmanager
def _two_hosts(folder: Path) -> Iterator[tuple[list[list[str]], Callable[[], None]]]:
    """Makes two hosts of namespaces, with a cable; yields what a program is started with on each, and what cuts it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = folder / "hosts"
    # By its name a process finds the address that it tells the others.
    names.write_text("127.0.0.1 localhost\n" + "".join(f"{one} host{n}\n" for n, one in enumerate(ADDRESSES)))
    holders = []
    try:
        for number in range(2):
            set_up = f"hostname host{number} && mount --bind {names} /etc/hosts && echo made && exec sleep infinity"
            holder = subprocess.Popen(
                ["unshare", "--net", "--uts", "--mount", "sh", "-c", set_up], stdout=subprocess.PIPE, text=True
            )
            holders.append(holder)
            if holder.stdout.readline() != "made\n":
                raise RuntimeError("a namespace of network, name and mounts could not be set up")
        enters = [["nsenter", "--target", str(one.pid), "--net", "--uts", "--mount"] for one in holders]
        _do(*enters[0], "ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable2")
        _do(*enters[0], "ip", "link", "set", "cable2", "netns", str(holders[1].pid))
        for enter, end, address in zip(enters, ("cable", "cable2"), ADDRESSES, strict=True):
            _do(*enter, "ip", "address", "add", f"{address}/24", "dev", end)
            for link in (end, "lo"):
                _do(*enter, "ip", "link", "set", link, "up")
        yield enters, lambda: _do(*enters[0], "ip", "link", "set", "cable", "down")
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
