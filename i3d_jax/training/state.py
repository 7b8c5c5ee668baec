"""What one training step takes and gives."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from i3d_jax.training.optimizer import Plateau


class TrainState(flax.struct.PyTreeNode):
    """Everything that a training step changes; a pytree.

    Attributes:
      step: int32 scalar, the steps taken.
      clips: int32 scalar, the position in the data: the number of training clips drawn since the start of the run.
      params: float32 pytree, the model's parameters.
      batch_stats: float32 pytree, the running statistics of batch normalisation.
      optimizer_state: the optimizer's pytree.
      average: float32 pytree {"params", "batch_stats"}, the exponential moving average of both, since statistics of the
        live network are not those of the averaged one; None if none is kept.
      plateau: state of the schedule "plateau", which changes at evaluations alone; None with another schedule.
    """

    step: Int32[Array, ""]
    clips: Int32[Array, ""]
    params: Any
    batch_stats: Any
    optimizer_state: Any
    average: Any = None
    plateau: optax.contrib.ReduceLROnPlateauState | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """What is evaluated and published, as `model.apply` takes it: with the average where one is kept."""
        return {"params": self.params, "batch_stats": self.batch_stats} if self.average is None else self.average

    @property
    def rate_scale(self) -> Float[Array, ""] | float:
        """What "plateau" has brought the learning rate down to, as a share of the schedule's: 0 to 1."""
        return 1.0 if self.plateau is None else self.plateau.scale


def initial_state(
    variables: dict[str, Any],
    optimizer: optax.GradientTransformation,
    *,
    average: bool = False,
    plateau: Plateau | None = None,
) -> TrainState:
    """Makes the state before the first step.

    Args:
      variables: a model's {"params", "batch_stats"}.
      optimizer: of the parameters.
      average: whether an exponential moving average of parameters and statistics is kept.
      plateau: `optimizer.make_plateau`'s, None with another schedule.
    """
    params, batch_stats = variables["params"], variables["batch_stats"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        clips=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        # One program in place of one for every shape.
        optimizer_state=jax.jit(optimizer.init)(params),
        # A copy: a step uses the memory of each leaf again, and must not meet the same one twice.
        average=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if average else None,
        plateau=None if plateau is None else plateau.init(params),
    )
