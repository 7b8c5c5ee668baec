"""Inception-v1's layers in one table, for images and, inflated, for videos (paper, figure 3; release, `i3d.py`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from i3d_jax.models.batch_norm import pooled
from i3d_jax.models.layers import Convolution, ConvolutionUnit, run_block
from i3d_jax.models.lowering import Sizes, concatenated
from i3d_jax.models.pooling import MaxPool, average_pool, max_pool
from i3d_jax.shapes import AnyArray

# Smaller frames leave no pixel.
MINIMUM_SIZE = 32


class Unit(NamedTuple):
    """A convolution unit of the trunk; sizes are along time, height and width."""

    features: int
    window: Sizes
    strides: Sizes


class Mixed(NamedTuple):
    """The widths of a block with four branches; a pair is the 1x1x1 convolution and the 3x3x3 one that follows it."""

    branch_0: int
    branch_1: tuple[int, int]
    branch_2: tuple[int, int]
    branch_3: int


# The trunk in order, by the endpoint's name in I3D, at width 1.
TRUNK: dict[str, Unit | MaxPool | Mixed] = {
    "Conv3d_1a_7x7": Unit(64, (7, 7, 7), (2, 2, 2)),
    "MaxPool3d_2a_3x3": MaxPool((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": Unit(64, (1, 1, 1), (1, 1, 1)),
    "Conv3d_2c_3x3": Unit(192, (3, 3, 3), (1, 1, 1)),
    "MaxPool3d_3a_3x3": MaxPool((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": Mixed(64, (96, 128), (16, 32), 32),
    "Mixed_3c": Mixed(128, (128, 192), (32, 96), 64),
    "MaxPool3d_4a_3x3": MaxPool((3, 3, 3), (2, 2, 2)),
    "Mixed_4b": Mixed(192, (96, 208), (16, 48), 64),
    "Mixed_4c": Mixed(160, (112, 224), (24, 64), 64),
    "Mixed_4d": Mixed(128, (128, 256), (24, 64), 64),
    "Mixed_4e": Mixed(112, (144, 288), (32, 64), 64),
    "Mixed_4f": Mixed(256, (160, 320), (32, 128), 128),
    "MaxPool3d_5a_2x2": MaxPool((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": Mixed(256, (160, 320), (32, 128), 128),
    "Mixed_5c": Mixed(384, (192, 384), (48, 128), 128),
}

# Where the trunk may end; the last is the paper's.
LAST_BLOCKS = tuple(name for name, layer in TRUNK.items() if isinstance(layer, Mixed))

# The release and TF-Slim name this one unit 0a where its siblings are 0b; their checkpoints do too.
_ODD_NAMES = {"Mixed_5b/Branch_2": "0a_3x3"}


def scaled(features: int, width_multiplier: float) -> int:
    """Channels of a layer at a width multiplier: rounded, at least 1."""
    return max(1, round(features * width_multiplier))


def image_name(name: str) -> str:
    """TF-Slim's name of a layer of I3D: that of "Conv3d_1a_7x7" is "Conv2d_1a_7x7", of "MaxPool3d_…" "MaxPool_…"."""
    return name.replace("Conv3d", "Conv2d").replace("MaxPool3d", "MaxPool")


def trunk(
    inputs: Float[AnyArray, "batch ... channels"],
    train: bool,
    *,
    unit: Callable[..., ConvolutionUnit],
    width_multiplier: float,
    stem_padding: str,
    last_block: str,
    rematerialise: bool,
) -> dict[str, Float[Array, "batch ..."]]:
    """Runs Inception-v1 up to a block; to be called in a module's `__call__`, whose variables its layers become.

    Args:
      inputs: float [B, T, H, W, C], or [B, H, W, C] for the network of images, whose windows lack the axis of time and
        whose names are TF-Slim's.
      train: whether batch normalisation uses the batch's statistics.
      unit: makes a unit from (features, window, strides, name=…).
      width_multiplier: scales the channels of every layer.
      stem_padding: how the first convolution pads in space, "same" or "symmetric" (`layers.Convolution`).
      last_block: the last that is run, one of `LAST_BLOCKS`.
      rematerialise: whether the backward pass computes each unit of the stem and each mixed block again.

    Returns:
      The output of every layer of the table up to that block by its name, in order.
    """
    dimensions = inputs.ndim - 2
    layers = list(TRUNK.items())[: list(TRUNK).index(last_block) + 1]
    endpoints: dict[str, Array] = {}
    outputs = jnp.asarray(inputs)
    for (name, layer), (next_name, following) in itertools.zip_longest(layers, layers[1:], fillvalue=("", None)):
        name = name if dimensions == 3 else image_name(name)
        match layer:
            case Unit(features, window, strides):
                padding = {"spatial_padding": stem_padding} if not endpoints else {}
                features = scaled(features, width_multiplier)
                block: nn.Module = unit(features, window[-dimensions:], strides[-dimensions:], name=name, **padding)
            case Mixed():
                block = MixedBlock(layer, width_multiplier, unit, name=name)
            case _:
                # A pool is computed with the layer before it.
                continue
        pool = None
        if isinstance(following, MaxPool):
            pool = MaxPool(following.window[-dimensions:], following.strides[-dimensions:])
        # A block's four branches, pooled before their normalisation, would take a compiler for TPUs v6e over 23 GB.
        first, last = (pool, None) if isinstance(layer, Unit) else (None, pool)
        endpoints[name], outputs = run_block(block, outputs, train, first, rematerialise=rematerialise)
        outputs = pooled(outputs, last)
        if pool is not None:
            endpoints[next_name if dimensions == 3 else image_name(next_name)] = outputs
    return endpoints


class ImageTrunk(nn.Module):
    """The trunk for images as a part of a larger network.

    Attributes:
      unit, width_multiplier, stem_padding, last_block, rematerialise: as in `trunk`.
    """

    unit: Callable[..., ConvolutionUnit]
    width_multiplier: float
    stem_padding: str
    last_block: str
    rematerialise: bool

    @nn.compact
    def __call__(
        self, images: Float[AnyArray, "batch height width channels"], train: bool
    ) -> dict[str, Float[Array, "batch ..."]]:
        """Maps float [B, H, W, C] to the endpoints of `trunk`."""
        return trunk(
            images,
            train,
            unit=self.unit,
            width_multiplier=self.width_multiplier,
            stem_padding=self.stem_padding,
            last_block=self.last_block,
            rematerialise=self.rematerialise,
        )


class MixedBlock(nn.Module):
    """Four branches side by side, concatenated along channels: 1x1x1; 1x1x1 then 3x3x3, twice; max-pool then 1x1x1.

    Attributes:
      widths: channels of the branches at width 1.
      width_multiplier, unit: as in `trunk`.
    """

    widths: Mixed
    width_multiplier: float
    unit: Callable[..., ConvolutionUnit]

    @nn.compact
    def __call__(
        self, inputs: Float[AnyArray, "batch ... channels"], train: bool
    ) -> Float[Array, "batch ... features"]:
        """Maps float [B, ..., C] to [B, ..., sum of the branches' channels]."""
        branches = (
            (self.widths.branch_0,),
            self.widths.branch_1,
            self.widths.branch_2,
            (self.widths.branch_3,),
        )
        return concatenated(
            [
                _Branch(
                    features=tuple(scaled(width, self.width_multiplier) for width in features),
                    pool=number == 3,
                    last_name=_ODD_NAMES.get(f"{self.name}/Branch_{number}", "0b_3x3"),
                    unit=self.unit,
                    name=f"Branch_{number}",
                )(inputs, train)
                for number, features in enumerate(branches)
            ]
        )


class _Branch(nn.Module):
    features: tuple[int, ...]
    pool: bool
    last_name: str
    unit: Callable[..., ConvolutionUnit]

    @nn.compact
    def __call__(self, inputs, train):
        dimensions = inputs.ndim - 2
        ones, threes = (1,) * dimensions, (3,) * dimensions

        def unit(features, window, name):
            return self.unit(features, window, name=f"Conv{dimensions}d_{name}")

        if self.pool:
            return unit(self.features[0], ones, "0b_1x1")(max_pool(inputs, threes, ones), train)
        outputs = unit(self.features[0], ones, "0a_1x1")(inputs, train)
        if len(self.features) == 2:
            outputs = unit(self.features[1], threes, self.last_name)(outputs, train)
        return outputs


def last_pool(outputs: Float[AnyArray, "batch ... channels"]) -> Float32[Array, "batch ... channels"]:
    """The average pool after the last block, 7x7 and over two steps of time for videos, at stride 1 without padding.

    At frames below 224 pixels it covers what is left of the grid, at larger ones it slides.

    Args:
      outputs: float [B, T, H, W, C] or [B, H, W, C].

    Returns:
      float32 of the same rank.
    """
    height, width = outputs.shape[-3:-1]
    window = (2, min(7, height), min(7, width))
    return average_pool(outputs.astype(jnp.float32), window[-(outputs.ndim - 2) :])


class Classifier(nn.Module):
    """The last layer of Inception: a 1x1 (or 1x1x1) convolution with a bias and nothing after it, under its old name.

    Attributes:
      num_classes: class scores it gives.
    """

    num_classes: int

    @nn.compact
    def __call__(self, pooled: Float32[AnyArray, "batch ... channels"]) -> Float32[Array, "batch ... classes"]:
        """Maps float32 [B, ..., C] to scores float32 [B, ..., num_classes]."""
        dimensions = pooled.ndim - 2
        name = f"Conv{dimensions}d_0c_1x1"
        return Convolution(self.num_classes, (1,) * dimensions, use_bias=True, name=name)(pooled)
