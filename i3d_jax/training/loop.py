"""The training loop: it receives iterators and functions, and knows neither files nor TensorFlow."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax

from i3d_jax.system.errors import UserError
from i3d_jax.training.metrics import Sums, add, means
from i3d_jax.training.optimizer import Plateau, after_evaluation
from i3d_jax.training.state import TrainState

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cadence:
    """How long and how often, in steps.

    Attributes:
      total_steps: training ends after so many.
      log_every: steps between two lines of the log.
      evaluate_every: steps between two evaluations; 0: at the end only.
      checkpoint_every: steps between two checkpoints; each evaluation is followed by one.
    """

    total_steps: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int

    def __post_init__(self):
        keys = {
            "total_steps": self.total_steps,
            "log_every": self.log_every,
            "checkpoints.every": self.checkpoint_every,
        }
        for key, steps in keys.items():
            if steps < 1:
                raise UserError(f"{key} must be at least 1, found {steps}")
        if self.evaluate_every < 0:
            raise UserError(f"evaluation.every must be at least 0, found {self.evaluate_every}")

    def evaluates(self, step: int) -> bool:
        """Says whether there is an evaluation after `step`."""
        return step == self.total_steps or self.evaluates_in_turn(step)

    def evaluates_in_turn(self, step: int) -> bool:
        """Says whether there is one even if training goes on: only these may change what is computed."""
        return self.evaluate_every > 0 and step % self.evaluate_every == 0

    def checkpoints(self, step: int) -> bool:
        """Says whether there is a checkpoint after `step`."""
        return self.evaluates(step) or step % self.checkpoint_every == 0

    def logs(self, step: int) -> bool:
        """Says whether there is a line after `step`; a checkpoint has one, so that a resumed run has the same lines."""
        return self.checkpoints(step) or step % self.log_every == 0


class CheckpointWriter(Protocol):
    """Where checkpoints go: a run's own (`run.retention`), or a test's stand-in."""

    def save(self, state: TrainState, metrics: Mapping[str, float] | None) -> None:
        """Keeps a state, with the figures of its evaluation if there was one."""

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the figures of its evaluation to a state that was kept without them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A training step, and the two ways between a state as it takes it and one as it is evaluated and kept.

    Attributes:
      take: (state, batch) -> (state, metrics as sums and counts), asynchronous.
      replicate: from a state as it is evaluated, kept and returned to one as `take` has it.
      merge_replicas: the way back (both: `partition.Devices`).
    """

    take: Callable[[TrainState, Batch], tuple[TrainState, Sums]]
    replicate: Callable[[TrainState], TrainState] = lambda state: state
    merge_replicas: Callable[[TrainState], TrainState] = lambda state: state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What the loop calls on its way.

    Attributes:
      evaluate: state -> figures; "top1" is what the best checkpoint is chosen by, "loss" what the schedule "plateau"
        sees. With another schedule it may raise `EvaluationStopped`: then the state is kept without figures, and is the
        last.
      checkpoints: keeps states, of finite loss and gradient only.
      write: (step, split, values), for the log.
      interrupted: called with the number of every step taken; when it says so, that step is the last. It is logged,
        kept and, if its turn has come, evaluated, so that a run which goes on from it is the uninterrupted one (but for
        what `Step.merge_replicas` changes).
    """

    evaluate: Callable[[TrainState], Mapping[str, float]]
    checkpoints: CheckpointWriter
    write: Callable[[int, str, Mapping[str, float]], None]
    interrupted: Callable[[int], bool] = lambda number: False


class EvaluationStopped(Exception):
    """What `evaluate` raises where it is told to end before its time."""


class NonFinite(UserError):
    """The loss or the gradient was not a finite number."""


def train(
    state: TrainState,
    batches: Iterator[Batch],
    *,
    step: Step,
    cadence: Cadence,
    learning_rate: Callable[[int], float],
    callbacks: Callbacks,
    plateau: Plateau | None = None,
    evaluation_due: bool = False,
) -> TrainState:
    """Trains from `state` to the last step, or to the one after which it is interrupted or `plateau` ends it.

    Args:
      state: where to begin; its memory is used again.
      batches: endless; the first is that of the state's next step.
      step: of the training.
      cadence: how long and how often.
      learning_rate: step (0 is the first) to rate, without `plateau`, for the log only.
      callbacks: what is called on the way.
      plateau: changes the state's own of that name after each evaluation in turn (`optimizer.make_plateau`).
      evaluation_due: whether `state` was kept without the figures of an evaluation whose turn had come: it is first.

    Returns:
      The state after the last step taken.

    Raises:
      NonFinite: at the first step whose loss or gradient is not finite; the checkpoints before it stay.
    """
    interval = _LogInterval(cadence.total_steps)
    unread: list[tuple[int, Sums]] = []

    def read_metrics(*, of_all_but: int) -> None:
        """Reads the metrics of the steps taken, which waits for the devices."""
        while len(unread) > of_all_but:
            number, metrics = unread.pop(0)
            interval.add(number, jax.device_get(metrics))

    if evaluation_due:
        try:
            callbacks.checkpoints.note(int(state.step), callbacks.evaluate(state))
        except EvaluationStopped:
            return state
    if _ended(plateau, state):
        return state
    state = step.replicate(state)
    for number in range(int(state.step) + 1, cadence.total_steps + 1):
        with interval.waiting():
            batch = next(batches)
        state, metrics = step.take(state, batch)
        unread.append((number, metrics))
        # One step stays unread, so that the devices are never idle while the host looks at figures.
        read_metrics(of_all_but=1)
        last = callbacks.interrupted(number)
        if not (last or cadence.logs(number)):
            continue
        read_metrics(of_all_but=0)
        rate = float(learning_rate(number - 1) * state.rate_scale)
        callbacks.write(number, "train", interval.end(number, rate))
        figures = None
        saves = last or cadence.checkpoints(number)
        if saves:
            state = step.merge_replicas(state)
        if cadence.evaluates(number):
            try:
                figures = callbacks.evaluate(state)
            except EvaluationStopped:
                last = True
            else:
                if plateau is not None and cadence.evaluates_in_turn(number):
                    state = state.replace(plateau=after_evaluation(plateau, state.plateau, figures["loss"]))
                    last = last or _ended(plateau, state)
            interval.restart_clock()
        if saves:
            callbacks.checkpoints.save(state, figures)
            if last:
                return state
            state = step.replicate(state)
    return step.merge_replicas(state)


def _ended(plateau: Plateau | None, state: TrainState) -> bool:
    return plateau is not None and plateau.ends(float(state.rate_scale))


class _LogInterval:
    """The steps since the last line of the log: their metrics and their time."""

    def __init__(self, total_steps: int):
        self._total_steps = total_steps
        self._sums: Sums = {}
        # The first step of a run compiles: its time says nothing of the speed.
        self._compiling = True
        self._timed_steps = self._timed_clips = 0
        self._waited = 0.0
        self._started = time.perf_counter()

    def waiting(self) -> _Wait:
        """Times what runs within as waiting for data."""
        return _Wait(self)

    def add(self, number: int, metrics: Sums) -> None:
        """Adds a step's metrics; raises `NonFinite` if they are not finite."""
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(metrics[name][0]):
                raise NonFinite(
                    f"the {name.replace('_', ' ')} of step {number} is {float(metrics[name][0])}: training stopped and "
                    "the checkpoints before it are kept; a lower learning rate is the usual remedy"
                )
        self._sums = add(self._sums, metrics)
        if self._compiling:
            self._compiling = False
            self.restart_clock()
        else:
            self._timed_steps += 1
            self._timed_clips += int(metrics["loss"][1])

    def waited(self, seconds: float) -> None:
        """Counts seconds spent waiting for data."""
        self._waited += seconds

    def restart_clock(self) -> None:
        """Leaves what was just done, a compilation or an evaluation, out of the speed."""
        self._timed_steps = self._timed_clips = 0
        self._waited = 0.0
        self._started = time.perf_counter()

    def end(self, number: int, learning_rate: float) -> dict[str, float]:
        """Returns the means over the interval and the speed, and begins a new one."""
        values = {**means(self._sums), "learning_rate": learning_rate}
        if self._timed_steps:
            seconds = max(time.perf_counter() - self._started, 1e-9)
            values["clips_per_second"] = self._timed_clips / seconds
            values["data_wait_share"] = self._waited / seconds
            values["seconds_left"] = (self._total_steps - number) * seconds / self._timed_steps
        self._sums = {}
        self.restart_clock()
        return values


class _Wait:
    def __init__(self, interval: _LogInterval):
        self._interval = interval

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *exception) -> None:
        self._interval.waited(time.perf_counter() - self._began)
