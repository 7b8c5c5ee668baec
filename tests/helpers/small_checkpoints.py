"""Checkpoints of narrow networks, with random weights."""

from __future__ import annotations

import jax
import numpy as np

from i3d_jax import checkpoint, models
from i3d_jax.data.preprocessing import Preprocessing

LABELS = ("left", "right", "up")


def save_stream(directory, *, stream, flow=None, labels=LABELS):
    """One stream of I3D that sees two windows of nine frames of 32 pixels."""
    options = {"stream": stream, "width_multiplier": 0.0625, "last_block": "Mixed_3c"}
    model = models.create("i3d", len(labels), **options)
    clip = {name: jax.ShapeDtypeStruct((1, *shape), np.float32) for name, shape in model.input_shapes(9, 32).items()}
    preprocessing = {**Preprocessing(short_side=48, flow=flow).to_json(), "crop": 32, "frames": 9, "windows": 2}
    told = checkpoint.Description(
        model="i3d", options=options, num_classes=len(labels), labels=labels, preprocessing=preprocessing
    )
    checkpoint.save(directory, told, model.init(jax.random.key(0), clip))
