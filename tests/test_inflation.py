"""Inflation by hand-made kernels and by the boring-video law."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from i3d_jax import models
from i3d_jax.inflation import inflate, inflate_trunks
from i3d_jax.models import lowering
from i3d_jax.system.errors import UserError


def tree(kernel, **more):
    return {"params": {"unit": {"conv": {"kernel": kernel}}}, **more}


def inflated(kernel, shape, **options):
    template = tree(jax.ShapeDtypeStruct(shape, jnp.float32))
    return inflate(tree(jnp.asarray(kernel, jnp.float32)), template, **options)["params"]["unit"]["conv"]["kernel"]


def test_kernels_are_repeated_and_divided():
    kernel = np.arange(18.0).reshape(3, 3, 2, 1)
    found = inflated(kernel, (3, 3, 3, 2, 1))
    chex.assert_trees_all_close(found, np.stack([kernel / 3] * 3))
    found = inflated(kernel, (3, 3, 3, 2, 1), profile="centre")
    chex.assert_trees_all_close(found, np.stack([0 * kernel, kernel, 0 * kernel]))


def test_colour_becomes_flow_by_the_mean():
    kernel = np.array([1.0, 2.0, 6.0]).reshape(1, 1, 3, 1)
    chex.assert_trees_all_close(inflated(kernel, (1, 1, 1, 2, 1)), np.full((1, 1, 1, 2, 1), 3.0))
    chex.assert_trees_all_close(inflated(kernel, (1, 1, 1, 20, 1)), np.full((1, 1, 1, 20, 1), 3.0))


def test_offsets_and_statistics_are_copied():
    kernel = np.ones((3, 3, 2, 4))
    images = tree(kernel, batch_stats={"unit": {"mean": np.arange(4.0)}})
    template = tree(np.zeros((3, 3, 3, 2, 4), np.float32), batch_stats={"unit": {"mean": np.zeros(4, np.float32)}})
    chex.assert_trees_all_close(inflate(images, template)["batch_stats"]["unit"]["mean"], np.arange(4.0))


@pytest.mark.parametrize("window", [1, 3, 7])
@pytest.mark.parametrize("jit", [True, False])
def test_a_boring_video_gives_the_images_activations(window, jit):
    keys = jax.random.split(jax.random.key(0))
    image, kernel = jax.random.normal(keys[0], (2, 9, 8, 3)), jax.random.normal(keys[1], (window, window, 3, 5))
    expected = lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    frames = 2 * window + 1
    video = jnp.repeat(image[:, None], frames, axis=1)

    def activations(kernel):
        kernel = inflated(kernel, (window, window, window, 3, 5))
        padding = lowering.same_padding(video.shape[1:4], (window,) * 3, (1, 1, 1))
        return lowering.convolution(video, kernel, (1, 1, 1), padding)

    found = (jax.jit(activations) if jit else activations)(kernel)
    # Away from the ends, where SAME padding puts black frames.
    middle = found[:, window // 2 : frames - window // 2]
    chex.assert_trees_all_close(middle, jnp.broadcast_to(expected[:, None], middle.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "videos", "words"),
    [
        ({"a": (3, 3, 2, 4)}, {"a": (3, 3, 3, 2, 5)}, r"a is \[3, 3, 2, 4\] in the image network, a \[3, 3, 3, 2, 5\]"),
        ({"a": (4,), "b": (4,)}, {"a": (4,)}, "only the image network has b"),
        ({"a": (4,)}, {"a": (4,), "c": (4,)}, "only the video network has c"),
    ],
)
def test_what_does_not_fit_is_named(images, videos, words):
    images, videos = ({name: np.zeros(shape, np.float32) for name, shape in side.items()} for side in (images, videos))
    with pytest.raises(UserError, match=words):
        inflate(images, videos)


def test_an_unknown_profile_is_named():
    with pytest.raises(UserError, match="found 'median'"):
        inflate({}, {}, profile="median")


# --- the boring-video fixed point of the whole network ----------------------------------------------------------------

NARROW = {"num_classes": 4, "width_multiplier": 0.125}
# What each endpoint adds in time, by hand from the release's table: (window, stride); a block is its widest branch.
TIME = {
    "Conv3d_1a_7x7": (7, 2),
    "MaxPool3d_2a_3x3": (1, 1),
    "Conv3d_2b_1x1": (1, 1),
    "Conv3d_2c_3x3": (3, 1),
    "MaxPool3d_3a_3x3": (1, 1),
    "Mixed_3b": (3, 1),
    "Mixed_3c": (3, 1),
    "MaxPool3d_4a_3x3": (3, 2),
    "Mixed_4b": (3, 1),
    "Mixed_4c": (3, 1),
    "Mixed_4d": (3, 1),
    "Mixed_4e": (3, 1),
    "Mixed_4f": (3, 1),
    "MaxPool3d_5a_2x2": (2, 2),
    "Mixed_5b": (3, 1),
    "Mixed_5c": (3, 1),
}


def image_network(stream="rgb", **options):
    """A narrow Inception-v1 whose offsets and statistics are as random as its kernels."""
    model = models.create("inception_v1", **NARROW, stream=stream, **options)
    template, random = models.template(model), np.random.default_rng(5)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return random.normal(size=leaf.shape, scale=np.sqrt(2 / np.prod(leaf.shape[:-1])))
        return random.uniform(0.5, 1.5, leaf.shape) if path[-1].key == "var" else random.normal(size=leaf.shape) / 10

    return model, jax.tree_util.tree_map_with_path(lambda *leaf: draw(*leaf).astype(np.float32), template)


def image_and_video_endpoints(frames, size, *, stem_padding="same", profile="average", **options):
    """The endpoints of an image, and those of the inflated network of the video that repeats it, by I3D's names."""
    network, variables = image_network(stem_padding=stem_padding)
    image = np.random.default_rng(6).uniform(-1, 1, (1, *size, 3)).astype(np.float32)
    _, of_image = jax.jit(network.apply)(variables, {"rgb": image})
    inflated = models.create("i3d", **NARROW, stem_padding=stem_padding, **options)
    video = {"rgb": np.repeat(image[:, None], frames, axis=1)}
    video_variables = inflate(variables, models.template(inflated), profile=profile)
    _, of_video = jax.jit(inflated.apply)(video_variables, video)
    images = {}
    for name, value in of_image.items():
        name = name.replace("MaxPool_", "MaxPool3d_").replace("Conv2d", "Conv3d")
        # Of every step of the video, but of what has no time: its scores.
        images[name] = value if name in ("Logits", "Predictions") else value[:, None]
    assert images.keys() == of_video.keys()
    return images, of_video


def deviation(images, videos):
    return float(jnp.abs(videos - images).max() / jnp.abs(images).max())


@pytest.mark.parametrize(
    ("frames", "size", "options"),
    [
        (16, (64, 48), {}),
        (17, (33, 57), {}),
        (10, (32, 32), {"profile": "centre"}),
        (9, (48, 34), {"stem_padding": "symmetric"}),
    ],
)
def test_every_endpoint_of_a_boring_video_is_the_images(frames, size, options):
    images, videos = image_and_video_endpoints(frames, size, temporal_padding="replicate", **options)
    for name, of_image in images.items():
        assert deviation(of_image, videos[name]) <= 1e-5, name


def test_with_zeros_a_boring_video_gives_the_images_activations_away_from_the_ends():
    frames = 128
    images, videos = image_and_video_endpoints(frames, (32, 32))
    # The first and the last frame that each step of the endpoint sees.
    first = last = np.arange(frames)
    for name, (window, stride) in TIME.items():
        steps = -(-len(first) // stride)
        before = max((steps - 1) * stride + window - len(first), 0) // 2
        begin = np.arange(steps) * stride - before
        ends = [
            np.interp(begin + shift, np.arange(len(edge)), edge, left=-1, right=frames)
            for edge, shift in ((first, 0), (last, window - 1))
        ]
        first, last = ends
        inside = (first >= 0) & (last <= frames - 1)
        assert inside.any(), name
        assert deviation(images[name], videos[name][:, inside]) <= 1e-5, name
        if window > 1:
            assert deviation(images[name], videos[name]) > 1e-3, f"{name} has no borders"
    # At Mixed_5c 99 frames are seen (reference facts).
    assert last[len(last) // 2] - first[len(first) // 2] == 98


@pytest.mark.parametrize(("name", "scopes"), [("two_stream", ("RGB", "Flow")), ("conv_lstm", ("InceptionV1",))])
def test_trunks_start_from_the_image_network(name, scopes):
    _, images = image_network()
    model = models.create(name, **NARROW)
    fresh = jax.tree.map(lambda leaf: np.full(leaf.shape, 9, np.float32), models.template(model))
    started = inflate_trunks(images, fresh, model.image_trunks)
    chex.assert_trees_all_equal_shapes_and_dtypes(started, fresh)
    assert tuple(model.image_trunks) == scopes
    for scope in scopes:
        for collection in ("params", "batch_stats"):
            trunk, own = started[collection][scope], images[collection]
            chex.assert_trees_all_equal(trunk["Mixed_4c"], own["Mixed_4c"])
            chex.assert_trees_all_equal(trunk["Conv2d_1a_7x7"]["batch_norm"], own["Conv2d_1a_7x7"]["batch_norm"])
        kernel = own = images["params"]["Conv2d_1a_7x7"]["conv_2d"]["kernel"]
        if scope == "Flow":
            kernel = np.repeat(own.mean(axis=2, keepdims=True), 20, axis=2)
        chex.assert_trees_all_close(started["params"][scope]["Conv2d_1a_7x7"]["conv_2d"]["kernel"], kernel, rtol=1e-6)
        # The classifier of ImageNet's classes stays behind.
        classifier = started["params"][scope].get("Logits", {})
        chex.assert_trees_all_equal(classifier, fresh["params"][scope].get("Logits", {}))


def test_trunks_of_i3d_start_from_the_image_network():
    _, images = image_network()
    model = models.create("i3d", num_classes=7, width_multiplier=0.125, stream="flow")
    fresh = jax.tree.map(lambda leaf: np.full(leaf.shape, 9, np.float32), models.template(model))
    started = inflate_trunks(images, fresh, model.image_trunks)
    chex.assert_trees_all_equal_shapes_and_dtypes(started, fresh)
    chex.assert_trees_all_equal(started["params"]["Logits"], fresh["params"]["Logits"])
    kernel = images["params"]["Conv2d_1a_7x7"]["conv_2d"]["kernel"]
    expected = np.broadcast_to(kernel.mean(axis=2)[None, :, :, None] / 7, (7, 7, 7, 2, 8))
    chex.assert_trees_all_close(started["params"]["Conv3d_1a_7x7"]["conv_3d"]["kernel"], expected, rtol=1e-5)


def test_c3d_has_no_trunk_of_an_image_network():
    with pytest.raises(UserError, match="trained from scratch"):
        inflate_trunks({}, {}, models.create("c3d").image_trunks)


def test_a_template_with_fewer_layers_is_refused():
    _, images = image_network()
    template = models.template(models.create("i3d", **NARROW))
    del template["params"]["Mixed_5c"]
    with pytest.raises(UserError, match="only the image network has params/Mixed_5c/Branch_0/Conv2d_0a_1x1"):
        inflate(images, template)
