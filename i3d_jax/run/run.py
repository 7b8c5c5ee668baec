"""What a run is made of, once its recipe is resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from i3d_jax import checkpoint
from i3d_jax.data.dataset import Dataset
from i3d_jax.models.network import Network
from i3d_jax.models.purpose import for_default_platform
from i3d_jax.run.evaluate import Evaluation, evaluate
from i3d_jax.run.initial_weights import InitialWeights
from i3d_jax.run.retention import Checkpoints
from i3d_jax.run.training_clips import TrainingClips
from i3d_jax.system import hosts
from i3d_jax.training.loop import Cadence
from i3d_jax.training.optimizer import Plateau
from i3d_jax.training.partition import Devices
from i3d_jax.training.profile import ProfiledSteps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
    """How parameters are changed.

    Attributes:
      optimizer: of the whole network's parameters.
      schedule: step (0 is the first) to learning rate.
      plateau: what lowers the rate when the validation loss no longer falls (`optimizer.make_plateau`), or None.
      averages: whether an exponential moving average of the parameters is kept, evaluated and published.
      rates: the learning rates in words.
    """

    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    plateau: Plateau | None
    averages: bool
    rates: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A recipe in its workdir, resolved; `run.build` makes it.

    Attributes:
      began: when `build` was called, by `time.perf_counter`: the drawing of a dataset is part of a run's time.
      workdir: where the run is kept.
      resolved: the configuration as JSON, for `config.json`.
      network: what is trained.
      dataset: what the clips are from.
      description: what the run's checkpoints say of themselves.
      devices: what computes.
      initial: what a run that has no checkpoint starts from.
      seed: of the initial variables.
      frames: of a training clip.
      clips: what is trained on.
      optimization: how parameters are changed.
      make_step: makes the training step of (a network or its classifiers, an optimizer).
      cadence: how long and how often.
      profiled: the steps to trace.
      evaluation: what scores the run's networks.
      checkpoints: which of them are kept, and where.
      draws_its_data: whether the dataset is the embedded one, whose videos stand in the workdir.
      reports: whether the run ends with `report.html` in its workdir.
    """

    began: float
    workdir: Path
    resolved: str
    network: Network
    dataset: Dataset
    description: checkpoint.Description
    devices: Devices
    initial: InitialWeights
    seed: int
    frames: int
    clips: TrainingClips
    optimization: Optimization
    make_step: Callable[..., Callable]
    cadence: Cadence
    profiled: ProfiledSteps
    evaluation: Evaluation
    checkpoints: Checkpoints
    draws_its_data: bool
    reports: bool

    def draw_variables(self) -> dict[str, Any]:
        """Draws the network's initial variables."""
        shapes = self.network.input_shapes(self.frames, self.clips.options.crop)
        clip = {stream: jax.ShapeDtypeStruct((1, *shape), jnp.float32) for stream, shape in shapes.items()}
        return self.network.init(jax.random.key(self.seed), clip)

    def train(self) -> None:
        """Trains to the end, evaluating on the way, and prints what came of it; goes on where the workdir stands.

        Raises:
          UserError: the workdir or what the run starts from is not as the run needs it, or the loss is not finite.
          Stopped: SIGTERM ended the run; what there was to save is saved.
        """
        # Imported here, since what trains needs the whole run.
        from i3d_jax.run.train import train

        with for_default_platform():
            train(self)

    def evaluate(self, source: Path | None = None) -> None:
        """Scores a checkpoint on the evaluation's split, and prints the figures, which the workdir keeps.

        Args:
          source: where it stands, a checkpoint directory or a workdir, with all of the dataset's classes among its own;
            None for the run's workdir, with the very classes.

        Raises:
          UserError: there is no checkpoint, it is of other classes or pixels than the dataset's, or a run is at work in
            the workdir.
          Stopped: SIGTERM ended it.
        """
        with for_default_platform():
            evaluate(self.evaluation, source)
        if self.reports and hosts.is_first():
            from i3d_jax.report.own import write

            write(self.workdir, self.dataset, self.evaluation.split)

    def figures(self) -> Mapping[str, Any] | None:
        """The figures of the last step, as `results.json` holds them; None if the run is not finished.

        It is finished with the checkpoint of that step: a run that was killed may have the figures without it.
        """
        newest = max(self.checkpoints.steps(), default=0)
        finished = newest == self.cadence.total_steps
        if newest and not finished and self.optimization.plateau is not None:
            finished = self.ends(newest, self.checkpoints.rate_scale(newest))
        if not finished:
            return None
        return self.evaluation.stored() if self.evaluation.is_stored(newest) else None

    def ends(self, step: int, rate_scale: float) -> bool:
        """Says whether training ends after a step, at which the rate is down to this share of the schedule's."""
        plateau = self.optimization.plateau
        return step == self.cadence.total_steps or (plateau is not None and plateau.ends(rate_scale))
