"""A trace of some training steps: what the host and the devices did when, for XProf, TensorBoard or Perfetto."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax

from i3d_jax.system.copies import made_on_this_machine
from i3d_jax.system.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfiledSteps:
    """The steps to trace.

    Attributes:
      first_step: the first of them (1 is a run's first), None for no trace.
      steps: how many.
      total_steps: the last step of the run.
    """

    first_step: int | None
    steps: int
    total_steps: int

    def __post_init__(self):
        if self.steps < 1:
            raise UserError(f"profile.steps must be at least 1, found {self.steps}")
        if self.first_step is not None and not 1 <= self.first_step <= self.total_steps - self.steps + 1:
            raise UserError(
                f"profile.first_step must be at least 1 and leave room for {self.steps} steps up to total_steps "
                f"{self.total_steps}, found {self.first_step}"
            )


class Profile:
    """Wraps the training step so that some calls of it are traced; a context manager that ends a trace left open.

    The trace covers all that happens from the first of the steps until the devices have finished the last. Each step
    stands in it as an event `train` with its `step_num`. Of several processes the first is traced.
    """

    def __init__(self, directory: Path, traced: ProfiledSteps, *, first_step: int, say: Callable[[str], None]):
        """Names where the trace goes and which steps are in it.

        Args:
          directory: gets `plugins/profile/TIME/` with the trace, as TensorBoard expects it.
          traced: which steps.
          first_step: the number of the first step that will be taken.
          say: gets a line on where the trace is, or why there is none.
        """
        self.directory = directory
        self._begin, self._end = traced.first_step, (traced.first_step or 0) + traced.steps - 1
        self._number = first_step
        self._say = say
        self._running = False
        self._written = contextlib.ExitStack()

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *exception) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            self._written.close()
            self._say(f"a trace of the steps from {self._begin} to {self._number - 1} is in {self.directory}")

    def around(self, step: Callable) -> Callable:
        """Returns a function that does what `step` does, and traces the steps that are to be traced."""
        if self._begin is None or jax.process_index() > 0:
            return step
        if self._number > self._begin:
            self._say(f"no trace is written: profile.first_step is {self._begin}, this run goes on with {self._number}")
            return step

        def traced(*arguments):
            number, self._number = self._number, self._number + 1
            if number == self._begin:
                folder = self._written.enter_context(made_on_this_machine(self.directory))
                jax.profiler.start_trace(folder, create_perfetto_trace=True)
                self._running = True
            with jax.profiler.StepTraceAnnotation("train", step_num=number):
                result = step(*arguments)
            if number == self._end:
                jax.block_until_ready(result)
                self._stop()
            return result

        return traced
