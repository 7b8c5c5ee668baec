"""C3D's published shapes, and the average over a video's clips."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
from helpers.small_networks import small

from i3d_jax import models

# 16x112 -> 8x56 -> 4x28 -> 2x14 -> 1x7 -> 1x4 (reference facts, (b)).
ENDPOINTS = {
    "conv1a": (16, 112, 112, 64),
    "pool1": (8, 56, 56, 64),
    "conv2a": (8, 56, 56, 128),
    "pool2": (4, 28, 28, 128),
    "conv3a": (4, 28, 28, 256),
    "conv3b": (4, 28, 28, 256),
    "pool3": (2, 14, 14, 256),
    "conv4a": (2, 14, 14, 512),
    "conv4b": (2, 14, 14, 512),
    "pool4": (1, 7, 7, 512),
    "conv5a": (1, 7, 7, 512),
    "conv5b": (1, 7, 7, 512),
    "pool5": (1, 4, 4, 512),
    "fc6": (1, 4096),
    "fc7": (1, 4096),
    "features": (1, 4096),
    "Logits": (487,),
    "Predictions": (487,),
}


def test_endpoints():
    model = models.create("c3d", num_classes=487)
    inputs = {"rgb": jax.ShapeDtypeStruct((2, 16, 112, 112, 3), jnp.float32)}
    _, endpoints = jax.eval_shape(model.apply, models.template(model), inputs)
    assert {name: value.shape[1:] for name, value in endpoints.items()} == ENDPOINTS


def test_a_longer_video_is_the_average_of_its_clips():
    model, variables, _ = small("c3d")
    video = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (2, 50, 32, 32, 3)), jnp.float32)
    apply = jax.jit(lambda video: model.apply(variables, {"rgb": video}))
    logits, endpoints = apply(video)
    clips = [apply(video[:, start : start + 16])[0] for start in (0, 16, 32)]
    chex.assert_trees_all_close(logits, sum(clips) / 3, rtol=1e-5, atol=1e-6)
    assert endpoints["conv1a"].shape == (2, 48, 32, 32, 8)
    assert endpoints["fc7"].shape == (2, 3, 512)


def test_every_layer_but_the_last_is_normalised_without_a_gain():
    variables = models.template(models.create("c3d"))
    layers = ["conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b", "fc6", "fc7"]
    assert list(variables["batch_stats"]) == sorted(layers)
    assert all(set(variables["params"][layer]["batch_norm"]) == {"bias"} for layer in layers)
    assert set(variables["params"]) == {*layers, "Logits"}
    assert variables["params"]["fc6"]["fully_connected"]["kernel"].shape == (8192, 4096)
