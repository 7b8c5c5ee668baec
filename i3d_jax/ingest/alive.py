"""Whether any of Beam's workers is alive, which not every runner tells: the local ones wait for a dead one for ever.

While a worker is at work, a file in the folder that all see changes every few seconds. Whoever started the pipeline
looks at it, and ends when it has stood still for too long.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from i3d_jax.system import files, signals

NAME = ".alive"
SECONDS = 5.0
# Cancelling asks a server, which may be what has died.
_CANCELLING_SECONDS = 10


class Sign:
    """A worker's sign of life in a folder; picklable, as whoever starts the pipeline makes it."""

    def __init__(self, folder: Path):
        self._path = folder / NAME
        self._seconds = SECONDS
        self._seen: bytes | None = None
        self._looked = -math.inf

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Changes the file about every `SECONDS` during the block, where no other worker has done so."""
        ended = threading.Event()

        def show() -> None:
            while True:
                if time.monotonic() - self._looked >= self._seconds:
                    # The work meets the same folder, and tells what is wrong with it.
                    with contextlib.suppress(Exception):
                        self._show()
                if ended.wait(self._seconds):
                    return

        thread = threading.Thread(target=show, name="alive", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _show(self) -> None:
        self._looked = time.monotonic()
        found = _content(self._path)
        # Of many workers one writes: servers limit how often an object is written.
        if found == self._seen:
            found = secrets.token_hex(8).encode()
            with files.written_whole(self._path) as file:
                file.write(found)
        self._seen = found


@contextlib.contextmanager
def watched(folder: Path, *, most_seconds: float, from_now: bool, cancel: Callable[[], object]) -> Iterator[None]:
    """Ends this process, with one sentence and exit code 1, when no worker shows itself for too long during the block.

    Args:
      folder: that the workers show themselves in; nothing of that is left in it after the block.
      most_seconds: without a sign that are borne.
      from_now: whether they count from now on, instead of from the first sign on.
      cancel: tells the runner to end the pipeline.
    """
    path, ended, given_up = folder / NAME, threading.Event(), threading.Event()

    def watch() -> None:
        seen, still, counting = None, 0.0, from_now
        # Counted by looks, not by the clock: a machine that slept has not looked either.
        while not ended.wait(SECONDS):
            found = seen
            # A bucket that does not answer, for one, says nothing of the workers.
            with contextlib.suppress(Exception):
                found = _content(path)
            counting |= found is not None
            still = still + SECONDS if counting and found == seen else 0.0
            seen = found
            if still >= most_seconds:
                given_up.set()
                _give_up(still, cancel)

    remove(folder)
    watcher = threading.Thread(target=watch, name="watched", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        if given_up.is_set():
            # The cancelled pipeline ends the block, and would be told for the reason.
            watcher.join()
        # Left there it harms nobody, and must not hide what has happened.
        with contextlib.suppress(Exception):
            remove(folder)


def remove(folder: Path) -> None:
    """Removes what signs of life leave in a folder."""
    for path in files.files_in(folder):
        if path.name.partition(".tmp-")[0] == NAME:
            path.unlink(missing_ok=True)


def _give_up(seconds: float, cancel: Callable[[], object]) -> None:
    canceller = threading.Thread(target=cancel, daemon=True)
    canceller.start()
    canceller.join(_CANCELLING_SECONDS)
    signals.tell(
        f"error: no worker of Beam's has shown itself for {seconds:g} s: the last were killed or cut off, and the "
        "runner neither says so nor replaces them; what they have finished stays; start again to go on"
    )
    os._exit(1)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if files.is_file(path) else None
