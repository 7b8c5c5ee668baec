"""Inflation by hand-made kernels and by the boring-video law."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from i3d_jax.errors import UserError
from i3d_jax.inflation import inflate
from i3d_jax.models import layers


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
        padding = layers.same_padding(video.shape[1:4], (window,) * 3, (1, 1, 1))
        return layers.convolution(video, kernel, (1, 1, 1), padding)

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
