"""Windows of many videos through networks in full batches, on all local devices, while the next ones are read."""

from __future__ import annotations

import dataclasses
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from i3d_jax.clips import STREAMS
from i3d_jax.models.classifier import classify
from i3d_jax.models.network import Network
from i3d_jax.models.purpose import for_default_platform
from i3d_jax.system.errors import UserError, did_you_mean
from i3d_jax.training.partition import Devices
from i3d_jax.training.precision import HIGHEST, computed_in, of_dtype
from i3d_jax.training.step import scaled

Item = TypeVar("Item")

# Frames that an accelerator is given at a time. A CPU gains nothing by more than one window.
_FRAMES = 1024
# What is read ahead of the networks: windows, or a video's end.
_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is wanted of a network's application.

    Attributes:
      endpoint: the name of one; None for the logits; "" for what its classifiers see.
      pooled: whether an endpoint's mean is taken over all axes but the first and the last.
      steps: whether the logits, endpoint None, are followed by those of each step alone that the classifiers see:
        [1 + steps, classes] of a window.
    """

    endpoint: str | None = None
    pooled: bool = True
    steps: bool = False


class Program:
    """One network, compiled for batches of windows of one size.

    Args:
      model: the network.
      devices: of this process.
      variables: of the network, as `devices` places them.
      wanted: what is computed of each window.
      precision: as of `computed_in`.
    """

    def __init__(
        self,
        model: Network,
        devices: Devices,
        variables: Mapping[str, Any],
        wanted: Wanted,
        *,
        precision: str = HIGHEST,
    ):
        self._model, self._devices, self._variables, self._wanted = model, devices, variables, wanted
        self._precision = of_dtype(precision, model.dtype)
        self._step: Callable | None = None
        # Windows a device is given at a time, and of these, how many the network sees at once.
        self.rows, self._at_once = 0, 0

    def __call__(self, rows: Sequence[Mapping[str, np.ndarray]]) -> Callable[[], np.ndarray]:
        """Starts the computation of at most `rows` windows, uint8 [T, H, W, C] by stream.

        Returns:
          What waits for the results, float32 [len(rows), ...].
        """
        batch = {stream: np.stack([row[stream] for row in rows]) for stream in rows[0]}
        if padding := self.rows - len(rows):
            batch = {
                s: np.concatenate([own, np.zeros((padding, *own.shape[1:]), own.dtype)]) for s, own in batch.items()
            }
        batch["mask"] = np.ones(self.rows, bool)
        if self._step is None:
            step = windows_step(self._model, self._wanted, self._at_once)
            self._step = self._devices.compile_evaluation_step(step)
        with computed_in(self._precision), for_default_platform():
            results = self._step(self._variables, self._devices.shard_batch(batch))
        return lambda: self._devices.local_rows(results)[: len(rows)]

    def prepare_for(self, window: Mapping[str, np.ndarray]) -> None:
        """Chooses the size of batches by the first window, uint8 [T, H, W, C] by stream."""
        frames = max(len(pixels) for pixels in window.values())
        on_cpu = self._devices.mesh.devices.flat[0].platform == "cpu"
        self._at_once = 1 if on_cpu else max(1, _FRAMES // frames)
        self.rows = self._at_once * self._devices.count


@functools.lru_cache(maxsize=16)  # the same function for the same arguments, so that a process compiles it once
def windows_step(model: Network, wanted: Wanted, at_once: int = 1) -> Callable[[Mapping[str, Any], Mapping], jax.Array]:
    """Makes the pure function (variables, batch) -> float32 [B, ...] of windows uint8 [B, T, H, W, C] by stream.

    Args:
      model: the network.
      wanted: what is computed of each.
      at_once: windows that the network sees at a time; it divides B. With one, what comes of a window does not depend,
        to the last bit, on those beside it.
    """

    def step(variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
        clips = {stream: batch[stream] for stream in STREAMS if stream in batch}
        grouped = {stream: own.reshape(-1, at_once, *own.shape[1:]) for stream, own in clips.items()}

        def of_group(group: Mapping[str, jax.Array]) -> jax.Array:
            applied: Any = model.apply(variables, {stream: scaled(pixels) for stream, pixels in group.items()})
            if wanted.steps:
                return with_steps(model, variables, *applied)
            return chosen(model, wanted, *applied)

        results = jax.lax.map(of_group, grouped)
        return results.reshape(-1, *results.shape[2:])

    return step


def chosen(model: Network, wanted: Wanted, logits: jax.Array, endpoints: Mapping[str, jax.Array]) -> jax.Array:
    """Returns what is wanted of an application to a batch of windows, float32 [B, ...]."""
    if wanted.endpoint is None:
        return logits
    if wanted.endpoint:
        if wanted.endpoint not in endpoints:
            known = [name for name, values in endpoints.items() if values.ndim > 1]
            raise UserError(
                f"the network has no endpoint {wanted.endpoint!r}{did_you_mean(wanted.endpoint, known)}; it has "
                f"{', '.join(known)}"
            )
        values = endpoints[wanted.endpoint]
    else:
        values = jnp.concatenate(list(model.classifier_inputs(endpoints).values()), axis=-1)
    values = values.astype(jnp.float32)
    return values.mean(tuple(range(1, values.ndim - 1))) if wanted.pooled and values.ndim > 2 else values


def with_steps(
    model: Network, variables: Mapping[str, Any], logits: jax.Array, endpoints: Mapping[str, jax.Array]
) -> jax.Array:
    """Returns float32 [B, 1 + n, classes]: the logits, and behind them those of each step as if it were alone."""
    seen = model.classifier_inputs(endpoints)
    [(batch, steps)] = {values.shape[:2] for values in seen.values()}
    alone = {scope: values.reshape(batch * steps, 1, -1) for scope, values in seen.items()}
    of_steps, _ = classify(model, variables["params"], alone)
    return jnp.concatenate([logits[:, None], of_steps.reshape(batch, steps, -1)], axis=1)


def ahead(items: Iterable[Item], most: int = _AHEAD) -> Generator[Item]:
    """Yields what an iterable gives, which is asked for in a thread of its own, at most `most` ahead."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(most)
    left = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not left.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, name="reading", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        left.set()
        thread.join()


class _Waiting:
    """An item whose results are not all there yet."""

    def __init__(self, item: Any, networks: int):
        self.item = item
        self.results: list[list[np.ndarray | None]] = [[] for _ in range(networks)]
        self.missing = 0


def computed(
    programs: Sequence[Program], items: Iterable[Item], rows_of: Callable[[Item], Sequence[Sequence[Mapping]]]
) -> Iterator[tuple[Item, list[np.ndarray]]]:
    """Yields every item with what each network computes of its windows, in order.

    Args:
      programs: the networks.
      items: windows, and what else comes between them.
      rows_of: takes an item and returns for each network its windows, uint8 [T, H, W, C] by stream; none for an item
        that is no window.

    Yields:
      (the item, for each network float32 [windows, ...], of no windows [0]).
    """
    waiting: deque[_Waiting] = deque()
    gathered: list[list[tuple[Mapping, _Waiting, int]]] = [[] for _ in programs]
    running: deque[tuple[Callable[[], np.ndarray], int, list[tuple[_Waiting, int]]]] = deque()

    def start(number: int) -> None:
        batch = gathered[number][: programs[number].rows]
        del gathered[number][: programs[number].rows]
        if batch:
            results = programs[number]([row for row, _, _ in batch])
            running.append((results, number, [(of, place) for _, of, place in batch]))

    def finish() -> None:
        results, number, places = running.popleft()
        for result, (of, place) in zip(results(), places, strict=True):
            of.results[number][place] = np.asarray(result)
            of.missing -= 1

    def done() -> Iterator[tuple[Item, list[np.ndarray]]]:
        while waiting and not waiting[0].missing:
            one = waiting.popleft()
            yield one.item, [np.stack(own) if own else np.zeros(0, np.float32) for own in one.results]  # type: ignore[arg-type]

    for item in items:
        one = _Waiting(item, len(programs))
        waiting.append(one)
        for number, rows in enumerate(rows_of(item)):
            for row in rows:
                if not programs[number].rows:
                    programs[number].prepare_for(row)
                gathered[number].append((row, one, len(one.results[number])))
                one.results[number].append(None)
                one.missing += 1
            while gathered[number] and len(gathered[number]) >= programs[number].rows:
                start(number)
        # One batch of each network is computed while the next is gathered.
        while len(running) > len(programs):
            finish()
        yield from done()
    for number in range(len(programs)):
        while gathered[number]:
            start(number)
    while running:
        finish()
        yield from done()
    yield from done()
