"""SIGTERM, by which schedulers and clouds say that they are about to take the machine: stop, and keep what there is."""

from __future__ import annotations

import itertools
import os
import signal

import jax
from jax.experimental import multihost_utils

from i3d_jax.system import signals
from i3d_jax.system.errors import Stopped


class Termination:
    """What a training run does when it is told to end; a context manager, entered in the main thread.

    Before the loop there is nothing to save: `Stopped` is raised on the spot. Once `in_loop` is called, the loop asks
    after every step whether it was the last.

    Where `jax.distributed` is initialised, JAX has taken SIGTERM over; its processes agree on the step after which all
    of them stop, whichever of them was told to. Before the loop, or without one, they do so `between` batches.
    """

    # Counted over all runs of the process: what JAX agrees on is a number that only rises.
    _steps = itertools.count(1)

    def __init__(self):
        self._several = jax.distributed.is_initialized()
        self._in_loop = False
        self._told = False

    def __enter__(self) -> Termination:
        if not self._several:
            self._before = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        if not self._several:
            signals.hold_sigterm(False)
            signal.signal(signal.SIGTERM, self._before)

    def _handle(self, number: int, frame) -> None:
        if not self._in_loop:
            signals.raised(number)
        if not self._told:
            # Not by print, which may be at work where the signal arrived.
            os.write(2, b"SIGTERM: the run is being saved\n")
        self._told = True

    def in_loop(self) -> None:
        """From now on SIGTERM no longer raises, and `stops_after` answers for it."""
        self._in_loop = True
        if not self._several:
            signals.hold_sigterm(True)

    @property
    def told(self) -> bool:
        """Whether SIGTERM has come since the loop began; of several processes, whether they have agreed to stop."""
        return self._told

    def between(self) -> None:
        """Raises `Stopped` if several processes have agreed to stop; to be called by all, before each batch of work.

        One process alone is stopped at once.
        """
        if self._several and not self._in_loop and self.stops_after():
            raise Stopped(signals.sentence(signal.SIGTERM))

    def stops_after(self) -> bool:
        """Says whether the step that was just taken is the last; to be asked after every step, by every process."""
        if self._several and multihost_utils.reached_preemption_sync_point(next(self._steps)):
            self._told = True
        return self._told
