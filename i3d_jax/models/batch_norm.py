"""Batch normalisation with ReLU, made to move few bytes: on accelerators that is what bounds a training step.

Of a layer the convolution's output is kept for the backward pass, and what a pool leaves of it; the normalised values,
the ReLU's signs and their like are computed again where they are needed, in the pass over memory that needs them.
Neither changes the order of a channel's numbers but for gains, so that a max-pool after them may as well come before:
fewer numbers are left to normalise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from i3d_jax.shapes import AnyArray

BATCH_NORM_EPSILON = 1e-3

# A max-pool of float [B, ..., C].
Pool = Callable[[Array], Array]

# Of a layer's outputs: mean, scale, offset.
Statistics = tuple[
    Float32[AnyArray, " features"],
    Float32[AnyArray, " features"],
    Float32[AnyArray, " features"],
]


def batch_normalised_relu(
    inputs: Float[AnyArray, "*axes channels"],
    train: bool,
    *,
    decay: float,
    dtype: DTypeLike,
    gain: bool = False,
    relu: bool = True,
    pool: Pool | None = None,
) -> tuple[Float[Array, "*axes channels"], Float[Array, "*pooled channels"]]:
    """Batch normalisation with an offset, then ReLU: what follows every layer but the last; and a pool of it.

    To be called in a module's `__call__`: its variables stand in that module under `batch_norm`.

    Args:
      inputs: float [..., C].
      train: whether the statistics are the batch's, over all axes but C, or the running ones.
      decay: how much of the running statistics one training step keeps, 0 to 1.
      dtype: dtype of the output; the statistics are float32.
      gain: whether what is normalised is multiplied by a parameter `gain`, which begins at 1, before the offset.
      relu: whether the ReLU follows; a residual network adds before it.
      pool: a max-pool that follows, None for none; not together with a gain, which may turn the order around.

    Returns:
      `dtype` [..., C], and the same after the pool. What nobody asks for costs nothing once compiled.
    """
    return _BatchNormalisedReLU(decay, dtype, gain, relu, name="batch_norm")(inputs, train, pool)


def running_statistics(channels: int, *, gain: bool = False) -> Statistics:
    """The running statistics as `normalised_relu` takes them, (mean, scale, offset), each float32 [channels].

    To be called in a module's `__call__` in place of `batch_normalised_relu`: the variables are the same.
    """
    layer = _BatchNormalisedReLU(0.0, jnp.float32, gain, name="batch_norm")
    return layer(jnp.zeros((0, channels)), False, None, statistics=True)


class _BatchNormalisedReLU(nn.Module):
    decay: float
    dtype: DTypeLike
    gain: bool
    relu: bool = True

    @nn.compact
    def __call__(self, inputs, train, pool, *, statistics=False):
        channels = inputs.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        offset = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        gain = self.param("gain", nn.initializers.ones, channels, jnp.float32) if self.gain else None
        if not train:
            scale = _scale(running_variance.value, gain)
            if statistics:
                return running_mean.value, scale, offset
            outputs = normalised_relu(inputs, running_mean.value, scale, offset, self.dtype, self.relu)
            return outputs, pooled(outputs, pool)
        normalised = functools.partial(
            batch_statistics_relu, inputs, gain, offset, running_mean.value, self.dtype, self.relu
        )
        outputs, mean, variance = normalised()
        last = outputs
        if pool is not None:
            # With its statistics, too: so the one without a pool is left out where nobody asks for it.
            last, mean, variance = normalised(pool)
        if not self.is_initializing():
            running_mean.value = self.decay * running_mean.value + (1 - self.decay) * mean
            running_variance.value = self.decay * running_variance.value + (1 - self.decay) * variance
        return outputs, last


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def batch_statistics_relu(
    inputs: Float[AnyArray, "*axes channels"],
    gain: Float32[AnyArray, " channels"] | None,
    offset: Float32[AnyArray, " channels"],
    shift: Float32[AnyArray, " channels"],
    dtype: DTypeLike,
    relu: bool = True,
    pool: Pool | None = None,
) -> tuple[Float[Array, "*pooled channels"], Float32[Array, " channels"], Float32[Array, " channels"]]:
    """Normalises by the batch's own statistics, multiplies by a gain, adds an offset, takes the ReLU, and pools.

    What is kept for the gradient is the input, and what a pool leaves of it; the rest is computed again from them,
    which costs less than to write it to memory and to read it.

    Args:
      inputs: float [..., C].
      gain: float32 [C], None for 1.
      offset: float32 [C].
      shift: float32 [C], a guess at the mean, which the result does not depend on but for rounding (`_moments`).
      dtype: of the output.
      relu: whether the ReLU is taken.
      pool: a max-pool, not together with a gain: it sees the inputs.

    Returns:
      `dtype` [..., C], pooled if there is a pool, and the inputs' mean and (biased) variance over all axes but the
      last, float32 [C]. No gradient goes through the two.
    """
    mean, variance = _moments(inputs, shift)
    return normalised_relu(pooled(inputs, pool), mean, _scale(variance, gain), offset, dtype, relu), mean, variance


def pooled(inputs: Float[AnyArray, "*axes channels"], pool: Pool | None) -> Float[Array, "*pooled channels"]:
    """The inputs after a pool, or as they are if there is none."""
    inputs = jnp.asarray(inputs)
    return inputs if pool is None else pool(inputs)


def _scale(variance, gain):
    scale = lax.rsqrt(variance + BATCH_NORM_EPSILON)
    return scale if gain is None else scale * gain


def _batch_statistics_relu_forward(inputs, gain, offset, shift, dtype, relu, pool):
    # Without the barrier a TPU's compiler would keep the convolution's tiles, and undo them for each consumer.
    inputs = lax.optimization_barrier(inputs)
    left = pooled(inputs, pool)
    mean, variance = _moments(inputs, shift)
    outputs = normalised_relu(left, mean, _scale(variance, gain), offset, dtype, relu)
    return (outputs, mean, variance), (inputs, None if pool is None else left, gain, offset, mean, variance)


def _batch_statistics_relu_backward(dtype, relu, pool, residuals, gradients):
    del dtype
    inputs, left, gain, offset, mean, variance = residuals
    # Without the barrier the compiler would share parts with the forward pass, and keep them in float32.
    inputs, left, gradient = lax.optimization_barrier((inputs, left, gradients[0]))
    axes, count = _all_but_last(inputs)
    centred, scale = (inputs if pool is None else left) - mean, _scale(variance, gain)
    gradient = gradient.astype(jnp.float32)
    if relu:
        gradient = jnp.where(centred * scale + offset > 0, gradient, 0)
    normalised = centred * _scale(variance, None)
    of_offset = gradient.sum(axes)
    along = (gradient * normalised).sum(axes)
    if pool is not None:
        # The sums are over what the windows have chosen; the rest has gradients by way of the statistics alone.
        [gradient] = jax.vjp(pool, inputs)[1](gradient.astype(inputs.dtype))
        normalised = (inputs - mean) * _scale(variance, None)
    of_inputs = scale * (gradient - of_offset / count - normalised * (along / count))
    of_gain = None if gain is None else along
    return of_inputs.astype(inputs.dtype), of_gain, of_offset, jnp.zeros_like(offset)


batch_statistics_relu.defvjp(_batch_statistics_relu_forward, _batch_statistics_relu_backward)


def normalised_relu(
    inputs: Float[AnyArray, "*axes channels"],
    mean: Float32[AnyArray, " channels"],
    scale: Float32[AnyArray, " channels"],
    offset: Float32[AnyArray, " channels"],
    dtype: DTypeLike,
    relu: bool = True,
) -> Float[Array, "*axes channels"]:
    """Float [..., C] less `mean`, times `scale`, plus `offset`, each float32 [C]; then with `relu` that, in `dtype`."""
    outputs = jnp.add((inputs - mean) * scale, offset).astype(dtype)
    return nn.relu(outputs) if relu else outputs


def _moments(inputs, shift):
    """The mean and the biased variance of float [..., C] over all axes but the last, float32 [C].

    In bfloat16 both come from one pass over memory: the mean square less the square of the mean, of the inputs less
    `shift`. That loses digits, but those lost are far below the inputs' own last. In float32 the gradients would lose
    them too, so there is a second pass.
    """
    axes, count = _all_but_last(inputs)
    if inputs.dtype == jnp.bfloat16:
        shifted = inputs.astype(jnp.float32) - shift
        mean, square = shifted.sum(axes) / count, jnp.square(shifted).sum(axes) / count
        return mean + shift, jnp.maximum(square - jnp.square(mean), 0)
    mean = inputs.astype(jnp.float32).sum(axes) / count
    return mean, jnp.square(inputs - mean).sum(axes) / count


def _all_but_last(inputs):
    return tuple(range(inputs.ndim - 1)), math.prod(inputs.shape[:-1])
