"""Commands as processes that are watched: how they end, how long they take, what they say and the memory they need."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from . import zygote

ROOT = Path(__file__).resolve().parents[2]
# What any input of 10 MB may need at the most.
MOST_BYTES = 2 << 30
# What takes longer hangs, on a quiet machine.
LIMIT_SECONDS = 240.0
# Of commands.
XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=1"
TRACEBACK = "Traceback (most recent call last)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended.

    Attributes:
      code: its exit code, -N if signal N ended it; None if it took longer than the limit and was killed.
      seconds: from its start.
      output, errors: what it wrote.
      peak_bytes: of memory.
    """

    code: int | None
    seconds: float
    output: str
    errors: str
    peak_bytes: int


class Process:
    """A command at work, in a session of its own."""

    def __init__(
        self,
        arguments: Sequence[str],
        logs: Path,
        *,
        fresh: bool = False,
        program: Sequence[str] = (sys.executable,),
        changes: Mapping[str, str] | None = None,
    ):
        """Starts `python ARGUMENTS` in the checkout.

        Args:
          arguments: "-m", a module and its arguments, or "-c" and a program.
          logs: a folder for what it writes.
          fresh: whether it is a new interpreter, not a fork of one that has imported everything.
          program: what is started in the place of a new interpreter.
          changes: of the environment.
        """
        surroundings = {**environment(), **(changes or {})}
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._paths = [logs / name for name in ("output", "errors")]
        self.began = time.monotonic()
        self._answer: tuple[int, int] | None = None
        self._own: subprocess.Popen | None = None
        self._peak_bytes = 0
        if fresh:
            with open(self._paths[0], "wb") as output, open(self._paths[1], "wb") as errors:
                self._own = subprocess.Popen(
                    [*program, *arguments],
                    cwd=ROOT,
                    env=surroundings,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
            self.pid = self._own.pid
        else:
            output, errors = map(str, self._paths)
            request = {"arguments": list(arguments), "folder": str(ROOT), "environment": surroundings}
            self.pid = _ask({**request, "output": output, "errors": errors})

    def is_over(self) -> bool:
        """Says whether it has ended."""
        if self._answer is None and self._own is not None:
            self._peak_bytes = max(self._peak_bytes, _peak_bytes(self.pid))
            if (code := self._own.poll()) is not None:
                self._answer = (code, self._peak_bytes)
        elif self._answer is None and (answer := _ask({"ended": self.pid})) is not None:
            self._answer = tuple(answer)
        return self._answer is not None

    def lines(self) -> Iterator[str]:
        """Yields the lines of its output as it writes them, to its end."""
        rest, place = b"", 0
        while True:
            over = self.is_over()
            if self._paths[0].exists():
                with open(self._paths[0], "rb") as file:
                    file.seek(place)
                    new = file.read()
                place += len(new)
                *whole, rest = (rest + new).split(b"\n")
                yield from (line.decode(errors="backslashreplace") for line in whole)
            if over:
                return
            time.sleep(0.05)

    def says(self, words: str, limit: float = LIMIT_SECONDS) -> bool:
        """Waits until it has written these words on either stream; False where it ends, or time is over, before."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            over = self.is_over()
            if any(words in path.read_text(errors="replace") for path in self._paths if path.exists()):
                return True
            if over:
                return False
            time.sleep(0.01)
        return False

    def send(self, number: int) -> None:
        """Sends it a signal, and those that it has started too for SIGKILL; nothing happens where it has ended."""
        if not self.is_over():
            if number == signal.SIGKILL:
                self._kill_session()
            else:
                os.kill(self.pid, number)

    def _kill_session(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            # Before it has a session of its own, its group is that of the one it was forked from.
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, limit: float = LIMIT_SECONDS) -> Ended:
        """Waits for its end; kills it where that takes more than so many seconds, of a quiet machine, from now on."""
        deadline = time.monotonic() + limit * slowness()
        hangs = False
        while not self.is_over():
            if time.monotonic() > deadline and not hangs:
                hangs = True
                self._kill_session()
            time.sleep(0.01)
        seconds = time.monotonic() - self.began
        output, errors = (path.read_text(errors="backslashreplace") if path.exists() else "" for path in self._paths)
        assert self._answer is not None
        code, peak = self._answer
        return Ended(code=None if hangs else code, seconds=seconds, output=output, errors=errors, peak_bytes=peak)


def _peak_bytes(pid: int) -> int:
    """Reads the most memory that a process at work has had so far; 0 for one that has ended.

    Not from its resource usage: Linux counts what this process held as the new one's, until that calls exec.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def run(arguments: Sequence[str], logs: Path) -> Ended:
    """Runs `python ARGUMENTS` to its end; see `Process`."""
    return Process(arguments, logs).wait()


def slowness() -> float:
    """How many times longer everything may take, with other work on the cores."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def violation(ended: Ended, *, allowed: Sequence[int] = (0, 2)) -> str | None:
    """Says in what way a process broke its promise; None for one that kept it.

    The promise: its code is one of those allowed; after 2 its last words are one sentence; no traceback, no hang, and
    no more than 2 GiB.
    """
    last = " ".join(ended.errors.split())[-300:]
    if ended.code is None:
        return f"it hung, for {ended.seconds:.0f} s: {last}"
    if TRACEBACK in ended.errors + ended.output:
        return f"exit code {ended.code} with a traceback: {last}"
    if ended.code not in allowed:
        return f"exit code {ended.code}: {last}"
    lines = ended.errors.strip().splitlines()
    if ended.code == 2 and not (lines and lines[-1].startswith("error: ")):
        return f"exit code 2 without a sentence that begins with 'error:' at its end: {last}"
    if ended.peak_bytes > MOST_BYTES:
        return f"it needed {ended.peak_bytes / 1e9:.1f} GB"
    return None


def environment() -> dict[str, str]:
    """The environment of every command: one CPU device, quick compilation and caches in the campaign's folder."""
    return dict(_environment)


def set_up(caches: Path) -> None:
    """Says where commands keep their caches, and that they hear Ctrl-C; to be called once, before the first."""
    # In the background of a shell's script Ctrl-C is ignored, and whatever is started from there would ignore it, too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    _environment.update(
        os.environ,
        JAX_PLATFORMS="cpu",
        TF_CPP_MIN_LOG_LEVEL="2",
        # With flags of whoever starts it: of two of a name the last one counts.
        XLA_FLAGS=" ".join([XLA_FLAGS, os.environ.get("XLA_FLAGS", "")]),
        XDG_CACHE_HOME=str(caches),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        TMPDIR=str(caches),
        PYTHONPATH=os.pathsep.join(paths),
    )
    _environment.pop("JAX_COMPILATION_CACHE_DIR", None)


_environment: dict[str, str] = {}


def begin() -> None:
    """Splits off the process that commands are forked from; to be called once, before there is any thread.

    It ends with this one.
    """
    global _connection
    _connection, theirs = socket.socketpair()
    if not os.fork():
        _connection.close()
        # Ctrl-C is the campaign's to tell, and commands hear it as those of a new interpreter do (`set_up`).
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        zygote.become(zygote.serve(theirs))
        sys.exit()
    theirs.close()


def _ask(request: dict[str, Any]) -> Any:
    assert _connection is not None, "begin() comes before the first process that is not a fresh one"
    _connection.sendall(json.dumps(request).encode() + b"\n")
    return json.loads(_answers().readline())


@functools.cache
def _answers() -> IO[str]:
    assert _connection is not None
    return _connection.makefile()


_connection: socket.socket | None = None
