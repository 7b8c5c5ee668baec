"""What an iteration of TV-L1 does to each pixel (Zach, Pock and Bischof 2007, equations 14 to 17)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# NumPy's outside the program, JAX's inside.
Number = np.float32 | jax.Array


class Numbers(NamedTuple):
    """The parameters that are numbers in the program, each float32.

    Attributes:
      pull: lambda theta, the way towards a zero difference for each unit of the slope.
      theta: how far the flow may stay from the one that fits the frames.
      dual_step: tau / theta.
      squared_change: epsilon squared, in square pixels.
    """

    pull: Number
    theta: Number
    dual_step: Number
    squared_change: Number


def moved(
    flow: tuple[jax.Array, jax.Array],
    divergences: tuple[jax.Array, jax.Array],
    slope: tuple[jax.Array, jax.Array],
    constant: jax.Array,
    numbers: Numbers,
) -> tuple[jax.Array, jax.Array]:
    """Returns the flow (u, v) after the first half of an iteration.

    Args:
      flow: (u, v) before it, in pixels.
      divergences: of the dual variables of u and of v.
      slope: the warped frame's along x and y, in grey levels a pixel.
      constant: what the difference of the frames, linear in the flow, would be at no flow.
      numbers: the parameters.
    """
    u, v = flow
    difference = constant + (slope[0] * u + slope[1] * v)
    steepness = slope[0] * slope[0] + slope[1] * slope[1]
    # Along the slope: all the way to a zero difference where that is near, else a fixed way towards it.
    limit = numbers.pull * steepness
    flat = steepness <= np.finfo(np.float32).eps
    to_zero = jnp.where(flat, 0, -difference / jnp.where(flat, 1, steepness))
    move = jnp.where(difference < -limit, numbers.pull, jnp.where(difference > limit, -numbers.pull, to_zero))
    u, v = (
        old + move * along + numbers.theta * divergence
        for old, along, divergence in zip(flow, slope, divergences, strict=True)
    )
    return u, v


def dual_step(
    across: jax.Array, down: jax.Array, dual: tuple[jax.Array, jax.Array], step: Number
) -> tuple[jax.Array, jax.Array]:
    """Returns a component's dual variable (across, down) after the second half of an iteration.

    Args:
      across: the component's difference to the pixel on the right, 0 in the last column.
      down: that to the pixel below, 0 in the last row.
      dual: (across, down) before it.
      step: tau / theta.
    """
    length = 1 + step * jnp.sqrt(across * across + down * down)
    return (dual[0] + step * across) / length, (dual[1] + step * down) / length
