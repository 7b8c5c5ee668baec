"""Batch normalisation with ReLU against PyTorch in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.batch_norm_inputs import SHAPE, example

from i3d_jax.models.batch_norm import BATCH_NORM_EPSILON, batch_statistics_relu

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')

# Of outputs and gradients over their largest: float32's and bfloat16's own rounding, a few times.
TOLERANCE = {"float32": 1e-6, "bfloat16": 8e-3}


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
