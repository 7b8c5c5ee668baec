"""A step against its plain counterpart: microbatches, frozen statistics, bfloat16, the average, memory."""

from __future__ import annotations

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.tiny import Tiny, batch, variables

from i3d_jax.system.errors import UserError
from i3d_jax.training import metrics
from i3d_jax.training.optimizer import make_optimizer, make_plateau
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import check_options, training_step

RATE = 0.1
SGD, _ = make_optimizer(name="sgd", learning_rates=(RATE,), boundaries=(), momentum=0.9, weight_decay=1e-7)
PLATEAU = make_plateau(patience=1, factor=0.1)


def prepared(model, *, devices=1, state=None, **options):
    """A compiled step, a state before it and the devices."""
    devices = Devices(devices=jax.devices()[:devices])
    state = initial_state(variables(model), SGD) if state is None else state
    step = devices.compile_training_step(training_step(model, SGD, seed=0, **options))
    return step, devices.place(state), devices


def after(model, batches, **options):
    """The state after a step on each batch, and the metrics' means of each."""
    step, state, devices = prepared(model, **options)
    figures = []
    for one in batches:
        state, sums = step(state, devices.shard_batch(one))
        figures.append(metrics.means(jax.device_get(sums)))
    return jax.device_get(state), figures


@pytest.mark.parametrize(("accumulation_steps", "devices"), [(8, 1), (2, 4)])
def test_microbatches_are_the_batch_where_statistics_are_frozen(accumulation_steps, devices):
    batches = [batch(number) for number in range(5)]
    # Five clips of the first batch do not count, unevenly over its microbatches.
    batches[0]["mask"][:5] = False
    whole, figures = after(Tiny(frozen=True), batches)
    parts, figures_of_parts = after(Tiny(frozen=True), batches, accumulation_steps=accumulation_steps, devices=devices)
    chex.assert_trees_all_close(parts, whole, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(figures_of_parts, figures, rtol=1e-5)
    assert int(parts.clips) == 40


def test_each_microbatch_has_its_own_statistics_as_on_a_replica():
    """Against replicas written out here: rows 0, 2, 4, 6 on one and 1, 3, 5, 7 on the other."""
    model, one = Tiny(), batch(0)
    start = variables(model)

    def loss(params, rows):
        pixels = one["rgb"][rows].astype(np.float32) / 127.5 - 1
        (logits, _), changed = model.apply({**start, "params": params}, {"rgb": pixels}, True, mutable=["batch_stats"])
        return model.clip_losses(logits, {}, one["label"][rows]).mean(), changed["batch_stats"]

    replicas = [jax.grad(loss, has_aux=True)(start["params"], np.arange(first, 8, 2)) for first in (0, 1)]
    gradients, statistics = (jax.tree.map(lambda a, b: (a + b) / 2, *both) for both in zip(*replicas, strict=True))
    state, _ = after(model, [one], accumulation_steps=2)
    chex.assert_trees_all_close(state.batch_stats, statistics, rtol=1e-5, atol=1e-7)
    expected = jax.tree.map(lambda value, slope: value - RATE * slope, start["params"], gradients)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-5, atol=1e-7)


def test_microbatches_move_no_clip_between_devices_and_take_less_memory():
    """Eight clips on each of four devices, so large that what is kept of a clip is all but everything.

    A microbatch keeps what its own clips need: the memory shrinks with every doubling of their number, and eight of one
    clip take an eighth of it and, at most, as much again for what a compiler keeps besides.
    """
    clips = batch(0, size=32)
    clips["rgb"] = np.zeros((32, 8, 16, 16, 3), np.uint8)
    temporaries = []
    for accumulation_steps in (1, 2, 4, 8):
        step, state, devices = prepared(Tiny(), devices=4, accumulation_steps=accumulation_steps)
        compiled = step.lower(state, devices.shard_batch(clips)).compile()
        collectives = re.findall(r"all-[a-z-]+|collective-[a-z]+|reduce-scatter", compiled.as_text())
        assert {name.removesuffix("-") for name in collectives} == {"all-reduce"}
        temporaries.append(compiled.memory_analysis().temp_size_in_bytes)
    assert temporaries == sorted(set(temporaries), reverse=True)
    assert temporaries[-1] < 2 / 8 * temporaries[0]


def test_microbatches_drop_other_features():
    """Both microbatches hold the same clips; the mask lets the loss of one through."""
    one = batch(0)
    one = {name: np.repeat(array[:4], 2, axis=0) for name, array in one.items()}
    found = {}
    for rate in (0.0, 0.5):
        step, state, devices = prepared(Tiny(dropout_rate=rate), accumulation_steps=2)
        for kept in (0, 1):
            masked = {**one, "mask": np.arange(8) % 2 == kept}
            _, sums = step(jax.tree.map(jnp.copy, state), devices.shard_batch(masked))
            found[rate, kept] = float(sums["loss"][0])
    assert found[0.0, 0] == pytest.approx(found[0.0, 1], rel=1e-6)
    assert found[0.5, 0] != pytest.approx(found[0.5, 1], rel=1e-3)


def test_frozen_statistics_are_used_and_stay():
    model, one = Tiny(frozen=True), batch(0)
    start = variables(model)
    random = np.random.default_rng(0)
    start["batch_stats"] = jax.tree.map(
        lambda leaf: jnp.asarray(random.uniform(0.5, 1.5, leaf.shape), jnp.float32), start["batch_stats"]
    )

    def loss(params):
        logits, _ = model.apply({**start, "params": params}, {"rgb": one["rgb"].astype(np.float32) / 127.5 - 1})
        return model.clip_losses(logits, {}, one["label"]).mean()

    before = jax.device_get(start)
    gradient = jax.grad(loss)(start["params"])
    for accumulation_steps in (1, 2):
        state = initial_state(jax.tree.map(jnp.asarray, before), SGD)
        found, figures = after(model, [one], state=state, accumulation_steps=accumulation_steps)
        chex.assert_trees_all_equal(found.batch_stats, before["batch_stats"])
        assert figures[0]["loss"] == pytest.approx(float(loss(before["params"])), rel=1e-5)
        expected = jax.tree.map(lambda value, slope: value - RATE * slope, before["params"], gradient)
        chex.assert_trees_all_close(found.params, expected, rtol=1e-4, atol=1e-6)


def test_dropout_is_on_where_statistics_are_frozen():
    plain, dropped = (after(Tiny(frozen=True, dropout_rate=rate), [batch(0)])[1][0]["loss"] for rate in (0.0, 0.5))
    assert dropped != pytest.approx(plain, rel=1e-3)


def test_a_step_in_bfloat16_keeps_float32_and_is_near_it():
    batches = [batch(number) for number in range(3)]
    state, figures = after(Tiny(dtype=jnp.bfloat16), batches)
    plain, plain_figures = after(Tiny(), batches)
    chex.assert_trees_all_equal_dtypes(state, plain)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats))} == {np.dtype("float32")}
    np.testing.assert_allclose([each["loss"] for each in figures], [each["loss"] for each in plain_figures], rtol=0.02)
    # It was computed in another precision at all.
    assert figures[0]["loss"] != plain_figures[0]["loss"]
    moved = optax.global_norm(jax.tree.map(jnp.subtract, plain.params, variables(Tiny())["params"]))
    assert optax.global_norm(jax.tree.map(jnp.subtract, state.params, plain.params)) < 0.05 * moved


@pytest.mark.parametrize("mode", ["pjit", "pmap"])
def test_the_average_of_parameters_and_statistics_by_hand(mode):
    """Against the recursion written out here, of the states that a run without an average goes through."""
    model, batches = Tiny(), [batch(number) for number in range(4)]
    devices = Devices(mode=mode, devices=jax.devices()[:2])

    def states(*, average):
        step = training_step(model, SGD, seed=0, average_decay=0.25 if average else 0.0, replicas=devices.replicas)
        step = devices.compile_training_step(step)
        state = devices.place(initial_state(variables(model), SGD, average=average))
        found = [jax.device_get(state)]
        state = devices.replicate(state)
        for one in batches:
            state, _ = step(state, devices.shard_batch(one))
            found.append(jax.device_get(devices.merge_replicas(state)))
        return found

    expected, *plain = (state.variables for state in states(average=False))
    # Kept: 1/10, 2/11, 3/12 and then no more than a quarter.
    for kept, live in zip((1 / 10, 2 / 11, 1 / 4, 1 / 4), plain, strict=True):
        expected = jax.tree.map(lambda old, new, kept=kept: kept * old + (1 - kept) * new, expected, live)
    last = states(average=True)[-1]
    chex.assert_trees_all_close(last.variables, expected, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(
        {"params": last.params, "batch_stats": last.batch_stats}, plain[-1], rtol=1e-5, atol=1e-7
    )
    moved = jax.tree.map(lambda one, other: np.abs(one - other).max(), expected, plain[-1])
    assert min(jax.tree.leaves(moved)) > 1e-4


def test_the_scale_of_plateau_is_a_lower_rate():
    scaled = initial_state(variables(Tiny()), SGD, plateau=PLATEAU)
    scaled = scaled.replace(plateau=scaled.plateau._replace(scale=jnp.float32(0.25)))
    batches = [batch(0), batch(1)]
    found, _ = after(Tiny(), batches, state=scaled)
    quarter, _ = make_optimizer(name="sgd", learning_rates=(RATE / 4,), boundaries=(), momentum=0.9, weight_decay=1e-7)
    state, step = initial_state(variables(Tiny()), quarter), jax.jit(training_step(Tiny(), quarter, seed=0))
    for one in batches:
        state, _ = step(state, Devices(devices=jax.devices()[:1]).shard_batch(one))
    chex.assert_trees_all_close(found.params, state.params, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_step_uses_the_memory_of_its_state_again(accumulation_steps):
    state = initial_state(variables(Tiny()), SGD, average=True, plateau=PLATEAU)
    step, state, devices = prepared(Tiny(), devices=2, state=state, accumulation_steps=accumulation_steps)
    one = devices.shard_batch(batch(0))
    compiled = step.lower(state, one).compile()
    assert compiled.memory_analysis().alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    step(state, one)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1, found 0"),
        ({"batch_size": 20}, "20, which 2 accumulation steps on 4 devices do not divide; the nearest that works is 16"),
        ({"batch_size": 4}, "the nearest that works is 8"),
        (
            {"batch_size": 5, "devices": 1},
            "2 accumulation steps on 1 device do not divide; the nearest that works is 4",
        ),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1, found 1.0"),
        ({"average_decay": -0.5}, "optimizer.average_decay must be at least 0 and below 1, found -0.5"),
    ],
)
def test_wrong_options(changes, words):
    options = {"batch_size": 16, "devices": 4, "accumulation_steps": 2, "label_smoothing": 0.1, "average_decay": 0.9}
    check_options(**options)
    with pytest.raises(UserError, match=words):
        check_options(**{**options, **changes})
