"""A function over many items in several processes, the results in order; a process that dies costs one item at most."""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items begun and not yet handed on, for each process: bounds the memory when one item takes much longer than the rest.
ITEMS_AHEAD = 4


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    processes: int,
    crashed: Callable[[Item], Result],
) -> Iterator[Result]:
    """Yields `function(item)` for every item, in the order of the items.

    Args:
      function: picklable, as are the items and results.
      items: what to do; taken as processes become free.
      processes: 1 for this process alone; more for that many others.
      crashed: gives the result of an item that killed its process twice (with more than one process).

    Raises:
      BrokenProcessPool: processes die before they have begun anything.
      Exception: what `function` raises, when its item's turn comes or earlier.
    """
    if processes == 1:
        yield from map(function, items)
        return
    numbered = enumerate(items)
    # One pool for each process: when it breaks, there is no doubt about which item broke it.
    idle = [_new_pool() for _ in range(processes)]
    running: dict[Future[Result], tuple[int, Item, ProcessPoolExecutor]] = {}
    retried: set[int] = set()
    results: dict[int, Result] = {}
    begun = yielded = 0
    try:
        while True:
            room = min(len(idle), yielded + ITEMS_AHEAD * processes - begun)
            for number, item in itertools.islice(numbered, room):
                pool = idle.pop()
                running[pool.submit(function, item)] = number, item, pool
                begun += 1
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, item, pool = running.pop(future)
                try:
                    results[number] = future.result()
                except BrokenProcessPool:
                    pool = _new_pool()
                    if number not in retried:
                        # It may have been killed for something else, such as all processes' memory.
                        retried.add(number)
                        running[pool.submit(function, item)] = number, item, pool
                        continue
                    pool.submit(os.getpid).result()  # Raises if it is not the item but every process that dies.
                    results[number] = crashed(item)
                idle.append(pool)
            while yielded in results:
                yield results.pop(yielded)
                yielded += 1
    finally:
        for pool in [*idle, *(pool for _, _, pool in running.values())]:
            pool.shutdown(wait=False, cancel_futures=True)


def _new_pool() -> ProcessPoolExecutor:
    # Spawned, since a fork of a process with threads (TensorFlow's, a progress bar's) can hang.
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start)


def _start() -> None:
    """Prepares a worker process: an interrupt is its parent's to handle, and it must not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
