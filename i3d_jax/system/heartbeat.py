"""Several processes of one run notice that one of them is stopped or cut off, and end with a sentence that names it.

JAX notices too, and ends the others by SIGABRT with a stack of C++; here it is the last resort. A thread of each
process meets those of all others at a barrier every few seconds. One that is killed closes its connections, which the
others may notice before (`cluster.explained`); one that is stopped, or behind a broken network, keeps them open.
"""

from __future__ import annotations

import os
import re
import threading
import time

import jax
import orbax.checkpoint as ocp

from i3d_jax.system import signals

# So many times in the seconds after which a process that is not heard of counts as gone.
_BEATS = 6
# The coordinator's end ends the others at once: it goes last.
_COORDINATOR_STAYS_SECONDS = 3
# A meeting fails as soon as the connection is closed.
_STOPPING_SECONDS = 10

# The exit code of a process that is about to leave by itself, and has said why.
_leaving: int | None = None
_parted = threading.Event()


def watch(seconds: float) -> None:
    """Ends this process from now on, with exit code 1 and one sentence, when another is not heard of for so long."""
    heart = _Heart(seconds)
    for work in (heart.beat, heart.watch):
        threading.Thread(target=work, name=f"heartbeat {work.__name__}", daemon=True).start()


def leave(code: int) -> None:
    """Says that this process leaves by itself with an exit code: who does not come any more only ends its patience."""
    global _leaving
    _leaving = code


def stop() -> None:
    """Ends the meetings, after `jax.distributed.shutdown`.

    Python ends a thread that comes back from the library after the interpreter's end, through frames of C++ that do not
    bear it: SIGABRT.
    """
    _parted.set()
    for thread in threading.enumerate():
        if thread.name.startswith("heartbeat"):
            thread.join(_STOPPING_SECONDS)


class _Heart:
    def __init__(self, seconds: float):
        self._seconds = seconds
        self._met = time.monotonic()
        self._reason = ""

    def beat(self) -> None:
        """Meets the others until that fails."""
        barrier = ocp.multihost.get_barrier_sync_fn()
        try:
            while not _parted.is_set():
                barrier(key="i3d_jax heartbeat", timeout_ms=int(self._seconds * 1000))
                self._met = time.monotonic()
                _parted.wait(self._seconds / _BEATS)
        except RuntimeError as error:
            self._reason = str(error)

    def watch(self) -> None:
        """Ends the process when the others have not been met for too long: also where the barrier never answers."""
        while time.monotonic() - self._met < (1 + 1 / _BEATS) * self._seconds + 1:
            if _parted.wait(self._seconds / 100):
                return
        if jax.process_index() == 0:
            time.sleep(_COORDINATOR_STAYS_SECONDS)
        if _leaving is None:
            signals.tell(
                f"error: process {jax.process_index()} of {jax.process_count()} stops, because {missing(self._reason)} "
                f"has not been heard of for {self._seconds:g} s: it is stopped, or cut off from the others; training "
                "that is started again goes on from its newest checkpoint"
            )
        os._exit(1 if _leaving is None else _leaving)


def missing(reason: str) -> str:
    """Says who did not come to a barrier, by what the coordinator says of it, or "" where that does not answer."""
    listed = re.search(r"timed out task names:\s*((?:\S*?\d+\s+)+)", f"{reason}\n")
    if listed:
        numbers = re.findall(r"(\d+)\s", listed[1])
        return f"process {numbers[0]}" + (f" (of {len(numbers)} that are missing)" if len(numbers) > 1 else "")
    return "another one" if reason else "process 0, which all meet at,"
