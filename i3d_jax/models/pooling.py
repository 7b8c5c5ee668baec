"""Pooling, for videos and for images: how it runs on a platform (layouts and padding as in `models.lowering`).

XLA's native gradient of a max-pool, select-and-scatter, took 30% of I3D's training step on an H100. On GPUs the
gradient is therefore gathered, along one axis after the other: a first pass notes which input of each window has won, a
byte a window, and in a second each input asks the windows that it is in. TPUs keep the native one. On CPUs max-pools
are maxima of shifted slices, and so are their gradients.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from i3d_jax.models import slabs
from i3d_jax.models.lowering import Pads, Sizes, same_padding
from i3d_jax.models.purpose import by_platform, goes_in_slabs, runs_never
from i3d_jax.shapes import AnyArray


@dataclass(frozen=True)
class MaxPool:
    """`max_pool` with a window and strides, along time (of videos), height, width."""

    window: Sizes
    strides: Sizes

    def __call__(self, inputs: Float[AnyArray, "batch ... channels"]) -> Float[Array, "batch ... channels"]:
        """As `max_pool`."""
        return max_pool(inputs, self.window, self.strides)


@jax.named_scope("max_pool")
def max_pool(
    inputs: Float[AnyArray, "batch ... channels"], window: Sizes, strides: Sizes
) -> Float[Array, "batch ... channels"]:
    """Max-pooling with SAME padding: float [B, ..., C] to the same with each size divided by its stride, rounded up.

    Where several inputs of a window are the largest, accelerators hand the gradient to the first of them, and CPUs
    divide it among them.
    """
    padding = same_padding(inputs.shape[1:-1], window, strides)
    if runs_never():
        return _native_max_pool(inputs, window=window, strides=strides, padding=padding)
    return _max_pool(inputs, window, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(inputs, window, strides, padding):
    return by_platform(
        inputs,
        cpu=functools.partial(_max_pool_in_slabs, window=window, strides=strides, padding=padding),
        default=functools.partial(_native_max_pool, window=window, strides=strides, padding=padding),
    )


def _max_pool_forward(inputs, window, strides, padding):
    return _max_pool(inputs, window, strides, padding), inputs


def _max_pool_backward(window, strides, padding, inputs, gradient):
    pool = {"window": window, "strides": strides, "padding": padding}

    def of(operation):
        return lambda inputs, gradient: jax.vjp(functools.partial(operation, **pool), inputs)[1](gradient)[0]

    gathered = functools.partial(gathered_gradient, **pool)
    ways = {"cpu": of(_sliced_max_pool), "cuda": gathered, "rocm": gathered, "default": of(_native_max_pool)}
    return (by_platform(inputs, gradient, **ways),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _native_max_pool(inputs, *, window, strides, padding):
    pads = ((0, 0), *padding, (0, 0))
    return lax.reduce_window(inputs, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), pads)


def gathered_gradient(
    inputs: Float[AnyArray, "batch ... channels"],
    gradient: Float[AnyArray, "batch ... channels"],
    *,
    window: Sizes,
    strides: Sizes,
    padding: Pads,
) -> Float[Array, "batch ... channels"]:
    """The gradient of a max-pool's inputs as GPUs compute it.

    It goes where JAX's own goes: to the first of a window's largest, in row-major order, where the padding counts as
    -inf. Of a window with a NaN it goes to one of the inputs.

    Args:
      inputs: float [B, ..., C].
      gradient: of the outputs, float [B, ..., C].
      window, strides, padding: of the pool; at most 256 inputs along an axis.

    Returns:
      [B, ..., C] like the inputs, in the gradient's dtype, summed up along each axis in float32.
    """
    # Along one axis after the other, the last first: of equal ones the first in row-major order is left.
    stages = []
    for axis in range(len(window), 0, -1):
        width, stride, pads = window[axis - 1], strides[axis - 1], padding[axis - 1]
        if width > 1 or stride > 1:
            size = inputs.shape[axis]
            # Without the barrier XLA would find the winners again wherever they are asked for.
            inputs, winner = lax.optimization_barrier(_pooled(inputs, axis, width, stride, pads))
            stages.append((winner, axis, width, stride, pads[0], size))
    returned = jnp.asarray(gradient)
    for winner, axis, width, stride, before, size in reversed(stages):
        returned = _returned(returned, winner, axis, width, stride, before, size)
    return returned


def _pooled(inputs, axis, width, stride, pads):
    """The maxima along one axis, and which input of each window has won, uint8, counted from 0."""
    widths = [(0, 0)] * inputs.ndim
    widths[axis] = pads
    padded = jnp.pad(inputs, widths, constant_values=-jnp.inf)
    last = (padded.shape[axis] - width) // stride * stride
    best, *others = (lax.slice_in_dim(padded, first, first + last + 1, stride, axis=axis) for first in range(width))
    winner = jnp.zeros(best.shape, jnp.uint8)
    for number, value in enumerate(others, start=1):
        stays = best >= value
        best, winner = jnp.where(stays, best, value), jnp.where(stays, winner, jnp.uint8(number))
    return best, winner


def _returned(gradient, winner, axis, width, stride, before, size):
    """The gradient of what `_pooled` has pooled."""
    shape = list(gradient.shape)
    shape[axis] = -(-size // stride)
    # Apart by an input's place in its stride: so each asks the windows that it may be in, and no others.
    by_place = []
    for place in range(stride):
        total = jnp.zeros(shape, jnp.float32)
        for number in range(width):
            shift, at = divmod(number - before, stride)
            if at == place:
                won = jnp.where(winner == number, gradient.astype(jnp.float32), 0)
                edges = [(0, 0, 0)] * gradient.ndim
                # What comes to lie in the padding falls away.
                edges[axis] = (shift, shape[axis] - gradient.shape[axis] - shift, 0)
                total = total + lax.pad(won, jnp.float32(0), edges)
        by_place.append(total.astype(gradient.dtype))
    shape[axis] *= stride
    joined = jnp.stack(by_place, axis + 1).reshape(shape)
    return lax.slice_in_dim(joined, 0, size, axis=axis)


def _max_pool_in_slabs(inputs, *, window, strides, padding):
    sliced = functools.partial(_sliced_max_pool, window=window, strides=strides)
    if inputs.ndim == 4 or inputs.nbytes <= slabs.MOST_BYTES or not goes_in_slabs():
        return sliced(inputs, padding=padding)
    of_slab = functools.partial(sliced, padding=((0, 0), *padding[1:]))
    frames = slabs.padded(inputs, padding[0], -jnp.inf)
    return slabs.over_time(of_slab, frames, taps=window[0], stride=strides[0], made=inputs.nbytes)


def _sliced_max_pool(inputs, *, window, strides, padding):
    """The maximum along one axis after the other, each over shifted slices."""
    # Without the barriers XLA would fuse all of it, and compute what the windows share for each of them.
    inputs = lax.optimization_barrier(jnp.pad(inputs, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf))
    for axis in range(inputs.ndim - 2, 0, -1):
        size, stride = window[axis - 1], strides[axis - 1]
        if size == 1 and stride == 1:
            continue
        last = (inputs.shape[axis] - size) // stride * stride + 1
        slices = [lax.slice_in_dim(inputs, start, start + last, stride, axis=axis) for start in range(size)]
        inputs = lax.optimization_barrier(functools.reduce(jnp.maximum, slices))
    return inputs


def average_pool(inputs: Float[AnyArray, "batch ... channels"], window: Sizes) -> Float[Array, "batch ... channels"]:
    """Average-pooling at stride 1 without padding: float [B, ..., C] to the same with sizes of size - window + 1."""
    ones = (1,) * inputs.ndim
    return lax.reduce_window(inputs, 0.0, lax.add, (1, *window, 1), ones, "VALID") / math.prod(window)
