"""The first layer on accelerators, whose few channels are folded with taps or pixels."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i3d_jax.models import lowering


@pytest.mark.parametrize("convolution", [lowering._cuda_convolution, lowering._tpu_convolution])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("shape", "features", "window", "strides"),
    [
        ((2, 9, 21, 24, 3), 8, (7, 7, 7), (2, 2, 2)),
        ((1, 10, 14, 13, 2), 5, (7, 7, 7), (2, 2, 2)),
        ((1, 6, 7, 15, 3), 4, (3, 4, 5), (2, 2, 2)),
        ((2, 7, 8, 9, 3), 4, (3, 5, 3), (2, 2, 1)),
        ((2, 5, 9, 8, 3), 4, (3, 3, 3), (1, 1, 1)),
        ((1, 4, 6, 7, 1), 4, (2, 3, 3), (1, 2, 1)),
    ],
)
def test_the_first_layer_on_accelerators_is_the_native_convolution(
    shape, features, window, strides, dtype, convolution
):
    """What is lowered for them, on the device at hand; gradients too."""
    draw = np.random.default_rng(0)
    padding = lowering.same_padding(shape[1:-1], window, strides)
    inputs = jnp.asarray(draw.standard_normal(shape), dtype)
    kernel = jnp.asarray(draw.standard_normal((*window, shape[-1], features)), dtype)
    forward = {"strides": strides, "padding": padding}
    numbers = ("NDHWC", "DHWIO", "NDHWC")

    def native(inputs, kernel):
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=numbers)

    expected, backward = jax.vjp(native, inputs.astype(jnp.float32), kernel.astype(jnp.float32))
    gradient = draw.standard_normal(expected.shape).astype(dtype)
    found, own_backward = jax.vjp(lambda *arguments: convolution(*arguments, **forward), inputs, kernel)
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    pairs = zip((found, *own_backward(gradient)), (expected, *backward(gradient.astype(np.float32))), strict=True)
    for own, other in pairs:
        assert own.dtype == dtype
        np.testing.assert_allclose(np.float32(own), other, atol=tolerance * float(jnp.abs(other).max()))


def test_on_tpus_what_is_not_finite_reaches_the_windows_of_its_blocks():
    strides, window = (2, 2, 2), (3, 3, 3)
    inputs = np.random.default_rng(0).standard_normal((1, 8, 12, 10, 3)).astype(np.float32)
    kernel = np.ones((*window, 3, 4), np.float32)
    padding = lowering.same_padding(inputs.shape[1:-1], window, strides)
    whole = lowering._tpu_convolution(jnp.asarray(inputs), kernel, strides=strides, padding=padding)
    inputs[0, 5, 4, 3, 1] = np.inf
    found = lowering._tpu_convolution(jnp.asarray(inputs), kernel, strides=strides, padding=padding)
    # Windows begin at every second frame and row, and are four long with their zeros: two hold 4 and 5.
    reached = np.zeros(found.shape, bool)
    reached[:, 1:3, 1:3] = True
    assert not np.isfinite(found[reached]).any()
    np.testing.assert_allclose(found[~reached], whole[~reached], rtol=1e-5)


@pytest.mark.parametrize(("platform", "seen"), [("cuda", "4x16x16x24"), ("rocm", "1x8x16x16x3"), ("tpu", "1x4x8x8x24")])
def test_on_nvidias_gpus_and_tpus_the_first_layer_alone_is_folded(platform, seen):
    def layers(inputs, first, second):
        return lowering.convolution(
            lowering.convolution(inputs, first, (2, 2, 2), ((2, 3),) * 3), second, (1, 1, 1), ((1, 1),) * 3
        )

    shapes = jnp.ones((1, 8, 16, 16, 3)), jnp.ones((7, 7, 7, 3, 8)), jnp.ones((3, 3, 3, 8, 8))
    program = jax.export.export(jax.jit(layers), platforms=[platform])(*shapes).mlir_module()
    inputs = re.findall(r"stablehlo.convolution.*?: \(tensor<([^>]*)xf32>", program)
    # Seven taps of three channels, and three zeros; blocks of 2x2x2 pixels of three channels.
    assert inputs == [seen, "1x4x8x8x8"]
