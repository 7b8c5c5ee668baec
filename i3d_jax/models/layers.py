"""The layers that every network here is built of, for videos and for images.

Videos are NDHWC: [batch, time, height, width, channels]; images are NHWC. Below, "..." stands for the axes between the
batch and the channels. How an operation runs on a platform is `lowering`'s to choose.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from i3d_jax.models import drawing
from i3d_jax.models.batch_norm import Pool, batch_normalised_relu, pooled, running_statistics
from i3d_jax.models.lowering import (
    Sizes,
    convolution,
    normalised_convolution,
    same_padding,
)
from i3d_jax.shapes import AnyArray


def release_initializer(
    key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Float[Array, "... features"]:
    """The release's initial kernels: normal, of deviation 1 / sqrt(fan in), cut off at two deviations."""
    fan_in = math.prod(shape[:-1])
    return drawing.truncated_normal(key, shape, dtype, 1 / math.sqrt(fan_in))


class Convolution(nn.Module):
    """A convolution of videos or images; parameters `kernel` [..., C, features] and, if asked for, `bias` [features].

    Attributes:
      features: channels of the output.
      window: taps along time (of videos), height, width.
      strides: along the same axes; None for 1.
      use_bias: whether a bias is added.
      temporal_padding: what stands before the first frame and after the last: "zeros" (the release) or "replicate" (the
        nearest frame, again and again), with which a video that repeats one image has no borders in time.
      spatial_padding: "same" (TensorFlow's) or "symmetric", half of the window on every side (PyTorch's).
      dtype: dtype of the computation; parameters are float32.
    """

    features: int
    window: Sizes
    strides: Sizes | None = None
    use_bias: bool = False
    temporal_padding: str = "zeros"
    spatial_padding: str = "same"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: Float[AnyArray, "batch ... channels"], operation: Callable[..., Any] = convolution
    ) -> Any:
        """Convolves float [B, ..., C] to `dtype` [B, ..., features].

        An operation in the place of `lowering.convolution` takes what that takes, without a bias; what it returns is
        the result.
        """
        # Of a kernel that is there Flax traces the initializer for its shape, and numbers take long to trace.
        initializer = nn.initializers.zeros if self.has_variable("params", "kernel") else release_initializer
        kernel = self.param("kernel", initializer, (*self.window, inputs.shape[-1], self.features), jnp.float32)
        strides = self.strides or (1,) * len(self.window)
        padding = same_padding(inputs.shape[1:-1], self.window, strides)
        if self.spatial_padding == "symmetric":
            padding = (*padding[:-2], *((taps // 2, taps // 2) for taps in self.window[-2:]))
        if self.temporal_padding == "replicate" and len(self.window) == 3:
            inputs = jnp.pad(inputs, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)), mode="edge")
            padding = ((0, 0), *padding[1:])
        inputs, kernel = inputs.astype(self.dtype), kernel.astype(self.dtype)
        outputs = operation(inputs, kernel, strides, padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            outputs = outputs + bias.astype(self.dtype)
        return outputs


class ConvolutionUnit(nn.Module):
    """Convolution, batch normalisation and ReLU: the release's `Unit3D`, for images too.

    The variables stand under `conv_3d` (of images `conv_2d`) and `batch_norm`.

    Attributes:
      features, window, strides, temporal_padding, spatial_padding, dtype: as in `Convolution`.
      batch_norm_decay: how much of the running statistics one training step keeps, 0 to 1.
      batch_norm_gain: whether batch normalisation has a gain beside its offset.
      frozen: whether training too normalises by the running statistics, and leaves them as they are.
      relu: whether it ends with the ReLU; a residual network adds before it.
    """

    features: int
    window: Sizes
    strides: Sizes | None = None
    temporal_padding: str = "zeros"
    spatial_padding: str = "same"
    batch_norm_decay: float = 0.999
    batch_norm_gain: bool = False
    frozen: bool = False
    relu: bool = True
    dtype: DTypeLike = jnp.float32

    def __call__(
        self, inputs: Float[AnyArray, "batch ... channels"], train: bool
    ) -> Float[Array, "batch ... features"]:
        """Maps float [B, ..., C] to `dtype` [B, ..., features]; by the batch's statistics if `train` and not frozen."""
        outputs, _ = self.with_pool(inputs, train, None)
        return outputs

    @nn.compact
    def with_pool(
        self, inputs: Float[AnyArray, "batch ... channels"], train: bool, pool: Pool | None
    ) -> tuple[Float[Array, "batch ... features"], Float[Array, "batch ... features"]]:
        """As a call, and second the same after a max-pool, if there is one.

        Normalisation keeps the order of numbers but for gains, which may be negative. Without them the pool comes first
        and only what it leaves is normalised: the same numbers for less work, where nobody asks for the first result.
        """
        convolve = Convolution(
            self.features,
            self.window,
            self.strides,
            temporal_padding=self.temporal_padding,
            spatial_padding=self.spatial_padding,
            dtype=self.dtype,
            name=f"conv_{len(self.window)}d",
        )
        first, last = (None, pool) if self.batch_norm_gain else (pool, None)
        by_batch = train and not self.frozen
        if by_batch or not self.relu:
            outputs, left = batch_normalised_relu(
                convolve(inputs),
                by_batch,
                decay=self.batch_norm_decay,
                dtype=self.dtype,
                gain=self.batch_norm_gain,
                relu=self.relu,
                pool=first,
            )
        else:
            statistics = running_statistics(self.features, gain=self.batch_norm_gain)
            normalised = functools.partial(normalised_convolution, statistics=statistics, dtype=self.dtype, pool=first)
            outputs, left = convolve(inputs, normalised)
        return outputs, pooled(left, last)


def run_block(
    block: nn.Module,
    inputs: Float[AnyArray, "batch ... channels"],
    train: bool,
    pool: Pool | None = None,
    *,
    rematerialise: bool,
) -> tuple[Float[Array, "batch ... features"], Float[Array, "batch ... features"]]:
    """Returns block(inputs, train), and second the same after a pool, which only a unit may have.

    With `rematerialise` the backward pass keeps the block's inputs alone, and computes the rest of what it needs again.
    The names of the block's variables are the same.
    """

    def run(block, inputs):
        if pool is not None:
            return block.with_pool(inputs, train, pool)
        outputs = block(inputs, train)
        return outputs, outputs

    return (nn.remat(run) if rematerialise else run)(block, inputs)
