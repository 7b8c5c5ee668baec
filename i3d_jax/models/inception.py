"""Inception-v1's layers, as I3D uses them, and its block of four branches (paper, figure 3; release, `i3d.py`)."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from i3d_jax.models.layers import ConvolutionUnit, Three, max_pool


class Unit(NamedTuple):
    """A convolution unit of the trunk."""

    features: int
    window: Three
    strides: Three


class Pool(NamedTuple):
    """A max-pool of the trunk."""

    window: Three
    strides: Three


class Mixed(NamedTuple):
    """The widths of a block with four branches; a pair is the 1x1x1 convolution and the 3x3x3 one that follows it."""

    branch_0: int
    branch_1: tuple[int, int]
    branch_2: tuple[int, int]
    branch_3: int


# The trunk in order, by endpoint name, at width 1.
TRUNK: dict[str, Unit | Pool | Mixed] = {
    "Conv3d_1a_7x7": Unit(64, (7, 7, 7), (2, 2, 2)),
    "MaxPool3d_2a_3x3": Pool((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": Unit(64, (1, 1, 1), (1, 1, 1)),
    "Conv3d_2c_3x3": Unit(192, (3, 3, 3), (1, 1, 1)),
    "MaxPool3d_3a_3x3": Pool((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": Mixed(64, (96, 128), (16, 32), 32),
    "Mixed_3c": Mixed(128, (128, 192), (32, 96), 64),
    "MaxPool3d_4a_3x3": Pool((3, 3, 3), (2, 2, 2)),
    "Mixed_4b": Mixed(192, (96, 208), (16, 48), 64),
    "Mixed_4c": Mixed(160, (112, 224), (24, 64), 64),
    "Mixed_4d": Mixed(128, (128, 256), (24, 64), 64),
    "Mixed_4e": Mixed(112, (144, 288), (32, 64), 64),
    "Mixed_4f": Mixed(256, (160, 320), (32, 128), 128),
    "MaxPool3d_5a_2x2": Pool((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": Mixed(256, (160, 320), (32, 128), 128),
    "Mixed_5c": Mixed(384, (192, 384), (48, 128), 128),
}

# The release names this one unit 0a where its siblings are 0b; its checkpoints do too.
_ODD_NAMES = {("Mixed_5b", "Branch_2"): "Conv3d_0a_3x3"}


def scaled(features: int, width_multiplier: float) -> int:
    """Channels of a layer at a width multiplier: rounded, at least 1."""
    return max(1, round(features * width_multiplier))


class MixedBlock(nn.Module):
    """Four branches side by side, concatenated along channels: 1x1x1; 1x1x1 then 3x3x3, twice; max-pool then 1x1x1.

    Attributes:
      widths: channels of the branches at width 1.
      width_multiplier, batch_norm_decay, dtype: as in `I3D`.
    """

    widths: Mixed
    width_multiplier: float = 1.0
    batch_norm_decay: float = 0.999
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        """Maps float [B, T, H, W, C] to [B, T, H, W, sum of the branches' channels]."""
        branches = (
            (self.widths.branch_0,),
            self.widths.branch_1,
            self.widths.branch_2,
            (self.widths.branch_3,),
        )
        return jnp.concatenate(
            [
                _Branch(
                    features=features,
                    pool=number == 3,
                    last_name=_ODD_NAMES.get((self.name, f"Branch_{number}"), "Conv3d_0b_3x3"),
                    width_multiplier=self.width_multiplier,
                    batch_norm_decay=self.batch_norm_decay,
                    dtype=self.dtype,
                    name=f"Branch_{number}",
                )(inputs, train)
                for number, features in enumerate(branches)
            ],
            axis=-1,
        )


class _Branch(nn.Module):
    features: tuple[int, ...]
    pool: bool
    last_name: str
    width_multiplier: float
    batch_norm_decay: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs, train):
        def unit(features, window, name):
            features = scaled(features, self.width_multiplier)
            return ConvolutionUnit(
                features, window, batch_norm_decay=self.batch_norm_decay, dtype=self.dtype, name=name
            )

        if self.pool:
            inputs = max_pool(inputs, (3, 3, 3), (1, 1, 1))
            return unit(self.features[0], (1, 1, 1), "Conv3d_0b_1x1")(inputs, train)
        outputs = unit(self.features[0], (1, 1, 1), "Conv3d_0a_1x1")(inputs, train)
        if len(self.features) == 2:
            outputs = unit(self.features[1], (3, 3, 3), self.last_name)(outputs, train)
        return outputs
