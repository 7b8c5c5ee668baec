"""Units with a max-pool that follows: the pool goes first, and nothing else changes."""

from __future__ import annotations

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from i3d_jax.models import slabs
from i3d_jax.models.batch_norm import batch_statistics_relu
from i3d_jax.models.layers import ConvolutionUnit
from i3d_jax.models.lowering import same_padding
from i3d_jax.models.pooling import MaxPool

POOLS = [MaxPool((1, 3, 3), (1, 2, 2)), MaxPool((3, 3, 3), (2, 2, 2)), MaxPool((2, 2, 2), (2, 2, 2))]
IMAGE_POOL = MaxPool((3, 3), (2, 2))
VIDEO, IMAGE = (2, 5, 9, 8, 3), (3, 9, 8, 3)
FEATURES = 6


def plain(outputs, pool):
    """The pool as XLA has it, and its gradient."""
    padding = same_padding(outputs.shape[1:-1], pool.window, pool.strides)
    return lax.reduce_window(
        outputs, -jnp.inf, lax.max, (1, *pool.window, 1), (1, *pool.strides, 1), ((0, 0), *padding, (0, 0))
    )


def draw_weights(shape):
    """Of the outputs in the loss."""
    return np.random.default_rng(4).choice([-1.5, -0.5, 0.5, 1.5], shape).astype(np.float32)


def pool_itself(outputs, pool):
    return pool(outputs)


def unit_before(pool, **options):
    return ConvolutionUnit(FEATURES, (3,) * len(pool.window), **options)


def example(unit, shape, *, whole_numbers=False):
    """Variables that are not the initial ones, with gains of both signs, and inputs."""
    draw = np.random.default_rng(3)
    values = draw.integers(-2, 3, shape) if whole_numbers else draw.normal(size=shape)
    inputs = jnp.asarray(values, jnp.float32)
    variables = unit.init(jax.random.key(1), inputs, False)
    variables = jax.tree.map(lambda leaf: leaf + 0.05 * jnp.arange(leaf.shape[-1]), variables)
    if whole_numbers:
        variables["params"]["conv_3d"]["kernel"] = jnp.ones_like(variables["params"]["conv_3d"]["kernel"])
    if unit.batch_norm_gain:
        variables["params"]["batch_norm"]["gain"] = jnp.asarray([1, -1, 0.5, 0, -2, 0.1])
    return variables, inputs


def outcomes(variables, inputs, pooled):
    """The gradients of parameters and inputs, the pooled outputs and the statistics after them, compiled.

    `pooled` (variables, inputs) returns the last two.
    """

    @jax.jit
    def compute(params, inputs):
        def total(params, inputs):
            outputs, changed = pooled({**variables, "params": params}, inputs)
            return (outputs * draw_weights(outputs.shape)).sum(), (outputs, changed)

        return jax.grad(total, argnums=(0, 1), has_aux=True)(params, inputs)

    return compute(variables["params"], inputs)


def both(unit, variables, inputs, train, pool, *, after=plain):
    """`outcomes` of the unit with its pool, and of the unit and, after it, a pool."""

    def with_pool(variables, inputs):
        method = functools.partial(ConvolutionUnit.with_pool, pool=pool)
        (_, outputs), changed = unit.apply(variables, inputs, train, mutable=["batch_stats"], method=method)
        return outputs, changed

    def one_after_the_other(variables, inputs):
        outputs, changed = unit.apply(variables, inputs, train, mutable=["batch_stats"])
        return after(outputs, pool), changed

    return [outcomes(variables, inputs, way) for way in (with_pool, one_after_the_other)]


@pytest.mark.parametrize("options", [{}, {"frozen": True}, {"batch_norm_gain": True}, {"relu": False}], ids=str)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("pool", [*POOLS, IMAGE_POOL], ids=str)
def test_outputs_statistics_and_gradients_are_those_of_a_pool_that_follows(pool, train, options):
    unit = unit_before(pool, **options)
    variables, inputs = example(unit, VIDEO if len(pool.window) == 3 else IMAGE)
    # Of a gain of zero all outputs are equal, and among equal ones the native gradient chooses otherwise.
    after = pool_itself if unit.batch_norm_gain else plain
    found, expected = both(unit, variables, inputs, train, pool, after=after)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


@pytest.mark.parametrize("mean", [0, 3])
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_in_bfloat16_the_gradients_are_as_near_to_the_exact_ones_as_those_of_a_pool_that_follows(pool, mean):
    """Not the same: where normalised values are rounded, inputs that were not equal become so."""
    draw = np.random.default_rng(5)
    inputs = jnp.asarray(mean + draw.normal(size=(*VIDEO[:-1], FEATURES)), jnp.bfloat16)
    offset = jnp.asarray(draw.normal(size=FEATURES) * 0.3, jnp.float32)

    @functools.partial(jax.jit, static_argnums=1)
    def both_ways(inputs, before):
        def outputs_of(inputs, offset):
            first = pool if before else None
            outputs, *_ = batch_statistics_relu(inputs, None, offset, offset, inputs.dtype, True, first)
            return outputs if before else pool(outputs)

        outputs, pull = jax.vjp(outputs_of, inputs, offset)
        return outputs, *pull(jnp.asarray(draw_weights(outputs.shape), inputs.dtype))

    exact = both_ways(inputs.astype(jnp.float32), False)
    found, plainly = (both_ways(inputs, before) for before in (True, False))
    assert found[0].dtype == found[1].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found[0], plainly[0])
    for ours, theirs, values in zip(found, plainly, exact, strict=True):
        off, plainly_off = (np.linalg.norm(np.float32(one) - values) for one in (ours, theirs))
        assert off <= 1.02 * plainly_off


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_of_equal_inputs_each_has_the_gradient_that_a_pool_that_follows_gives_it(pool, train):
    unit = ConvolutionUnit(FEATURES, (1, 1, 1))
    variables, inputs = example(unit, VIDEO, whole_numbers=True)
    (found, (outputs, _)), (expected, (pooled, _)) = both(unit, variables, inputs, train, pool, after=pool_itself)
    # Sums of three small whole numbers: hardly a window without equal ones.
    assert len(np.unique(outputs)) < outputs.size / 4
    np.testing.assert_allclose(outputs, pooled, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_what_is_not_finite_shows_where_it_does_if_the_pool_follows(pool, value):
    unit = ConvolutionUnit(FEATURES, (1, 1, 1))
    variables, inputs = example(unit, VIDEO)
    inputs = inputs.at[0, 2, 4, 4, 0].set(value)
    # XLA's own pool loses a NaN that its window does not begin with.
    (_, (outputs, _)), (_, (pooled, _)) = both(unit, variables, inputs, False, pool, after=pool_itself)
    assert not np.isfinite(pooled).all()
    np.testing.assert_allclose(outputs, pooled, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("train", [True, False])
def test_both_results_may_be_asked_for_and_have_their_gradients(train):
    unit, pool = ConvolutionUnit(FEATURES, (3, 3, 3)), POOLS[0]
    variables, inputs = example(unit, VIDEO)

    def total(inputs, together):
        if together:
            method = functools.partial(ConvolutionUnit.with_pool, pool=pool)
            outputs, pooled = unit.apply(variables, inputs, train, mutable=["batch_stats"], method=method)[0]
        else:
            outputs, _ = unit.apply(variables, inputs, train, mutable=["batch_stats"])
            pooled = plain(outputs, pool)
        return jnp.sin(outputs).sum() + jnp.cos(pooled).sum()

    found, expected = (jax.jit(jax.value_and_grad(total), static_argnums=1)(inputs, way) for way in (True, False))
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_only_what_the_pool_leaves_is_normalised(train):
    """On accelerators the full-sized ReLU would be one of the largest arrays of the step."""
    unit, pool = ConvolutionUnit(FEATURES, (3, 3, 3)), POOLS[1]
    variables, inputs = example(unit, VIDEO)

    def total(inputs):
        method = functools.partial(ConvolutionUnit.with_pool, pool=pool)
        return unit.apply(variables, inputs, train, mutable=["batch_stats"], method=method)[0][1].sum()

    text = jax.jit(jax.value_and_grad(total)).trace(inputs).lower(lowering_platforms=("tpu",)).as_text()
    sizes = re.findall(r"call @relu\S*\(.*tensor<([\dx]+)xf32>$", text, re.MULTILINE)
    assert sizes == [f"2x3x5x4x{FEATURES}"]


def test_a_long_video_is_pooled_and_normalised_like_a_short_one(monkeypatch):
    unit, pool = ConvolutionUnit(FEATURES, (7, 7, 7), (2, 2, 2)), POOLS[0]
    variables, inputs = example(unit, (2, 21, 12, 11, 3))
    method = functools.partial(ConvolutionUnit.with_pool, pool=pool)
    expected = jax.jit(functools.partial(unit.apply, train=False, method=method))(variables, inputs)
    jax.clear_caches()
    monkeypatch.setattr(slabs, "MOST_BYTES", inputs.nbytes // 3)
    compiled = jax.jit(functools.partial(unit.apply, train=False, method=method)).lower(variables, inputs).compile()
    assert "while" in compiled.as_text()
    chex.assert_trees_all_close(compiled(variables, inputs), expected, rtol=1e-5, atol=1e-5)
