"""A network that compiles in a second, with all that a step touches: batch normalisation, dropout, a kernel."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from i3d_jax.models.layers import Convolution, ConvolutionUnit
from i3d_jax.models.network import cross_entropy


class Tiny(nn.Module):
    num_classes: int = 3
    dropout_rate: float = 0.0
    frozen: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs, train=False):
        options = {"batch_norm_decay": 0.9, "frozen": self.frozen, "dtype": self.dtype}
        outputs = ConvolutionUnit(4, (3, 3, 3), (2, 2, 2), **options, name="unit")(inputs["rgb"], train)
        pooled = outputs.astype(jnp.float32).mean((1, 2, 3), keepdims=True)
        pooled = nn.Dropout(self.dropout_rate, deterministic=not train)(pooled)
        logits = Convolution(self.num_classes, (1, 1, 1), use_bias=True, name="Logits")(pooled)[:, 0, 0, 0]
        return logits, {"features": pooled}

    def clip_losses(self, logits, endpoints, labels, label_smoothing=0.0):
        return cross_entropy(logits, labels, label_smoothing)


def batch(seed: int, size: int = 8) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "rgb": random.integers(0, 256, (size, 4, 8, 8, 3), dtype=np.uint8),
        "label": random.integers(0, 3, size).astype(np.int32),
        "mask": np.ones(size, bool),
        "video": np.array([f"video {seed} {row}" for row in range(size)]),
    }


def variables(model: nn.Module):
    return model.init(jax.random.key(0), {"rgb": jnp.zeros((1, 4, 8, 8, 3))})
