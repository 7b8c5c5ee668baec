"""Optimizers with weight decay on kernels, and what becomes of the learning rate; SGD in steps is the release's.

A rate is that of the recipe, times the warm-up of the first steps, and with the schedule "plateau" times a scale that
falls when the validation loss no longer does (`TrainState.plateau`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from i3d_jax.system.errors import UserError

SCHEDULES = ("stepwise", "plateau")


def stepwise(*, learning_rates: Sequence[float], boundaries: Sequence[int]) -> optax.Schedule:
    """Makes a learning rate that is constant between boundaries.

    Args:
      learning_rates: one rate for each interval, each above 0.
      boundaries: the steps (0 is the first) at which the next rate begins, rising; one fewer than the rates.

    Raises:
      UserError: the lengths do not fit, a rate is not above 0, or the boundaries do not rise.
    """
    if len(learning_rates) != len(boundaries) + 1:
        raise UserError(
            "optimizer.boundaries must hold one step fewer than optimizer.learning_rates holds rates, "
            f"found {len(boundaries)} and {len(learning_rates)}"
        )
    if any(rate <= 0 for rate in learning_rates):
        raise UserError(f"optimizer.learning_rates must all be above 0, found {tuple(learning_rates)}")
    if any(before >= after for before, after in zip([0, *boundaries], boundaries, strict=False)):
        raise UserError(f"optimizer.boundaries must be above 0 and rise, found {tuple(boundaries)}")
    return optax.join_schedules([optax.constant_schedule(rate) for rate in learning_rates], list(boundaries))


def make_optimizer(
    *,
    name: str,
    learning_rates: Sequence[float],
    boundaries: Sequence[int],
    momentum: float,
    weight_decay: float,
    warmup_steps: int = 0,
    rate_factor: float = 1.0,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Makes the optimizer and its learning rate, but for what "plateau" makes of it.

    The decay is that of a loss term weight_decay / 2 * |kernel|^2: it is added to the gradient before the momentum, and
    only for kernels. The learning rate multiplies the accumulated gradient, as in TensorFlow.

    Args:
      name: "sgd", the release's (facts: "Recipe"), or "adam" (Kingma & Ba 2015), which needs no care for the scale of
        the gradient and suits short runs from scratch.
      learning_rates, boundaries: as in `stepwise`.
      momentum: share of the accumulated gradient that a step keeps, 0 up to 1.
      weight_decay: at least 0.
      warmup_steps: over so many the rate rises evenly, from 0 at step 0 to what it would have been without; 0 for none.
        Boundaries are counted from step 0 in any case.
      rate_factor: multiplies the learning rates, above 0 (linear scaling: batch size over reference batch size).

    Returns:
      (optimizer, schedule: step to learning rate).

    Raises:
      UserError: a value is out of range.
    """
    schedule = stepwise(learning_rates=[rate * rate_factor for rate in learning_rates], boundaries=boundaries)
    if warmup_steps < 0:
        raise UserError(f"optimizer.warmup_steps must be at least 0, found {warmup_steps}")
    if warmup_steps:
        schedule = _warmed_up(schedule, warmup_steps)
    if not 0 <= momentum < 1:
        raise UserError(f"optimizer.momentum must be at least 0 and below 1, found {momentum}")
    if weight_decay < 0:
        raise UserError(f"optimizer.weight_decay must be at least 0, found {weight_decay}")
    if name == "sgd":
        rule = optax.sgd(schedule, momentum=momentum)
    elif name == "adam":
        rule = optax.adam(schedule, b1=momentum)
    else:
        raise UserError(f"optimizer.name must be 'sgd' or 'adam', found {name!r}")
    return optax.chain(optax.add_decayed_weights(weight_decay, mask=kernels), rule), schedule


def rate_factor(batch_size: int, reference_batch_size: int | None) -> float:
    """What linear scaling multiplies learning rates by: batch size over reference batch size, 1 where there is none."""
    if reference_batch_size is None:
        return 1.0
    if reference_batch_size < 1:
        raise UserError(f"optimizer.reference_batch_size must be at least 1, found {reference_batch_size}")
    return batch_size / reference_batch_size


def rates_text(
    learning_rates: Sequence[float], boundaries: Sequence[int], batch_size: int, reference_batch_size: int | None
) -> str:
    """One line on a recipe's learning rates, when each begins, and what linear scaling makes of them."""
    factor = rate_factor(batch_size, reference_batch_size)
    first, *later = (f"{rate * factor:g}" for rate in learning_rates)
    falls = [f", {rate} after step {boundary}" for rate, boundary in zip(later, boundaries, strict=True)]
    scaled = f"learning rate {first}{''.join(falls)}"
    if reference_batch_size is None:
        return scaled
    return f"{scaled}: the recipe's times batch_size / reference_batch_size = {batch_size} / {reference_batch_size}"


def _warmed_up(schedule: optax.Schedule, steps: int) -> optax.Schedule:
    return lambda step: schedule(step) * jnp.minimum(1.0, step / steps)


@dataclasses.dataclass(frozen=True)
class Plateau:
    """The schedule that lowers the rate when the validation loss saturates.

    Attributes:
      rule: Optax's, which sees the losses.
      factor: what the rate is multiplied by.
      stop: training ends when the rate has been lowered so many times; 0: never for that reason.
    """

    rule: optax.GradientTransformationExtraArgs
    factor: float
    stop: int

    def init(self, params: Any) -> optax.contrib.ReduceLROnPlateauState:
        """Returns the state before the first evaluation."""
        return self.rule.init(params)

    def ends(self, scale: float) -> bool:
        """Says whether training ends with the rate brought down to this share of the schedule's, 0 to 1."""
        return self.stop > 0 and round(math.log(scale) / math.log(self.factor)) >= self.stop


def make_plateau(*, patience: int, factor: float, stop: int = 0) -> Plateau:
    """Makes the schedule that lowers the rate when the validation loss saturates (paper: by ten).

    Args:
      patience: after so many evaluations in a row without a loss below 0.9999 times the least before them the rate is
        lowered, and counting begins anew; at least 1.
      factor: what the rate is multiplied by then, above 0 and below 1.
      stop: after lowering it so many times training ends; 0: never for that reason.

    Raises:
      UserError: a value is out of range.
    """
    if patience < 1:
        raise UserError(f"optimizer.plateau_patience must be at least 1, found {patience}")
    if not 0 < factor < 1:
        raise UserError(f"optimizer.plateau_factor must be above 0 and below 1, found {factor}")
    if stop < 0:
        raise UserError(f"optimizer.plateau_stop must be at least 0, found {stop}")
    return Plateau(optax.contrib.reduce_on_plateau(factor=factor, patience=patience, rtol=1e-4), factor, stop)


def after_evaluation(
    plateau: Plateau,
    state: optax.contrib.ReduceLROnPlateauState,
    loss: float | None,
) -> optax.contrib.ReduceLROnPlateauState:
    """Returns a plateau's state after an evaluation that found this loss, on the devices of the old one.

    A loss that is None or NaN, as where no video could be scored, says nothing and leaves the state as it is.
    """
    if loss is None or math.isnan(loss):
        return state
    # On the host's copy, so that all processes that share the devices compute it alike.
    _, new = plateau.rule.update({}, jax.device_get(state), value=loss)
    return jax.tree.map(lambda old, new: jax.device_put(jnp.asarray(new, old.dtype), old.sharding), state, new)


def kernels(params):
    """Marks the kernels of a parameter pytree: True at leaves named "kernel" or "…_kernel", else False."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)
