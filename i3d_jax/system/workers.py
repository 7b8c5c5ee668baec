"""A function over many items in several processes, the results in order; a process that dies costs one item at most."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# What bounds the memory when one item takes much longer than the rest: items begun and not yet handed on, for each
# process, and the bytes of results that wait for their turn, above which no item is begun.
ITEMS_AHEAD = 4
MOST_WAITING = 2**30

# How often, in seconds, what the processes tell of the items that they are at is looked at.
LOOK_SECONDS = 0.1
# Of an item: the share of it that is done, and two counts of the caller's own meaning.
_TOLD = 3

# Python's processes inherit it on their command lines.
_OF_THE_TRACKER = "ignore:resource_tracker:UserWarning"

# The processes are the parallelism: where each of two computes with JAX on both cores, both take half as long again.
ONE_THREAD = {"NPROC": "1"}

# Is given the items done, begun ones by their share, and the sums of the two counts.
Watch = Callable[[float, int, int], None]


def _nobody(share: float, first: int, second: int) -> None:
    """Hears nothing."""


# Who hears what is told of the item that this process is at.
_hears: Watch = _nobody


def tell(share: float, first: int, second: int) -> None:
    """Says how far the item is that this process is at; it never waits, and costs less than a microsecond or two.

    Args:
      share: of it, 0 to 1.
      first, second: how many of two things of the caller's own meaning it has given so far.
    """
    _hears(share, first, second)


class Workers:
    """Processes beside this one that a function is sent to; a context manager that ends them.

    A process that dies costs the item that killed it, and is replaced.

    Args:
      processes: how many.
      environment: variables that they have besides this process's.
    """

    def __init__(self, processes: int, environment: Mapping[str, str] = ONE_THREAD):
        self._environment = environment
        # At Ctrl-C a process of Python's own removes what is left of them: what it says of that is noise.
        if _OF_THE_TRACKER not in sys.warnoptions:
            sys.warnoptions.append(_OF_THE_TRACKER)
        # Open in this process alone: where it closes, the processes end.
        self._watched, self._held = multiprocessing.get_context("spawn").Pipe(duplex=False)
        # One pool for each process: when it breaks, there is no doubt about which item broke it. Beside it what its
        # process tells: memory that both see, so that nobody waits for anybody and a killed process leaves no harm.
        self._idle = [_Worker(self._new_pool(told), told) for told in (_new_told() for _ in range(processes))]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        for worker in self._idle:
            worker.pool.shutdown(wait=False, cancel_futures=True)
        self._held.close()
        self._watched.close()

    def in_order(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        crashed: Callable[[Item], Result],
        weigh: Callable[[Result], int] = lambda result: 0,
        watch: Watch | None = None,
    ) -> Generator[Result, None, None]:
        """Yields `function(item)` for every item, in the order of the items.

        Args:
          function: picklable, as are the items and results.
          items: what to do; taken as processes become free.
          crashed: gives the result of an item that killed its process twice.
          weigh: the bytes of a result.
          watch: is called again and again while results are waited for; None for nobody.

        Raises:
          BrokenProcessPool: processes die before they have begun anything.
          Exception: what `function` raises, when its item's turn comes or earlier.
        """
        numbered = enumerate(items)
        processes = len(self._idle)
        running: dict[Future[Result], tuple[int, Item, _Worker]] = {}
        retried: set[int] = set()
        results: dict[int, Result] = {}
        begun = yielded = 0
        standing = _Standing(watch)
        try:
            while True:
                room = min(len(self._idle), yielded + ITEMS_AHEAD * processes - begun)
                if sum(map(weigh, results.values())) > MOST_WAITING:
                    room = 0
                for number, item in itertools.islice(numbered, room):
                    worker = self._idle.pop()
                    running[worker.pool.submit(function, item)] = number, item, worker
                    begun += 1
                if not running:
                    standing.show()
                    return
                for future in self._wait(running, standing):
                    number, item, worker = running.pop(future)
                    try:
                        results[number] = future.result()
                    except BrokenProcessPool:
                        worker.told[:] = [0] * _TOLD
                        worker = _Worker(self._new_pool(worker.told), worker.told)
                        if number not in retried:
                            # It may have been killed for something else, such as all processes' memory.
                            retried.add(number)
                            running[worker.pool.submit(function, item)] = number, item, worker
                            continue
                        worker.pool.submit(os.getpid).result()  # Raises if every process dies, whatever the item.
                        results[number] = crashed(item)
                    except Exception:
                        self._idle.append(worker)
                        raise
                    standing.end(worker.told)
                    worker.told[:] = [0] * _TOLD
                    self._idle.append(worker)
                del future  # It holds the result, which may be large.
                while yielded in results:
                    yield results.pop(yielded)
                    yielded += 1
        finally:
            self._idle += [worker for _, _, worker in running.values()]

    @staticmethod
    def _wait(running: Mapping[Future[Result], tuple[int, Item, _Worker]], standing: _Standing) -> set[Future[Result]]:
        """Waits until some have ended, and shows how all stand in the meantime."""
        while True:
            ended = wait(running, LOOK_SECONDS if standing.is_watched else None, return_when=FIRST_COMPLETED).done
            standing.show([worker.told for _, _, worker in running.values()])
            if ended:
                return ended

    def _new_pool(self, told: Any) -> ProcessPoolExecutor:
        # Spawned, since a fork of a process with threads (TensorFlow's, a progress bar's) can hang.
        context = multiprocessing.get_context("spawn")
        given = (dict(self._environment), self._watched, told)
        return ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=given)


class _Worker(NamedTuple):
    """A process, and what it tells of its item."""

    pool: ProcessPoolExecutor
    told: Any


def _new_told() -> Any:
    return multiprocessing.get_context("spawn").RawArray("d", _TOLD)


class _Standing:
    """How all items together stand."""

    def __init__(self, watch: Watch | None):
        self._watch = watch
        self._ended, self._first, self._second = 0, 0, 0

    @property
    def is_watched(self) -> bool:
        """Whether anybody looks."""
        return self._watch is not None

    def end(self, told: Sequence[float]) -> None:
        """Counts an item that has ended, with the last that was told of it."""
        self._ended += 1
        self._first += int(told[1])
        self._second += int(told[2])

    def show(self, running: Iterable[Sequence[float]] = ()) -> None:
        """Shows the items that have ended and those under way, of each of which this was told."""
        if self._watch is not None:
            share, first, second = (sum(own) for own in zip((0.0, 0, 0), *running, strict=True))
            self._watch(self._ended + share, self._first + int(first), self._second + int(second))


def in_order(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    processes: int,
    crashed: Callable[[Item], Result],
    isolated: bool = False,
    weigh: Callable[[Result], int] = lambda result: 0,
    watch: Watch | None = None,
    environment: Mapping[str, str] = ONE_THREAD,
) -> Generator[Result, None, None]:
    """Yields what `Workers.in_order` does; of one process, unless it is to be `isolated`, in this very one."""
    if processes == 1 and not isolated:
        yield from _here(function, items, watch)
        return
    with Workers(max(1, min(processes, len(items))), environment) as workers:
        yield from workers.in_order(function, items, crashed=crashed, weigh=weigh, watch=watch)


def _here(
    function: Callable[[Item], Result], items: Iterable[Item], watch: Watch | None
) -> Generator[Result, None, None]:
    """Yields `function(item)` for every item, computed in this process."""
    global _hears
    standing = _Standing(watch)
    for item in items:
        told: tuple[float, int, int] = (0, 0, 0)

        def hear(share: float, first: int, second: int) -> None:
            nonlocal told
            told = share, first, second
            standing.show([told])

        _hears = hear
        try:
            result = function(item)
        finally:
            _hears = _nobody
        standing.end(told)
        standing.show()
        yield result


def _start(environment: Mapping[str, str], watched: multiprocessing.connection.Connection, told: Any) -> None:
    """Prepares a worker process: an interrupt is its parent's to handle, and it must not outlive its parent's need."""
    global _hears

    def hear(*numbers: float) -> None:
        told[:] = numbers

    _hears = hear
    os.environ.update(environment)
    # The program's main module has been imported before this, and with it JAX, which reads its platforms then.
    if "jax" in sys.modules and "JAX_PLATFORMS" in environment:
        sys.modules["jax"].config.update("jax_platforms", environment["JAX_PLATFORMS"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_after_parent, args=(watched,), daemon=True).start()


def _leave_after_parent(watched: multiprocessing.connection.Connection) -> None:
    parent = multiprocessing.parent_process()
    multiprocessing.connection.wait([watched] if parent is None else [parent.sentinel, watched])
    os._exit(1)


def leave_after(process: int) -> None:
    """Ends this process, which may be no child of that one, soon after the process of that number has ended."""

    def watch() -> None:
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "pidfd_open"):
                # Ready even if nobody has asked yet how the process ended.
                multiprocessing.connection.wait([os.pidfd_open(process)])
            else:
                while True:
                    os.kill(process, 0)
                    time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
