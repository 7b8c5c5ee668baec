"""Every architecture narrow and with its smallest clips, and variables as a trained network has them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from i3d_jax import models

# Clips as small as the networks take them: frames, pixels a side and options. The trunks of the others are
# Inception-v1's and I3D's, which are as deep as they are; their own end at a block that has every kind of layer.
SHALLOW = {"last_block": "Mixed_3c"}
SMALL = {
    "inception_v1": (1, 32, {}),
    "conv_lstm": (3, 32, SHALLOW),
    "c3d": (16, 32, {"frame_size": 32}),
    "two_stream": (1, 32, SHALLOW),
    "fused": (5, 32, SHALLOW),
    "i3d": (9, 32, {}),
    "two_stream_i3d": (9, 32, SHALLOW),
}


@functools.cache
def small(name: str):
    """A narrow network of three classes with its variables and a batch of four clips."""
    frames, size, options = SMALL[name]
    model = models.create(name, num_classes=3, width_multiplier=0.125, dropout_rate=0.0, **options)
    random = np.random.default_rng(7)
    inputs = {
        stream: jnp.asarray(random.uniform(-1, 1, (4, *shape)), jnp.float32)
        for stream, shape in model.input_shapes(frames, size).items()
    }
    return model, model.init(jax.random.key(0), inputs), inputs


def random_variables(model, seed: int = 3):
    """Variables of a trained kind: activations of about 1, and no offset, statistic or bias that is 0 or 1."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key.endswith("kernel"):
            return random.normal(size=leaf.shape, scale=np.sqrt(2 / np.prod(leaf.shape[:-1])))
        if path[-1].key.endswith(("var", "gain")):
            return random.uniform(0.5, 1.5, leaf.shape)
        return random.normal(size=leaf.shape, scale=0.1)

    drawn = jax.tree_util.tree_map_with_path(draw, models.template(model))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn)
