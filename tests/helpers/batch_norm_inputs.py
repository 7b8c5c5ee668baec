"""What batch normalisation is tested with, here and against PyTorch."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

# Batch, frames, height, width and channels.
SHAPE = (2, 3, 5, 4, 6)


def example(dtype: str, mean: float):
    """Inputs of about this mean and gradients, arrays of a dtype and of SHAPE, and an offset, float32 [SHAPE[-1]]."""
    random = np.random.default_rng(0)
    inputs, gradient = (jnp.asarray(random.normal(size=SHAPE) + shift, dtype) for shift in (mean, 0))
    return inputs, gradient, jnp.asarray(random.normal(size=SHAPE[-1]) * 0.3, jnp.float32)
