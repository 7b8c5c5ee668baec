"""Processes of Python that start at once: forked from one that has imported much and computed nothing.

What a command imports (JAX, Orbax, TensorFlow) takes longer than most of its tests. A process from here has its own
environment, streams, threads and devices all the same, and is killed and ends as any other.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from helpers import quick_compilation

ROOT = Path(__file__).resolve().parents[2]
# Where a process finds the package and what the tests share.
PATHS = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
# JAX and TensorFlow read these when they are imported: they are the same for all processes.
READ_BY_IMPORTS = ("JAX_", "TF_")


def reads(process, words):
    """Reads a process's standard error until the words have come."""
    seen = ""
    while words not in seen:
        read = process.stderr.read(1)
        assert read, seen
        seen += read


class Process:
    """A process in text mode, as far as tests use one what `subprocess.Popen` is.

    Attributes:
      pid: its number.
      stdout, stderr: what it writes there, to be read; None where that is not piped.
      returncode: None until it was found to have ended; -N if signal N ended it.
    """

    def __init__(self, arguments: Sequence[Any], *, env: Mapping[str, str], stdout=None, stderr=None):
        """Starts `python ARGUMENTS` (`-m MODULE …`, `-c PROGRAM …` or `SCRIPT …`) in the repository's root."""
        own = {name: value for name, value in env.items() if name.startswith(READ_BY_IMPORTS)}
        self._server = _server(tuple(sorted(own.items())))
        self.stdout, output = _stream(stdout, 1)
        self.stderr, errors = _stream(stderr, 2)
        request = {"arguments": [str(one) for one in arguments], "environment": dict(env)}
        self.pid = self._server.ask(request, [output, errors])
        self.returncode = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """Reads what it still writes and waits for its end; one that takes too long is killed."""
        with ThreadPoolExecutor(2) as readers:
            read = [readers.submit(stream.read) if stream else None for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                # Else its streams would never end.
                self.kill()
                raise
            output, errors = (one.result() if one else None for one in read)
        return output, errors

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def environment(devices: int = 1) -> dict[str, str]:
    """The environment of a process with so many devices, quick compilation, and the tests' own modules."""
    # JAX warns of proxies where it waits for others.
    own = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**own, "XLA_FLAGS": quick_compilation.flags(devices), "PYTHONPATH": PATHS}


def run(arguments: Sequence[Any], *, env: Mapping[str, str], timeout: float | None = None):
    """Runs a process to its end, as `subprocess.run` does where both streams are captured."""
    process = Process(arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def _stream(wanted, number):
    """Returns what the test reads, None for nothing, and the file descriptor that the process writes to."""
    if wanted == subprocess.PIPE:
        read, write = os.pipe()
        return open(read, encoding="utf-8"), write
    return None, os.open(os.devnull, os.O_WRONLY) if wanted == subprocess.DEVNULL else os.dup(number)


class _Server:
    """The process that all are forked from; it ends with this one."""

    def __init__(self, read_by_imports):
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(READ_BY_IMPORTS)}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore:os.fork", __file__, str(theirs.fileno())],
            cwd=ROOT,
            env={**environment, **dict(read_by_imports), "PYTHONPATH": PATHS},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._socket, self._answers = ours, ours.makefile()
        atexit.register(self._end)

    def ask(self, request: dict, descriptors: Sequence[int] = ()) -> Any:
        """Sends a request, and descriptors, which are closed here, and returns the answer."""
        # Descriptors go with the first byte that is sent after them.
        socket.send_fds(self._socket, [b"\n"], list(descriptors))
        for descriptor in descriptors:
            os.close(descriptor)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(self._answers.readline())

    def _end(self) -> None:
        """Waits for it, so that its processor time and that of its processes count as this one's."""
        self._answers.close()
        self._socket.close()
        self._process.wait()


@functools.cache
def _server(read_by_imports) -> _Server:
    return _Server(read_by_imports)


def _serve(connection: socket.socket) -> dict:
    """Forks what it is asked for; returns only in a new process, what that has been asked for."""
    while True:
        begun, descriptors, *_ = socket.recv_fds(connection, 1, 2)
        if not begun:
            sys.exit()
        line = b""
        while not line.endswith(b"\n"):
            line += connection.recv(1 << 16)
        request = json.loads(line)
        if "ended" in request:
            process, status = os.waitpid(request["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if process else None
        else:
            answer = os.fork()
            if not answer:
                connection.close()
                for number, descriptor in enumerate(descriptors, 1):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                return request
            for descriptor in descriptors:
                os.close(descriptor)
        connection.sendall(json.dumps(answer).encode() + b"\n")


def _become(request: dict) -> None:
    """Does what `python ARGUMENTS` does with this environment."""
    os.environ.clear()
    os.environ.update(request["environment"])
    kind, *rest = request["arguments"]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if kind == "-m":
        module, *arguments = rest
        sys.path[:1] = [os.getcwd(), *paths]
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        program, *arguments = rest
        sys.path[:1] = ["", *paths]
        sys.argv = ["-c", *arguments]
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[:1] = [str(Path(kind).parent), *paths]
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")


def _import_what_commands_import() -> None:
    # As `cpu_tensorflow.load` does, which besides would look for devices.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
    for name in ("tensorflow", "i3d_jax.main", "i3d_jax.study.runs", "i3d_jax.report.tensorboard"):
        importlib.import_module(name)
    # It is run, not imported.
    del sys.modules["i3d_jax.main"]
    # Else each process looks through all of that again, and copies it, when it collects garbage and when it ends.
    gc.freeze()


if __name__ == "__main__":
    _import_what_commands_import()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
