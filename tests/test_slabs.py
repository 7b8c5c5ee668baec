"""Long videos in slabs of time: the same numbers and gradients, in less memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i3d_jax import models
from i3d_jax.models import layers, pooling, slabs


@pytest.mark.parametrize("frames", [9, 10])
@pytest.mark.parametrize(("taps", "stride"), [(1, 1), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("made", [1, 3, 1000])
def test_each_step_sees_its_own_frames(frames, taps, stride, made, monkeypatch):
    """Sums of frames numbered by powers of two tell which frames each of them saw."""
    monkeypatch.setattr(slabs, "MOST_BYTES", 1)
    lengths = []

    def operation(inputs, factor):
        steps = (inputs.shape[1] - taps) // stride + 1
        lengths.append(steps)
        windows = [inputs[:, step * stride : step * stride + taps].sum(1) for step in range(steps)]
        return factor * jnp.stack(windows, axis=1)

    numbers = np.arange(frames)
    found = slabs.over_time(
        operation, jnp.asarray(2.0**numbers).reshape(1, -1, 1), 3.0, taps=taps, stride=stride, made=made
    )
    starts = range(0, frames - taps + 1, stride)
    np.testing.assert_array_equal(found[0, :, 0], [3 * 2**start * (2**taps - 1) for start in starts])
    assert max(lengths) == -(-len(starts) // min(made, len(starts)))


@pytest.mark.parametrize(
    ("window", "strides"), [((7, 7, 7), (2, 2, 2)), ((3, 3, 3), (1, 1, 1)), ((1, 3, 3), (1, 1, 1))]
)
def test_a_long_video_is_convolved_and_normalised_like_a_short_one(window, strides, monkeypatch):
    inputs = jax.random.normal(jax.random.key(0), (2, 13, 12, 11, 4))
    unit = layers.ConvolutionUnit(6, window, strides)
    variables = unit.init(jax.random.key(1), inputs, False)
    # Statistics and an offset that are not the initial ones.
    variables = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.arange(leaf.shape[-1]), variables)

    def outcome(variables, inputs):
        outputs = unit.apply(variables, inputs, False)
        return jnp.sin(outputs).sum(), outputs

    differentiated = jax.jit(jax.value_and_grad(outcome, argnums=(0, 1), has_aux=True))
    expected = differentiated(variables, inputs)
    plain = jax.jit(unit.apply, static_argnums=2)(variables, inputs, False)
    jax.clear_caches()
    monkeypatch.setattr(slabs, "MOST_BYTES", inputs.nbytes // 3)
    for found, wanted in (
        (jax.jit(unit.apply, static_argnums=2)(variables, inputs, False), plain),
        (jax.jit(jax.value_and_grad(outcome, argnums=(0, 1), has_aux=True))(variables, inputs), expected),
    ):
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5), found, wanted)


@pytest.mark.parametrize(
    ("window", "strides"), [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))]
)
def test_a_long_video_is_pooled_like_a_short_one(window, strides, monkeypatch):
    inputs = jax.random.normal(jax.random.key(0), (2, 13, 9, 8, 4)) - 5
    pool = jax.value_and_grad(lambda inputs: jnp.sin(pooling.max_pool(inputs, window, strides)).sum())
    expected, plain = pool(inputs), pooling.max_pool(inputs, window, strides)
    monkeypatch.setattr(slabs, "MOST_BYTES", inputs.nbytes // 3)
    np.testing.assert_array_equal(pooling.max_pool(inputs, window, strides), plain)
    jax.tree.map(np.testing.assert_array_equal, pool(inputs), expected)


def test_a_network_takes_less_memory_for_the_same_logits(monkeypatch):
    model = models.create("i3d", 5, width_multiplier=0.125, last_block="Mixed_3c")
    clip = {"rgb": jax.ShapeDtypeStruct((1, 32, 64, 64, 3), jnp.float32)}
    variables = model.init(jax.random.key(0), clip)
    pixels = {"rgb": jax.random.uniform(jax.random.key(1), clip["rgb"].shape, minval=-1)}

    def program():
        return jax.jit(lambda *arguments: model.apply(*arguments)[0]).lower(variables, pixels).compile()

    at_once = program()
    monkeypatch.setattr(slabs, "MOST_BYTES", 1 << 19)
    in_slabs = program()
    np.testing.assert_allclose(in_slabs(variables, pixels), at_once(variables, pixels), rtol=1e-5, atol=1e-6)
    took, takes = (one.memory_analysis().temp_size_in_bytes for one in (at_once, in_slabs))
    assert takes < 0.75 * took
