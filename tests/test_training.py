"""The step, the optimizer and the devices: hand-computed numbers and laws."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.tiny import Tiny, batch, variables

from i3d_jax import models
from i3d_jax.system.errors import UserError
from i3d_jax.training import metrics
from i3d_jax.training.optimizer import kernels, make_optimizer, stepwise
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import evaluation_step, scaled, training_step

RELEASE = {"name": "sgd", "learning_rates": (0.1,), "boundaries": (), "momentum": 0.9, "weight_decay": 1e-7}


def optimizer(**changes):
    return make_optimizer(**{**RELEASE, **changes})[0]


def test_pixels_are_scaled_to_minus_one_to_one():
    pixels = np.array([0, 51, 255], np.uint8)
    np.testing.assert_allclose(scaled(pixels), [-1, -0.6, 1], atol=1e-6)


def test_stepwise_learning_rate_of_the_release():
    schedule = stepwise(learning_rates=(0.1, 0.01, 0.001), boundaries=(97_000, 108_000))
    steps = [0, 96_999, 97_000, 107_999, 108_000, 114_999]
    np.testing.assert_allclose([schedule(step) for step in steps], [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boundaries": (5,)}, "one step fewer .* found 1 and 1"),
        ({"learning_rates": (0.1, 0.01, 0.001), "boundaries": (5,)}, "found 1 and 3"),
        ({"learning_rates": (0.1, 0.0), "boundaries": (5,)}, "all be above 0"),
        ({"learning_rates": (3, 2, 1), "boundaries": (5, 5)}, r"rise, found \(5, 5\)"),
        ({"learning_rates": (3, 2), "boundaries": (0,)}, r"rise, found \(0,\)"),
        ({"momentum": 1.0}, "found 1.0"),
        ({"weight_decay": -1.0}, "found -1.0"),
        ({"name": "rmsprop"}, "found 'rmsprop'"),
    ],
)
def test_wrong_optimizers(changes, words):
    with pytest.raises(UserError, match=words):
        optimizer(**changes)


def test_sgd_with_momentum_and_decay_by_hand():
    sgd = optimizer(weight_decay=0.5)
    params = {"conv": {"kernel": jnp.array([2.0]), "bias": jnp.array([2.0])}}
    state = sgd.init(params)
    for _ in range(2):
        updates, state = sgd.update({"conv": {"kernel": jnp.array([1.0]), "bias": jnp.array([1.0])}}, state, params)
        params = optax.apply_updates(params, updates)
    # Offset: 2 - .1 * 1 = 1.9; then momentum 1.9: 1.9 - .19 = 1.71.
    np.testing.assert_allclose(params["conv"]["bias"], [1.71], rtol=1e-6)
    # Kernel: gradient 1 + .5 * 2 = 2: 2 - .2 = 1.8; then 1 + .9 = 1.9, momentum 1.8 + 1.9 = 3.7: 1.8 - .37 = 1.43.
    np.testing.assert_allclose(params["conv"]["kernel"], [1.43], rtol=1e-6)


def test_only_kernels_decay():
    params = variables(Tiny())["params"]
    marked = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(kernels(params))}
    assert marked == {
        "['Logits']['bias']": False,
        "['Logits']['kernel']": True,
        "['unit']['batch_norm']['bias']": False,
        "['unit']['conv_3d']['kernel']": True,
    }


def test_metrics_add_up_and_divide_once():
    values, mask = jnp.array([1.0, 2.0, jnp.nan]), jnp.array([True, True, False])
    sums = metrics.add({"loss": metrics.masked_sum(values, mask)}, {"loss": (6.0, 1.0), "other": (1.0, 0.0)})
    means = metrics.means(sums)
    assert means["loss"] == 3.0
    assert np.isnan(means["other"])


def steps(model, sgd, batches, *, devices, seed=0):
    used = Devices(devices=jax.devices()[:devices])
    state = used.place(initial_state(variables(model), sgd))
    step = used.compile_training_step(training_step(model, sgd, seed=seed))
    figures = []
    for one in batches:
        state, sums = step(state, used.shard_batch(one))
        figures.append(metrics.means(jax.device_get(sums)))
    return jax.device_get(state), figures


def test_a_step_follows_the_gradient_of_the_mean_loss():
    """Against the loss written out here, without jit, masks or metrics."""
    model, one = Tiny(), batch(0)
    before = variables(model)

    def loss(params):
        (logits, _), _ = model.apply(
            {**before, "params": params},
            {"rgb": one["rgb"].astype(np.float32) / 127.5 - 1},
            train=True,
            mutable=["batch_stats"],
        )
        return -sum(jax.nn.log_softmax(logits)[row, label] for row, label in enumerate(one["label"])) / 8

    state, figures = steps(model, optimizer(weight_decay=0.0), [one], devices=1)
    expected = jax.tree.map(
        lambda value, slope: value - 0.1 * slope, before["params"], jax.grad(loss)(before["params"])
    )
    chex.assert_trees_all_close(state.params, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(figures[0]["loss"], loss(before["params"]), rtol=1e-5)
    assert (int(state.step), int(state.clips)) == (1, 8)


def test_masked_clips_do_not_count_in_the_loss():
    one = batch(0)
    one["mask"][4:] = False
    other = {**one, "label": np.where(one["mask"], one["label"], 2 - one["label"]).astype(np.int32)}
    results = [steps(Tiny(), optimizer(), [choice], devices=1) for choice in (one, other)]
    chex.assert_trees_all_equal(results[0][0].params, results[1][0].params)
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_are_one_tiny(devices):
    batches = [batch(number) for number in range(5)]
    one, figures = steps(Tiny(), optimizer(), batches, devices=1)
    many, figures_many = steps(Tiny(), optimizer(), batches, devices=devices)
    chex.assert_trees_all_close(one, many, rtol=0, atol=1e-5)
    assert [each["top1"] for each in figures] == [each["top1"] for each in figures_many]


def test_four_devices_are_one_for_i3d():
    """Parameters after five steps, dropout off, to 1e-5; the rate is small, since the gradient of a fresh network has
    kinks (ReLU, max-pools) at which the last bits decide."""
    model = models.create("i3d", num_classes=3, width_multiplier=0.125, dropout_rate=0.0, last_block="Mixed_3c")
    start = model.init(jax.random.key(0), {"rgb": jax.ShapeDtypeStruct((1, 16, 32, 32, 3), jnp.float32)})
    sgd = optimizer(learning_rates=(1e-4,))
    random = np.random.default_rng(0)
    batches = [
        {**batch(number), "rgb": random.integers(0, 256, (8, 16, 32, 32, 3), dtype=np.uint8)} for number in range(5)
    ]
    found = []
    for devices in (1, 4):
        used = Devices(devices=jax.devices()[:devices])
        state = used.place(initial_state(start, sgd))
        step = used.compile_training_step(training_step(model, sgd, seed=0))
        for one in batches:
            state, _ = step(state, used.shard_batch(one))
        found.append(jax.device_get(state.params))
    chex.assert_trees_all_close(*found, rtol=0, atol=1e-5)
    moved = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (found[0], start["params"])), strict=True))
    assert moved > 1e-4


def test_dropout_is_a_function_of_seed_and_step():
    model, batches = Tiny(dropout_rate=0.5), [batch(0)]
    again = [steps(model, optimizer(), batches, devices=1, seed=seed)[0].params for seed in (1, 1, 2)]
    chex.assert_trees_all_equal(again[0], again[1])
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(again[0], again[2], atol=1e-6)


def test_evaluation_is_the_same_for_any_batch_and_any_number_of_devices():
    """To the last bit, with I3D up to a block that has every kind of its layers."""
    model = models.create("i3d", num_classes=3, width_multiplier=0.125, last_block="Mixed_3c")
    start = model.init(jax.random.key(0), {"rgb": jax.ShapeDtypeStruct((1, 9, 32, 32, 3), jnp.float32)})
    videos = np.random.default_rng(0).integers(0, 256, (8, 2, 9, 32, 32, 3), dtype=np.uint8)
    found = {}
    for devices in (1, 2, 4):
        used = Devices(devices=jax.devices()[:devices])
        step = used.compile_evaluation_step(evaluation_step(model))
        for size in (1, 3, 8):
            rows = []
            for begin in range(0, 8, size):
                part = videos[begin : begin + size]
                one = {"rgb": part, "mask": np.ones(len(part), bool), "label": np.zeros(len(part), np.int32)}
                logits, streams = step(used.place(start), used.shard_batch(one))
                assert streams == {}
                rows.append(np.asarray(logits)[: len(part)])
            found[devices, size] = np.concatenate(rows)
    for logits in found.values():
        np.testing.assert_array_equal(logits, found[1, 1])
    # And it is the mean of the windows' logits.
    windows = [model.apply(start, {"rgb": scaled(videos[:1, number])})[0] for number in range(2)]
    np.testing.assert_allclose(found[1, 1][:1], (windows[0] + windows[1]) / 2, rtol=1e-4, atol=1e-5)


def test_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(UserError, match="batch_size is 6, which 4 devices do not divide; the nearest that works is 8"):
        Devices().check_batch_size(6, key="batch_size")
    Devices().check_batch_size(8, key="batch_size")
