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
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# What bounds the memory when one item takes much longer than the rest: items begun and not yet handed on, for each
# process, and the bytes of results that wait for their turn, above which no item is begun.
ITEMS_AHEAD = 4
MOST_WAITING = 2**30

# The processes are the parallelism: where each of two computes with JAX on both cores, both take half as long again.
ONE_THREAD = {"NPROC": "1"}


class Workers:
    """Processes beside this one that a function is sent to; a context manager that ends them.

    A process that dies costs the item that killed it, and is replaced.

    Args:
      processes: how many.
      environment: variables that they have besides this process's.
    """

    def __init__(self, processes: int, environment: Mapping[str, str] = ONE_THREAD):
        self._environment = environment
        # Open in this process alone: where it closes, the processes end.
        self._watched, self._held = multiprocessing.get_context("spawn").Pipe(duplex=False)
        # One pool for each process: when it breaks, there is no doubt about which item broke it.
        self._idle = [self._new_pool() for _ in range(processes)]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        for pool in self._idle:
            pool.shutdown(wait=False, cancel_futures=True)
        self._held.close()
        self._watched.close()

    def in_order(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        crashed: Callable[[Item], Result],
        weigh: Callable[[Result], int] = lambda result: 0,
    ) -> Generator[Result, None, None]:
        """Yields `function(item)` for every item, in the order of the items.

        Args:
          function: picklable, as are the items and results.
          items: what to do; taken as processes become free.
          crashed: gives the result of an item that killed its process twice.
          weigh: the bytes of a result.

        Raises:
          BrokenProcessPool: processes die before they have begun anything.
          Exception: what `function` raises, when its item's turn comes or earlier.
        """
        numbered = enumerate(items)
        processes = len(self._idle)
        running: dict[Future[Result], tuple[int, Item, ProcessPoolExecutor]] = {}
        retried: set[int] = set()
        results: dict[int, Result] = {}
        begun = yielded = 0
        try:
            while True:
                room = min(len(self._idle), yielded + ITEMS_AHEAD * processes - begun)
                if sum(map(weigh, results.values())) > MOST_WAITING:
                    room = 0
                for number, item in itertools.islice(numbered, room):
                    pool = self._idle.pop()
                    running[pool.submit(function, item)] = number, item, pool
                    begun += 1
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number, item, pool = running.pop(future)
                    try:
                        results[number] = future.result()
                    except BrokenProcessPool:
                        pool = self._new_pool()
                        if number not in retried:
                            # It may have been killed for something else, such as all processes' memory.
                            retried.add(number)
                            running[pool.submit(function, item)] = number, item, pool
                            continue
                        pool.submit(os.getpid).result()  # Raises if it is not the item but every process that dies.
                        results[number] = crashed(item)
                    except Exception:
                        self._idle.append(pool)
                        raise
                    self._idle.append(pool)
                del future  # It holds the result, which may be large.
                while yielded in results:
                    yield results.pop(yielded)
                    yielded += 1
        finally:
            self._idle += [pool for _, _, pool in running.values()]

    def _new_pool(self) -> ProcessPoolExecutor:
        # Spawned, since a fork of a process with threads (TensorFlow's, a progress bar's) can hang.
        context = multiprocessing.get_context("spawn")
        given = (dict(self._environment), self._watched)
        return ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=given)


def in_order(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    processes: int,
    crashed: Callable[[Item], Result],
    isolated: bool = False,
    weigh: Callable[[Result], int] = lambda result: 0,
    environment: Mapping[str, str] = ONE_THREAD,
) -> Generator[Result, None, None]:
    """Yields what `Workers.in_order` does; of one process, unless it is to be `isolated`, in this very one."""
    if processes == 1 and not isolated:
        yield from map(function, items)
        return
    with Workers(max(1, min(processes, len(items))), environment) as workers:
        yield from workers.in_order(function, items, crashed=crashed, weigh=weigh)


def _start(environment: Mapping[str, str], watched: multiprocessing.connection.Connection) -> None:
    """Prepares a worker process: an interrupt is its parent's to handle, and it must not outlive its parent's need."""
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
