"""Batch normalisation with ReLU: the digits of its variance, and what it keeps for the backward pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.batch_norm_inputs import SHAPE, example

from i3d_jax.models.batch_norm import batch_statistics_relu


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_large_mean_costs_the_variance_no_digits_once_it_is_known(dtype):
    """The mean of squares alone would be 10^6 here: float32 has no digit left of a variance of one after the first."""
    random = np.random.default_rng(1)
    inputs = jnp.asarray(1024 + 8 * random.integers(-2, 3, (64, 32, 2)), dtype)
    expected = np.asarray(inputs, np.float64).var((0, 1))
    shift = jnp.full(2, 1020.0)
    _, mean, variance = batch_statistics_relu(inputs, None, jnp.zeros(2), shift, jnp.dtype(dtype))
    np.testing.assert_allclose(mean, np.asarray(inputs, np.float64).mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(variance, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_inputs_alone_are_kept_for_the_backward_pass(dtype):
    inputs, _, offset = example(dtype, 0.0)
    _, pull = jax.vjp(lambda inputs: batch_statistics_relu(inputs, offset, offset, offset, jnp.dtype(dtype)), inputs)
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.size > SHAPE[-1]]
    assert [(leaf.shape, str(leaf.dtype)) for leaf in kept] == [(SHAPE, dtype)]
