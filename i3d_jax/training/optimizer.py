"""Optimizers with weight decay on kernels and a learning rate that falls in steps; SGD is the release's."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import optax

from i3d_jax.errors import UserError


def stepwise(*, learning_rates: Sequence[float], boundaries: Sequence[int]) -> optax.Schedule:
    """Makes a learning rate that is constant between boundaries.

    Args:
      learning_rates: one rate for each stretch, each above 0.
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
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Makes the optimizer and its learning rate from the `optimizer` section of a configuration.

    The decay is that of a loss term weight_decay / 2 * |kernel|^2: it is added to the gradient before the momentum, and
    only for kernels. The learning rate multiplies the accumulated gradient, as in TensorFlow.

    Args:
      name: "sgd", the release's (facts: "Recipe"), or "adam" (Kingma & Ba 2015), which needs no care for the scale of
        the gradient and suits short runs from scratch.
      learning_rates, boundaries: as in `stepwise`.
      momentum: share of the accumulated gradient that a step keeps, 0 up to 1.
      weight_decay: at least 0.

    Returns:
      (optimizer, schedule: step to learning rate).

    Raises:
      UserError: a value is out of range.
    """
    schedule = stepwise(learning_rates=learning_rates, boundaries=boundaries)
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


def kernels(params):
    """Marks the kernels of a parameter pytree: True at leaves named "kernel" or "…_kernel", else False."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)
