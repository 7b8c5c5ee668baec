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


def torchs(inputs, gradient, gain, offset):
    """Outputs, mean, biased variance and the gradients of inputs, gain and offset, in float64."""
    x, upstream, weight, bias = (
        torch.from_numpy(np.asarray(value, np.float64)).requires_grad_() for value in (inputs, gradient, gain, offset)
    )
    channels_second = x.movedim(-1, 1)
    outputs = torch.relu(
        torch.nn.functional.batch_norm(channels_second, None, None, weight, bias, True, 0, BATCH_NORM_EPSILON)
    ).movedim(1, -1)
    outputs.backward(upstream)
    flat = x.detach().reshape(-1, x.shape[-1])
    found = (outputs, flat.mean(0), flat.var(0, correction=0), x.grad, weight.grad, bias.grad)
    return [value.detach().numpy() for value in found]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize(
    ("mean", "shift", "gains"),
    [(0.0, 0.0, None), (0.7, 0.0, None), (-8.0, -7.0, None), (0.7, 0.0, (1.5, -0.5, 0, 1, -2, 0.1))],
)
def test_outputs_statistics_and_gradients_are_pytorchs(dtype, jit, mean, shift, gains):
    inputs, gradient, offset = example(dtype, mean)
    shift = jnp.full(SHAPE[-1], shift)
    gain = None if gains is None else jnp.asarray(gains, jnp.float32)

    def forward(inputs, gain, offset):
        outputs, *statistics = batch_statistics_relu(inputs, gain, offset, shift, jnp.dtype(dtype))
        return outputs, statistics

    def both_ways(inputs, gradient, gain, offset):
        outputs, pull, statistics = jax.vjp(forward, inputs, gain, offset, has_aux=True)
        return outputs, *statistics, *pull(gradient)

    found = (jax.jit(both_ways) if jit else both_ways)(inputs, gradient, gain, offset)
    expected = torchs(inputs, gradient, np.ones(SHAPE[-1]) if gain is None else gain, offset)
    dtypes = [dtype, "float32", "float32", dtype, "float32", "float32"]
    tolerances = [TOLERANCE[dtype], 1e-6, 1e-5, TOLERANCE[dtype], TOLERANCE["float32"], TOLERANCE["float32"]]
    for ours, theirs, kind, tolerance in zip(found, expected, dtypes, tolerances, strict=True):
        if ours is None:
            # The gradient of the gain that is not there.
            assert gain is None
            continue
        assert str(ours.dtype) == kind
        assert np.abs(np.asarray(ours, np.float64) - theirs).max() <= tolerance * np.abs(theirs).max()
