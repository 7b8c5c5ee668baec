"""Operations on long videos, one slab of time after the other: their intermediate arrays take less memory."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from i3d_jax.shapes import AnyArray

# Of an operation's intermediate arrays at a time.
MOST_BYTES = 32 << 20


def over_time(
    operation: Callable[..., jax.Array],
    inputs: Float[AnyArray, "batch time ..."],
    *arrays: ArrayLike,
    taps: int,
    stride: int,
    made: int,
) -> Float[Array, "batch steps ..."]:
    """Returns operation(inputs, *arrays), in slabs of time where intermediate arrays take more than `MOST_BYTES`.

    The numbers are the same. A gradient is that of the operation at once: it needs those arrays as a whole.

    Args:
      operation: sees `taps` frames of its first argument for each step of its result, `stride` frames apart, without
        padding in time.
      inputs: [B, T, ...].
      *arrays: what else it takes; whole for every slab.
      taps, stride: of the operation along time.
      made: bytes of the operation's intermediate arrays, computed at once.

    Returns:
      [B, (T - taps) // stride + 1, ...].
    """
    steps = (inputs.shape[1] - taps) // stride + 1
    slabs = min(-(-made // MOST_BYTES), steps)
    if slabs <= 1:
        return operation(inputs, *arrays)
    length = -(-steps // slabs)
    in_slabs = functools.partial(_in_slabs, operation, taps=taps, stride=stride, slabs=slabs, length=length)
    applied = jax.custom_vjp(in_slabs)
    applied.defvjp(functools.partial(jax.vjp, operation), lambda pull, gradient: pull(gradient))
    return applied(inputs, *arrays)


def _in_slabs(operation, inputs, *arrays, taps, stride, slabs, length):
    steps = (inputs.shape[1] - taps) // stride + 1
    frames = (length - 1) * stride + taps
    # Any value will do. One that is of the inputs, and not known before, takes its room no earlier than they are there.
    inputs = lax.optimization_barrier(inputs)
    one = jax.eval_shape(operation, lax.slice_in_dim(inputs, 0, frames, axis=1), *arrays)
    room = jnp.broadcast_to(inputs.reshape(-1)[0].astype(one.dtype), (one.shape[0], steps, *one.shape[2:]))

    def with_slab(number, outputs):
        # The last two may overlap: all are of one length, so that they are one program.
        first = jnp.minimum(number * length, steps - length)
        slab = operation(lax.dynamic_slice_in_dim(inputs, first * stride, frames, axis=1), *arrays)
        return lax.dynamic_update_slice_in_dim(outputs, slab, first, axis=1)

    return lax.fori_loop(0, slabs, with_slab, room)


def padded(
    inputs: Float[AnyArray, "batch time ..."], padding: tuple[int, int], value: float
) -> Float[Array, "batch frames ..."]:
    """Returns [B, T, ...] with frames of one value put before and after it along time."""
    return jnp.pad(inputs, ((0, 0), padding, *[(0, 0)] * (inputs.ndim - 2)), constant_values=value)
