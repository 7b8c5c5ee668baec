"""Convolution at stride 1 as one product of windows that lie side by side, on CPUs.

Each input is moved as often as there are taps, but the kernel is read as it lies, once. Where there are few positions
and many features it is the kernel that is large.
"""

from __future__ import annotations

import itertools
import operator

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from i3d_jax.shapes import AnyArray


def convolution(
    inputs: Float[AnyArray, "batch ... channels"], kernel: Float[AnyArray, "... channels features"]
) -> Float[Array, "batch ... features"]:
    """Convolves padded videos or images at stride 1.

    Args:
      inputs: float [B, ..., C], padding included.
      kernel: float [..., C, features], of the inputs' rank and dtype.

    Returns:
      float [B, ..., features], each size less by the window's, plus 1.
    """
    *window, channels, features = kernel.shape
    sizes = [size - taps + 1 for size, taps in zip(inputs.shape[1:-1], window, strict=True)]
    seen = [
        lax.slice(inputs, (0, *first, 0), (len(inputs), *map(operator.add, first, sizes), channels))
        for first in itertools.product(*map(range, window))
    ]
    windows = jnp.concatenate(seen, axis=-1)
    outputs = windows.reshape(-1, windows.shape[-1]) @ kernel.reshape(-1, features)
    return outputs.reshape(*windows.shape[:-1], features)
