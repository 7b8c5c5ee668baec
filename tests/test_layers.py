"""The layers against XLA's native operations and against tables by hand."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from i3d_jax.models import layers, lowering, winograd
from i3d_jax.models.purpose import for_few_runs, for_shapes

# (frames, height, width, channels, features, window, strides): stem-like, pointwise, deep and thin ones, odd and even.
CONVOLUTIONS = [
    (9, 21, 24, 3, 8, (7, 7, 7), (2, 2, 2)),
    (8, 16, 15, 3, 8, (7, 7, 7), (2, 2, 2)),
    (3, 5, 4, 8, 6, (1, 1, 1), (1, 1, 1)),
    (4, 6, 5, 5, 7, (3, 3, 3), (1, 1, 1)),
    (3, 7, 6, 24, 4, (3, 3, 3), (1, 1, 1)),
    (5, 8, 9, 30, 4, (3, 3, 3), (2, 2, 2)),
    (1, 8, 9, 30, 4, (1, 3, 3), (1, 2, 2)),
    (4, 5, 5, 6, 3, (1, 1, 1), (2, 2, 2)),
    (6, 4, 4, 6, 3, (3, 1, 1), (1, 1, 1)),
    # Large enough for Winograd's filtering, at odd and even sizes.
    (3, 41, 40, 64, 96, (3, 3, 3), (1, 1, 1)),
    (2, 32, 35, 96, 160, (1, 3, 3), (1, 1, 1)),
]


def native(inputs, kernel, strides):
    return lax.conv_general_dilated(inputs, kernel, strides, "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("jit", [True, False])
def test_convolution_and_its_gradients_are_the_native_ones(case, jit):
    frames, height, width, channels, features, window, strides = case
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (2, frames, height, width, channels))
    kernel = jax.random.normal(keys[1], (*window, channels, features))
    padding = lowering.same_padding(inputs.shape[1:4], window, strides)

    def ours(inputs, kernel):
        return lowering.convolution(inputs, kernel, strides, padding)

    def theirs(inputs, kernel):
        return native(inputs, kernel, strides)

    expected, pull_expected = jax.vjp(theirs, inputs, kernel)
    gradient = jax.random.normal(keys[2], expected.shape)
    outputs, pull = jax.vjp(jax.jit(ours) if jit else ours, inputs, kernel)
    for found, wanted in zip((outputs, *pull(gradient)), (expected, *pull_expected(gradient)), strict=True):
        assert jnp.abs(found - wanted).max() <= 1e-5 * jnp.abs(wanted).max()


@pytest.mark.parametrize(
    ("size", "window", "stride", "pads"),
    [
        # TensorFlow's rule, from the release: a 7-wide stride-2 window pads 2 and 3 on even sizes, 3 and 3 on odd ones.
        (224, 7, 2, (2, 3)),
        (225, 7, 2, (3, 3)),
        (112, 3, 2, (0, 1)),
        (57, 3, 2, (1, 1)),
        (28, 3, 1, (1, 1)),
        (7, 2, 2, (0, 1)),
        (8, 2, 2, (0, 0)),
        (5, 1, 2, (0, 0)),
    ],
)
def test_same_padding_is_tensorflows(size, window, stride, pads):
    assert lowering.same_padding([size], [window], [stride]) == (pads,)


@pytest.mark.parametrize("window", [(1, 3, 3), (3, 3, 3), (2, 2, 2)])
@pytest.mark.parametrize("strides", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("shape", [(2, 5, 7, 8, 3), (1, 4, 6, 5, 2)])
def test_max_pool_and_its_gradient_are_the_native_ones_without_ties(window, strides, shape):
    # Every value occurs once; all are negative, so that a padding of zero would show.
    values = -1.0 - np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape).astype(np.float32)

    def theirs(inputs):
        return lax.reduce_window(inputs, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), "SAME")

    expected, pull_expected = jax.vjp(theirs, values)
    outputs, pull = jax.vjp(lambda inputs: lowering.max_pool(inputs, window, strides), values)
    chex.assert_trees_all_equal(outputs, expected)
    gradient = jnp.asarray(np.random.default_rng(1).integers(-9, 9, expected.shape), jnp.float32)
    chex.assert_trees_all_equal(pull(gradient), pull_expected(gradient))


def test_tied_maxima_share_the_gradient():
    inputs = jnp.ones((1, 1, 1, 2, 1))
    gradient = jax.grad(lambda inputs: lowering.max_pool(inputs, (1, 1, 2), (1, 1, 2)).sum())(inputs)
    chex.assert_trees_all_equal(gradient.ravel(), jnp.array([0.5, 0.5]))


def test_average_pool_by_hand():
    inputs = jnp.arange(12.0).reshape(1, 3, 2, 2, 1)
    outputs = lowering.average_pool(inputs, (2, 2, 2))
    chex.assert_trees_all_close(outputs, jnp.array([3.5, 7.5]).reshape(1, 2, 1, 1, 1))


def test_release_initializer():
    kernel = layers.release_initializer(jax.random.key(0), (3, 3, 3, 16, 256))
    deviation = 1 / np.sqrt(27 * 16)
    assert jnp.abs(kernel).max() <= 2 * deviation + 1e-7
    # A normal distribution cut off at two deviations has 0.8796 of the deviation.
    np.testing.assert_allclose(kernel.std(), 0.8796 * deviation, rtol=0.01)
    assert abs(float(kernel.mean())) < 0.01 * deviation


@pytest.mark.parametrize("size", [(8, 9), (7, 6)])
@pytest.mark.parametrize("jit", [True, False])
def test_winograds_filtering_is_the_plain_convolution(size, jit):
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (2, *size, 5))
    kernel = jax.random.normal(keys[1], (3, 3, 5, 4))

    def plain(kernel):
        return lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    expected, pull = jax.vjp(plain, kernel)
    gradient = jax.random.normal(keys[2], expected.shape)
    for ours, arguments, wanted in (
        (winograd.convolution, (images, kernel), expected),
        (winograd.kernel_gradient, (images, gradient), pull(gradient)[0]),
    ):
        found = (jax.jit(ours) if jit else ours)(*arguments)
        assert jnp.abs(found - wanted).max() <= 1e-5 * jnp.abs(wanted).max()


@pytest.mark.parametrize("purpose", [for_few_runs, for_shapes])
def test_what_runs_a_few_times_does_without_winograds_filtering(purpose):
    images, kernel = jnp.ones((1, 40, 41, 128)), jnp.ones((3, 3, 128, 256))
    padding = lowering.same_padding((40, 41), (3, 3), (1, 1))

    def convolutions():
        text = jax.jit(lambda *arrays: lowering.convolution(*arrays, (1, 1), padding)).lower(images, kernel).as_text()
        return text.count("stablehlo.convolution")

    assert convolutions() == 0
    with purpose():
        assert convolutions() == 1
    assert convolutions() == 0


def test_bfloat16_stays_out_of_winograds_filtering():
    """Its transforms would cost bfloat16 its last digits: the result is the plain convolution's to the bit."""
    images = jax.random.normal(jax.random.key(0), (2, 40, 40, 64), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 64, 128), jnp.bfloat16)
    padding = lowering.same_padding((40, 40), (3, 3), (1, 1))
    plain = lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    chex.assert_trees_all_equal(lowering.convolution(images, kernel, (1, 1), padding), plain)


@pytest.mark.parametrize(("window", "strides"), [((3, 3), (1, 1)), ((7, 7), (2, 2)), ((1, 1), (1, 1))])
def test_images_are_videos_of_one_frame(window, strides):
    keys = jax.random.split(jax.random.key(0), 3)
    images, kernel = jax.random.normal(keys[0], (2, 9, 8, 6)), jax.random.normal(keys[1], (*window, 6, 4))
    padding = lowering.same_padding((9, 8), window, strides)

    def native(images, kernel):
        return lax.conv_general_dilated(images, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    expected, pull_expected = jax.vjp(native, images, kernel)
    gradient = jax.random.normal(keys[2], expected.shape)
    outputs, pull = jax.vjp(lambda *both: lowering.convolution(*both, strides, padding), images, kernel)
    for found, wanted in zip((outputs, *pull(gradient)), (expected, *pull_expected(gradient)), strict=True):
        assert jnp.abs(found - wanted).max() <= 1e-5 * jnp.abs(wanted).max()


def test_replicated_padding_by_hand():
    unit = layers.Convolution(1, (3, 1, 1), temporal_padding="replicate")
    frames = jnp.array([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1, 1)
    kernel = {"params": {"kernel": jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1, 1, 1)}}
    assert unit.apply(kernel, frames).ravel().tolist() == [211, 421, 442]
    assert unit.clone(temporal_padding="zeros").apply(kernel, frames).ravel().tolist() == [210, 421, 42]


@pytest.mark.parametrize(("size", "starts_at"), [(8, -3), (9, -3)])
def test_symmetric_padding_begins_half_a_window_outside(size, starts_at):
    """A window of seven ones over an image that counts its columns: the first output sums the columns up to 3."""
    unit = layers.Convolution(1, (1, 7), (1, 2), spatial_padding="symmetric")
    image = jnp.arange(1.0, size + 1).reshape(1, 1, size, 1)
    outputs = unit.apply({"params": {"kernel": jnp.ones((1, 7, 1, 1))}}, image).ravel()
    assert outputs[0] == sum(range(1, 7 + starts_at + 1))
    assert outputs.shape == (-(-size // 2),)
