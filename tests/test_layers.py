"""The layers against XLA's native operations and against tables by hand."""

from __future__ import annotations

import contextlib
import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from i3d_jax.models import layers, lowering, pooling, winograd
from i3d_jax.models.purpose import for_default_platform, for_shapes, for_translation

# (frames, height, width, channels, features, window, strides): stem-like, pointwise, deep and thin ones, odd and even.
CONVOLUTIONS = [
    (9, 21, 24, 3, 8, (7, 7, 7), (2, 2, 2)),
    (8, 16, 15, 3, 8, (7, 7, 7), (2, 2, 2)),
    # Few channels and many features.
    (7, 13, 12, 3, 64, (7, 7, 7), (2, 2, 2)),
    (4, 9, 10, 5, 65, (3, 3, 3), (1, 1, 1)),
    (3, 5, 4, 8, 6, (1, 1, 1), (1, 1, 1)),
    (4, 6, 5, 5, 7, (3, 3, 3), (1, 1, 1)),
    (3, 7, 6, 24, 4, (3, 3, 3), (1, 1, 1)),
    (5, 8, 9, 30, 4, (3, 3, 3), (2, 2, 2)),
    (1, 8, 9, 30, 4, (1, 3, 3), (1, 2, 2)),
    (4, 5, 5, 6, 3, (1, 1, 1), (2, 2, 2)),
    (6, 4, 4, 6, 3, (3, 1, 1), (1, 1, 1)),
    # Fewer positions than features.
    (2, 3, 4, 5, 50, (3, 3, 3), (1, 1, 1)),
    (1, 4, 5, 7, 41, (1, 3, 3), (1, 1, 1)),
    (3, 2, 2, 60, 24, (3, 2, 1), (1, 1, 1)),
    # Large enough for Winograd's filtering, by tiles of 2x2 and of 4x4 outputs, at odd and even sizes; taps become
    # channels, features and neither.
    (3, 41, 40, 64, 96, (3, 3, 3), (1, 1, 1)),
    (3, 34, 33, 96, 64, (3, 3, 3), (1, 1, 1)),
    (2, 32, 35, 96, 160, (1, 3, 3), (1, 1, 1)),
    (4, 35, 34, 128, 80, (1, 3, 3), (1, 1, 1)),
    # Where steps in time follow each other, three or two at once.
    (6, 64, 33, 64, 80, (3, 3, 3), (1, 1, 1)),
]


def native(inputs, kernel, strides):
    return lax.conv_general_dilated(inputs, kernel, strides, "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


def native_max_pool(inputs, window, strides):
    return lax.reduce_window(inputs, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), "SAME")


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize(("jit", "clips"), [(True, 2), (False, 2), (True, 1)])
def test_convolution_and_its_gradients_are_the_native_ones(case, jit, clips):
    frames, height, width, channels, features, window, strides = case
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (clips, frames, height, width, channels))
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


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution_and_its_gradients_in_bfloat16_are_sums_in_float32(case):
    """Each number is that of the native convolution in float32, rounded once or twice."""
    frames, height, width, channels, features, window, strides = case
    draw = np.random.default_rng(0)
    inputs = jnp.asarray(draw.standard_normal((1, frames, height, width, channels)), jnp.bfloat16)
    kernel = jnp.asarray(draw.standard_normal((*window, channels, features)), jnp.bfloat16)
    padding = lowering.same_padding(inputs.shape[1:4], window, strides)
    exact = inputs.astype(jnp.float32), kernel.astype(jnp.float32)
    expected, pull_expected = jax.vjp(lambda inputs, kernel: native(inputs, kernel, strides), *exact)
    gradient = jnp.asarray(draw.standard_normal(expected.shape), jnp.bfloat16)
    outputs, pull = jax.vjp(lambda *both: lowering.convolution(*both, strides, padding), inputs, kernel)
    wanted = expected, *pull_expected(gradient.astype(jnp.float32))
    for found, exactly in zip((outputs, *pull(gradient)), wanted, strict=True):
        assert found.dtype == jnp.bfloat16
        assert jnp.abs(found.astype(jnp.float32) - exactly).max() <= 2**-7 * jnp.abs(exactly).max()


@pytest.mark.parametrize("odd", [np.nan, -np.inf])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_what_is_not_finite_shows_where_it_does_natively(case, odd):
    """In outputs and both gradients. Winograd's filtering spreads it over tiles, but not beyond, nor away."""
    frames, height, width, channels, features, window, strides = case
    draw = np.random.default_rng(0)
    inputs = draw.standard_normal((1, frames, height, width, channels)).astype(np.float32)
    kernel = draw.standard_normal((*window, channels, features)).astype(np.float32)
    padding = lowering.same_padding(inputs.shape[1:4], window, strides)

    def not_finite(convolution, inputs, gradient):
        outputs, pull = jax.vjp(convolution, inputs, kernel)
        return [~np.isfinite(array) for array in (outputs, *pull(gradient))]

    ours = functools.partial(lowering.convolution, strides=strides, padding=padding)
    theirs = functools.partial(native, strides=strides)
    gradient = draw.standard_normal(jax.eval_shape(theirs, inputs, kernel).shape).astype(np.float32)
    spoiled, of_outputs = inputs.copy(), gradient.copy()
    spoiled[0, frames // 2, height // 2, width // 3, 1] = odd
    of_outputs[0, gradient.shape[1] // 2, gradient.shape[2] // 2, gradient.shape[3] // 3, 2] = odd
    filtered = height > 30
    for video, returned in ((spoiled, gradient), (inputs, of_outputs)):
        for found, expected in zip(*(not_finite(one, video, returned) for one in (ours, theirs)), strict=True):
            assert expected.any() or not found.any()
            assert (found | ~expected).all()
            if filtered and found.ndim == 5 and found.shape[0] == 1:
                # A tile of 4x4 may reach three pixels further to each side.
                near = native_max_pool(expected.astype(np.float32), (1, 7, 7), (1, 1, 1)) > 0
                assert not (found & ~near.any(-1, keepdims=True)).any()
            elif not filtered:
                np.testing.assert_array_equal(found, expected)


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

    expected, pull_expected = jax.vjp(lambda inputs: native_max_pool(inputs, window, strides), values)
    outputs, pull = jax.vjp(lambda inputs: pooling.max_pool(inputs, window, strides), values)
    chex.assert_trees_all_equal(outputs, expected)
    gradient = jnp.asarray(np.random.default_rng(1).integers(-9, 9, expected.shape), jnp.float32)
    chex.assert_trees_all_equal(pull(gradient), pull_expected(gradient))


@pytest.mark.parametrize("window", [(1, 3, 3), (3, 3, 3), (2, 2, 2)])
@pytest.mark.parametrize("strides", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("shape", [(2, 5, 7, 8, 3), (1, 4, 6, 5, 2)])
def test_the_gradient_of_a_pool_on_gpus_is_the_native_one_with_ties_too(window, strides, shape):
    """What is lowered for them, on the device at hand."""
    draw = np.random.default_rng(0)
    pool = {"window": window, "strides": strides, "padding": lowering.same_padding(shape[1:-1], window, strides)}

    @jax.jit
    def theirs(inputs, gradient):
        return jax.vjp(lambda inputs: native_max_pool(inputs, window, strides), inputs)[1](gradient)[0]

    ours = jax.jit(functools.partial(pooling.gathered_gradient, **pool))
    pooled = jax.eval_shape(lambda inputs: native_max_pool(inputs, window, strides), jnp.zeros(shape))
    for odd, share in ((0, 0), (np.inf, 0.2), (-np.inf, 0.7)):
        inputs = draw.integers(-2, 3, shape).astype(np.float32)
        inputs[draw.random(shape) < share] = odd
        gradient = draw.integers(-9, 9, pooled.shape).astype(np.float32)
        np.testing.assert_array_equal(ours(inputs, gradient), theirs(inputs, gradient), err_msg=str(odd))
    # What is no number stays in its windows, and none of their gradient is lost.
    inputs[..., 0] = draw.integers(-2, 3, shape[:-1])
    inputs[:, 1, 2, 3, 0] = np.nan
    found, expected = ours(inputs, gradient), theirs(inputs, gradient)
    assert found.sum() == expected.sum()
    np.testing.assert_array_equal(found[..., 1:], expected[..., 1:])
    np.testing.assert_array_equal(found[:, :, 5:, :, 0], expected[:, :, 5:, :, 0])


def test_the_gradient_of_a_pool_in_bfloat16_is_summed_in_float32():
    inputs = jnp.array([1, 2, 1], jnp.bfloat16).reshape(1, 1, 1, 3, 1)
    pool = {"window": (1, 1, 3), "strides": (1, 1, 1), "padding": ((0, 0), (0, 0), (1, 1))}
    # One after the other in bfloat16 each 1 would be rounded away beside 256.
    gradient = jnp.array([1, 256, 1], jnp.bfloat16).reshape(1, 1, 1, 3, 1)
    found = pooling.gathered_gradient(inputs, gradient, **pool)
    assert (found.dtype, found.ravel().tolist()) == (jnp.bfloat16, [0, 258, 0])


@pytest.mark.parametrize(("platform", "written"), [("cuda", True), ("rocm", True), ("tpu", False), ("cpu", False)])
def test_on_gpus_what_is_concatenated_is_written_out(platform, written):
    parts = [jnp.ones((2, 3)), 2 * jnp.ones((2, 1))]
    program = jax.export.export(jax.jit(lowering.concatenated), platforms=[platform])(parts).mlir_module()
    assert ("optimization_barrier" in program) == written
    assert lowering.concatenated(parts).tolist() == [[1, 1, 1, 2]] * 2


@pytest.mark.parametrize(("platform", "native"), [("cuda", False), ("rocm", False), ("tpu", True), ("cpu", False)])
def test_gpus_gather_the_gradient_of_a_pool(platform, native):
    def gradient(inputs):
        return jax.grad(lambda inputs: pooling.max_pool(inputs, (3, 3, 3), (2, 2, 2)).sum())(inputs)

    program = jax.export.export(jax.jit(gradient), platforms=[platform])(jnp.ones((1, 4, 8, 8, 2))).mlir_module()
    assert ("select_and_scatter" in program) == native
    # Which input has won is a byte.
    assert ("xui8>" in program) == (platform in ("cuda", "rocm"))


def test_tied_maxima_share_the_gradient():
    inputs = jnp.ones((1, 1, 1, 2, 1))
    gradient = jax.grad(lambda inputs: pooling.max_pool(inputs, (1, 1, 2), (1, 1, 2)).sum())(inputs)
    chex.assert_trees_all_equal(gradient.ravel(), jnp.array([0.5, 0.5]))


def test_average_pool_by_hand():
    inputs = jnp.arange(12.0).reshape(1, 3, 2, 2, 1)
    outputs = pooling.average_pool(inputs, (2, 2, 2))
    chex.assert_trees_all_close(outputs, jnp.array([3.5, 7.5]).reshape(1, 2, 1, 1, 1))


def test_release_initializer():
    kernel = layers.release_initializer(jax.random.key(0), (3, 3, 3, 16, 256))
    deviation = 1 / np.sqrt(27 * 16)
    assert jnp.abs(kernel).max() <= 2 * deviation + 1e-7
    # A normal distribution cut off at two deviations has 0.8796 of the deviation.
    np.testing.assert_allclose(kernel.std(), 0.8796 * deviation, rtol=0.01)
    assert abs(float(kernel.mean())) < 0.01 * deviation


@pytest.mark.parametrize("size", [(8, 9), (7, 6), (3, 12)])
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize(("outputs", "tolerance"), [(2, 2e-6), (4, 1e-5)])
def test_winograds_filtering_is_the_plain_convolution(size, jit, outputs, tolerance, monkeypatch):
    """By tiles of 2x2 and of 4x4 outputs, within what each may round."""
    monkeypatch.setattr(winograd, "_LEAST_TILES", 0 if outputs == 4 else 10**9)
    monkeypatch.setattr(winograd, "_LEAST_CHANNELS", 0)
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
        # A function of its own: JAX would take a program that it has of the other tiles.
        own = functools.partial(ours)
        text = jax.jit(own).lower(*arguments).as_text()
        assert re.search(rf"stablehlo.dot_general.*-> tensor<{(outputs + 2) ** 2}x", text)
        found = (jax.jit(own) if jit else own)(*arguments)
        assert jnp.abs(found - wanted).max() <= tolerance * jnp.abs(wanted).max()


@pytest.mark.parametrize(("frames", "height", "loops"), [(5, 80, 1), (5, 16, 0), (1, 240, 0)])
def test_large_videos_go_through_winograds_filtering_step_by_step(frames, height, loops):
    """Small ones, and images, at once."""
    clips, kernel = jnp.ones((1, frames, height, 33, 64)), jnp.ones((3, 3, 3, 64, 80))
    padding = lowering.same_padding(clips.shape[1:4], (3, 3, 3), (1, 1, 1))
    text = jax.jit(lambda *both: lowering.convolution(*both, (1, 1, 1), padding)).lower(clips, kernel).as_text()
    assert text.count("stablehlo.convolution") == 0
    assert text.count("stablehlo.while") == loops


@pytest.mark.parametrize("purpose", [for_translation, for_shapes])
def test_what_is_not_run_here_does_without_winograds_filtering(purpose):
    images, kernel = jnp.ones((1, 40, 41, 128)), jnp.ones((3, 3, 128, 256))
    padding = lowering.same_padding((40, 41), (3, 3), (1, 1))

    def convolutions():
        text = jax.jit(lambda *arrays: lowering.convolution(*arrays, (1, 1), padding)).lower(images, kernel).as_text()
        return text.count("stablehlo.convolution")

    assert convolutions() == 0
    with purpose():
        assert convolutions() == 1
    assert convolutions() == 0


@pytest.mark.parametrize("size", [(7, 9), (8, 8)])
def test_few_positions_are_one_product(size):
    """At 64 positions and 64 features the windows are as large as the kernel; an empty context is any purpose."""
    images, kernel = jnp.ones((1, *size, 5)), jnp.ones((3, 3, 5, 64))
    padding = lowering.same_padding(size, (3, 3), (1, 1))

    def operations(purpose, features=64):
        with purpose():
            lowered = jax.jit(lambda *arrays: lowering.convolution(*arrays, (1, 1), padding)).lower(
                images, kernel[..., :features]
            )
        text = lowered.as_text()
        return text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")

    assert operations(contextlib.nullcontext) == operations(for_default_platform) == (0, 1)
    # Another runtime knows a convolution; and one position too many is not few.
    assert operations(for_translation) == operations(contextlib.nullcontext, features=62) == (1, 0)


@pytest.mark.parametrize(
    ("shape", "features", "window", "strides", "sent_by_kernel"),
    [
        # First layers, whose clips are gone through one after the other.
        ((8, 16, 16, 3), 64, (7, 7, 7), (2, 2, 2), 1),
        ((8, 16, 16, 3), 64, (3, 3, 3), (1, 1, 1), 1),
        # Winograd's filtering sums its 16 products for 9 taps, or its 36.
        ((4, 12, 12, 64), 96, (3, 3, 3), (1, 1, 1), 16 / 9),
        ((4, 24, 24, 64), 96, (3, 3, 3), (1, 1, 1), 36 / 9),
        # Its loop over time.
        ((8, 48, 40, 64), 96, (3, 3, 3), (1, 1, 1), 36 / 9),
        # Few positions.
        ((2, 3, 3, 24), 96, (3, 3, 3), (1, 1, 1), 1),
    ],
)
def test_a_layers_gradient_brings_no_clips_to_other_devices(shape, features, window, strides, sent_by_kernel):
    """What the devices sum is the kernel's gradient alone."""
    split = NamedSharding(Mesh(jax.devices()[:2], "clips"), PartitionSpec("clips"))
    padding = lowering.same_padding(shape[:3], window, strides)

    def total(kernel, clips):
        return jnp.square(lowering.convolution(clips, kernel, strides, padding)).sum()

    kernel, clips = jnp.ones((*window, shape[3], features)), jax.device_put(jnp.ones((4, *shape)), split)
    program = jax.jit(jax.grad(total)).lower(kernel, clips).compile().as_text()
    sent = re.findall(r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute)(?:-start)?\(", program)
    assert [name for _, name in sent] == ["all-reduce"]
    assert (
        math.prod(map(int, re.findall(r"\d+", sent[0][0].split("{")[0].removeprefix("f32"))))
        == sent_by_kernel * kernel.size
    )


@pytest.mark.parametrize(("channels", "features"), [(63, 256), (256, 63)])
def test_thin_layers_do_without_winograds_filtering(channels, features):
    images, kernel = jnp.ones((4, 40, 41, channels)), jnp.ones((3, 3, channels, features))
    padding = lowering.same_padding((40, 41), (3, 3), (1, 1))
    text = jax.jit(lambda *arrays: lowering.convolution(*arrays, (1, 1), padding)).lower(images, kernel).as_text()
    assert text.count("stablehlo.convolution") == 1


def test_what_is_for_one_platform_leaves_the_others_out_and_nothing_else():
    keys = jax.random.split(jax.random.key(0), 2)
    video, kernel = jax.random.normal(keys[0], (2, 5, 9, 8, 6)), jax.random.normal(keys[1], (3, 3, 3, 6, 4))
    padding = lowering.same_padding((5, 9, 8), (3, 3, 3), (1, 1, 1))

    def traced():
        def total(video, kernel):
            outputs = lowering.convolution(video, kernel, (1, 1, 1), padding)
            return jnp.square(pooling.max_pool(outputs, (2, 3, 3), (2, 2, 2))).sum()

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1))).trace(video, kernel)

    anywhere = traced()
    with for_default_platform():
        here = traced()
    # Forwards and backwards, of the convolution and of the pool.
    assert str(anywhere.jaxpr).count("platform_index") == 4
    assert "platform_index" not in str(here.jaxpr)
    found, expected = (one.lower().compile()(video, kernel) for one in (here, anywhere))
    chex.assert_trees_all_equal(found, expected)


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
