"""Two processes of this machine, of two devices each, that are told of each other."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator

from helpers import forked
from helpers.ports import free_address


@contextlib.contextmanager
def starting() -> Iterator[Callable]:
    """Yields what starts `python ARGUMENTS` twice, each with arguments of its own besides; all end with it."""
    environment = forked.environment(devices=2)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = []

    def start(*arguments, each=((), ())):
        address = free_address()
        for process, own in enumerate(each):
            flags = ["--coordinator", address, "--num_processes", "2", "--process_id", str(process), *own]
            started.append(forked.Process([*arguments, *flags], env=environment, **pipes))
        return started[-2:]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()


def ended(process, timeout=300):
    """The exit code of a process, what it printed and what it complained of."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors
