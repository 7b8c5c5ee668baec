"""Batch normalisation with ReLU against PyTorch in float64, and what it keeps for the backward pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i3d_jax.models.batch_norm import BATCH_NORM_EPSILON, batch_statistics_relu

torch = pytest.importorskip("torch")

SHAPE = (2, 3, 5, 4, 6)
# Of outputs and gradients over their largest: float32's and bfloat16's own rounding, a few times.
TOLERANCE = {"float32": 1e-6, "bfloat16": 8e-3}


def example(dtype: str, mean: float):
    """Inputs and gradients of a dtype, as NumPy arrays in float64 of the very same values, and an offset."""
    random = np.random.default_rng(0)
    inputs, gradient = (jnp.asarray(random.normal(size=SHAPE) + shift, dtype) for shift in (mean, 0))
    return inputs, gradient, jnp.asarray(random.normal(size=SHAPE[-1]) * 0.3, jnp.float32)


def torchs(inputs, gradient, offset):
    """Outputs, mean, biased variance and the gradients of inputs and offset, in float64."""
    x, upstream, bias = (
        torch.from_numpy(np.asarray(value, np.float64)).requires_grad_() for value in (inputs, gradient, offset)
    )
    channels_second = x.movedim(-1, 1)
    outputs = torch.relu(
        torch.nn.functional.batch_norm(channels_second, None, None, None, bias, True, 0, BATCH_NORM_EPSILON)
    ).movedim(1, -1)
    outputs.backward(upstream)
    flat = x.detach().reshape(-1, x.shape[-1])
    return [value.detach().numpy() for value in (outputs, flat.mean(0), flat.var(0, correction=0), x.grad, bias.grad)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize(("mean", "shift"), [(0.0, 0.0), (0.7, 0.0), (-8.0, -7.0)])
def test_outputs_statistics_and_gradients_are_pytorchs(dtype, jit, mean, shift):
    inputs, gradient, offset = example(dtype, mean)
    shift = jnp.full(SHAPE[-1], shift)

    def forward(inputs, offset):
        outputs, *statistics = batch_statistics_relu(inputs, offset, shift, jnp.dtype(dtype))
        return outputs, statistics

    def both_ways(inputs, gradient, offset):
        outputs, pull, statistics = jax.vjp(forward, inputs, offset, has_aux=True)
        return outputs, *statistics, *pull(gradient)

    found = (jax.jit(both_ways) if jit else both_ways)(inputs, gradient, offset)
    assert [str(value.dtype) for value in found] == [dtype, "float32", "float32", dtype, "float32"]
    tolerances = [TOLERANCE[dtype], 1e-6, 1e-5, TOLERANCE[dtype], TOLERANCE["float32"]]
    for ours, theirs, tolerance in zip(found, torchs(inputs, gradient, offset), tolerances, strict=True):
        assert np.abs(np.asarray(ours, np.float64) - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_large_mean_costs_the_variance_no_digits_once_it_is_known(dtype):
    """The mean of squares alone would be 10^6 here: float32 has no digit left of a variance of one after the first."""
    random = np.random.default_rng(1)
    inputs = jnp.asarray(1024 + 8 * random.integers(-2, 3, (64, 32, 2)), dtype)
    expected = np.asarray(inputs, np.float64).var((0, 1))
    shift = jnp.full(2, 1020.0)
    _, mean, variance = batch_statistics_relu(inputs, jnp.zeros(2), shift, jnp.dtype(dtype))
    np.testing.assert_allclose(mean, np.asarray(inputs, np.float64).mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(variance, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_inputs_alone_are_kept_for_the_backward_pass(dtype):
    inputs, _, offset = example(dtype, 0.0)
    _, pull = jax.vjp(lambda inputs: batch_statistics_relu(inputs, offset, offset, jnp.dtype(dtype)), inputs)
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.size > SHAPE[-1]]
    assert [(leaf.shape, str(leaf.dtype)) for leaf in kept] == [(SHAPE, dtype)]
