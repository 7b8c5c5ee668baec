"""The batch-normalised LSTM against a plain unrolling in NumPy, and ConvNet+LSTM's shapes and loss."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_networks import small

from i3d_jax import models
from i3d_jax.models.conv_lstm import BatchNormalisedLSTM
from i3d_jax.system.errors import UserError

CHANNELS, UNITS, STATISTICS = 5, 3, 4


def lstm(decay=0.75):
    return BatchNormalisedLSTM(UNITS, statistics_steps=STATISTICS, decay=decay)


def random_variables(seed=0):
    random = np.random.default_rng(seed)
    gates = 4 * UNITS
    params = {
        "input_kernel": random.normal(size=(CHANNELS, gates)),
        "hidden_kernel": random.normal(size=(UNITS, gates)),
        "input_gain": random.uniform(0.5, 1.5, gates),
        "hidden_gain": random.uniform(0.5, 1.5, gates),
        "bias": random.normal(size=gates),
    }
    statistics = {
        "input_mean": random.normal(size=(STATISTICS, gates)),
        "input_var": random.uniform(0.5, 2, (STATISTICS, gates)),
        "hidden_mean": random.normal(size=(STATISTICS, gates)),
        "hidden_var": random.uniform(0.5, 2, (STATISTICS, gates)),
    }
    single = lambda tree: {name: jnp.asarray(value, jnp.float32) for name, value in tree.items()}
    return {"params": single(params), "batch_stats": single(statistics)}, params, statistics


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unrolled(params, statistics, inputs, train):
    """One step after the other, one gate at a time, in float64; the means and variances that each step used."""
    hidden = cell = np.zeros((len(inputs), UNITS))
    outputs, used = [], []
    for step in range(inputs.shape[1]):
        sums, own = params["bias"], {}
        for part, values in (
            ("input", inputs[:, step] @ params["input_kernel"]),
            ("hidden", hidden @ params["hidden_kernel"]),
        ):
            if train:
                mean = values.mean(axis=0)
                variance = ((values - mean) ** 2).mean(axis=0)
            else:
                mean, variance = (statistics[f"{part}_{name}"][min(step, STATISTICS - 1)] for name in ("mean", "var"))
            own[part] = mean, variance
            sums = sums + params[f"{part}_gain"] * (values - mean) / np.sqrt(variance + 1e-3)
        i, j, f, o = (sums[:, gate * UNITS : (gate + 1) * UNITS] for gate in range(4))
        cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(j)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
        used.append(own)
    return np.stack(outputs, axis=1), used


@pytest.mark.parametrize("steps", [1, 3, STATISTICS, 7])
def test_evaluation_is_the_unrolling(steps):
    variables, params, statistics = random_variables()
    inputs = np.random.default_rng(1).normal(size=(6, steps, CHANNELS))
    found = lstm().apply(variables, jnp.asarray(inputs, jnp.float32), False)
    expected, _ = unrolled(params, statistics, inputs, train=False)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("steps", [1, 3, STATISTICS])
def test_training_is_the_unrolling_and_moves_the_statistics(steps):
    variables, params, statistics = random_variables()
    inputs = np.random.default_rng(1).normal(size=(6, steps, CHANNELS))
    found, changed = lstm().apply(variables, jnp.asarray(inputs, jnp.float32), True, mutable=["batch_stats"])
    expected, used = unrolled(params, statistics, inputs, train=True)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    for step in range(STATISTICS):
        # Steps after the clip's last have its statistics.
        own = used[min(step, steps - 1)]
        for part in ("input", "hidden"):
            for name, value in zip(("mean", "var"), own[part], strict=True):
                moved = 0.75 * statistics[f"{part}_{name}"][step] + 0.25 * value
                np.testing.assert_allclose(changed["batch_stats"][f"{part}_{name}"][step], moved, atol=2e-4)


def test_a_fresh_lstm():
    variables = lstm().init(jax.random.key(0), jnp.ones((2, 3, CHANNELS)), False)
    params = variables["params"]
    assert {name: value.shape for name, value in params.items()} == {
        "input_kernel": (CHANNELS, 12),
        "hidden_kernel": (UNITS, 12),
        "input_gain": (12,),
        "hidden_gain": (12,),
        "bias": (12,),
    }
    np.testing.assert_array_equal(params["input_gain"], np.full(12, 0.1, np.float32))
    np.testing.assert_array_equal(params["hidden_gain"], np.full(12, 0.1, np.float32))


def test_endpoints():
    model = models.create("conv_lstm")
    inputs = {"rgb": jax.ShapeDtypeStruct((2, 25, 224, 224, 3), jnp.float32)}
    _, endpoints = jax.eval_shape(model.apply, models.template(model), inputs)
    assert endpoints["InceptionV1/Mixed_5c"].shape == (2, 25, 7, 7, 1024)
    assert endpoints["features"].shape == (2, 25, 1024)
    assert endpoints["LSTM"].shape == (2, 25, 512)
    assert endpoints["StepLogits"].shape == (2, 25, 400)


def test_the_loss_is_that_of_every_step_and_the_score_that_of_the_last():
    model, variables, inputs = small("conv_lstm")
    logits, endpoints = jax.jit(model.apply)(variables, inputs)
    chex.assert_trees_all_equal(logits, endpoints["StepLogits"][:, -1])
    # Three steps with the probabilities 1/2, 1/4 and 3/4 of the right class.
    step_logits = jnp.log(jnp.array([[[1.0, 1.0], [3.0, 1.0], [1.0, 3.0]]]))
    losses = model.clip_losses(jnp.zeros((1, 2)), {"StepLogits": step_logits}, jnp.array([1]))
    np.testing.assert_allclose(losses, [np.log(2 * 4 * 4 / 3) / 3], rtol=1e-6)


def test_an_input_changes_no_step_before_it():
    variables, _, _ = random_variables()
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(6, 4, CHANNELS)), jnp.float32)
    before, after = (lstm().apply(variables, values, False) for values in (inputs, inputs.at[:, 1].add(1)))
    chex.assert_trees_all_equal(before[:, 0], after[:, 0])
    assert jnp.abs(before - after)[:, 1:].max((0, 2)).min() > 0.01


def test_training_clips_longer_than_the_statistics_are_refused():
    model = models.create("conv_lstm", num_classes=3, width_multiplier=0.125, statistics_steps=2)
    clip = {"rgb": jax.ShapeDtypeStruct((1, 3, 32, 32, 3), jnp.float32)}
    with pytest.raises(UserError, match="statistics of 2 steps, found training clips of 3"):
        jax.eval_shape(lambda clip: model.init(jax.random.key(0), clip, train=True), clip)
