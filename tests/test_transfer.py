"""The protocols: which parameters change, and that training on features is training the network with a mask."""

from __future__ import annotations

import functools

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small_networks import SMALL, random_variables

from i3d_jax import models
from i3d_jax.models.classifier import classify
from i3d_jax.training import transfer
from i3d_jax.training.optimizer import make_optimizer
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import training_step

DENSE = ["Logits/bias", "Logits/kernel"]
# By architecture: the leaves that "fixed" trains, all of them.
CLASSIFIERS = {
    "conv_lstm": DENSE,
    "c3d": DENSE,
    "two_stream": [
        "Flow/Logits/Conv2d_0c_1x1/bias",
        "Flow/Logits/Conv2d_0c_1x1/kernel",
        "RGB/Logits/Conv2d_0c_1x1/bias",
        "RGB/Logits/Conv2d_0c_1x1/kernel",
    ],
    "two_stream flow": ["Flow/Logits/Conv2d_0c_1x1/bias", "Flow/Logits/Conv2d_0c_1x1/kernel"],
    "fused": DENSE,
    "fused rgb": DENSE,
    "i3d": ["Logits/Conv3d_0c_1x1/bias", "Logits/Conv3d_0c_1x1/kernel"],
    "two_stream_i3d": [
        "Flow/Logits/Conv3d_0c_1x1/bias",
        "Flow/Logits/Conv3d_0c_1x1/kernel",
        "RGB/Logits/Conv3d_0c_1x1/bias",
        "RGB/Logits/Conv3d_0c_1x1/kernel",
    ],
}
# By architecture: what its classifiers see of a clip of `small_networks.SMALL`, at an eighth of the width.
FEATURES = {
    "conv_lstm": {"Logits": (3, 64)},
    "c3d": {"Logits": (1, 512)},
    "two_stream": {"RGB/Logits": (1, 60), "Flow/Logits": (1, 60)},
    "fused": {"Logits": (1, 64)},
    "i3d": {"Logits": (1, 128)},
    "two_stream_i3d": {"RGB/Logits": (4, 60), "Flow/Logits": (4, 60)},
}
LABELS = np.array([1, 0, 2, 1], np.int32)
SGD = {"name": "sgd", "learning_rates": (0.5,), "boundaries": (), "momentum": 0.9, "weight_decay": 0.01}


@functools.cache
def small(name):
    """A narrow network with a batch of four clips, as bytes."""
    frames, size, options = SMALL[name]
    model = models.create(name, num_classes=3, width_multiplier=0.125, dropout_rate=0.0, **options)
    random = np.random.default_rng(7)
    shapes = model.input_shapes(frames, size)
    clips = {stream: random.integers(0, 256, (4, *shape), np.uint8) for stream, shape in shapes.items()}
    return model, random_variables(model), clips


def names(tree, wanted):
    """The paths of a pytree's leaves for which `wanted` is true, in order."""
    return sorted(name for name, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items() if wanted(leaf))


def changed_leaves(optimizer, params):
    """The paths of the leaves that a step changes, and the shapes of the optimizer's state, in order."""

    @jax.jit
    def step(params):
        gradients = jax.tree.map(jnp.ones_like, params)
        updates, state = optimizer.update(gradients, optimizer.init(params), params)
        moved = jax.tree.map(lambda old, new: (old != new).any(), params, optax.apply_updates(params, updates))
        return moved, state

    moved, state = step(params)
    return names(moved, bool), sorted(leaf.shape for leaf in jax.tree.leaves(state) if leaf.shape)


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_which_leaves_change(case):
    name, *stream = case.split()
    model = models.create(name, 3, width_multiplier=0.0625, **({"stream": stream[0]} if stream else {}))
    params = random_variables(model)["params"]
    plain = make_optimizer(**SGD)[0]
    everything = transfer.trained(params, "original")
    assert names(everything, bool) == names(params, lambda leaf: True)
    assert transfer.trained(params, "full") == transfer.trained(params, None) == everything
    assert transfer.restrict(plain, everything) is plain
    shapes = {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items()}
    if name == "c3d":
        assert changed_leaves(plain, params) == (sorted(shapes), sorted(shapes.values()))
    # Neither the gradient nor the decay of weights moves what is frozen, and there is momentum of the rest alone.
    fixed = transfer.restrict(plain, transfer.trained(params, "fixed"))
    expected = CLASSIFIERS[case]
    assert changed_leaves(fixed, params) == (expected, sorted(shapes[path] for path in expected))


@pytest.mark.parametrize("name", FEATURES)
def test_the_classifiers_make_the_networks_logits_of_its_features(name):
    model, variables, clips = small(name)
    inputs = {stream: clip.astype(np.float32) / 127.5 - 1 for stream, clip in clips.items()}
    logits, endpoints = jax.jit(model.apply)(variables, inputs)
    features = model.classifier_inputs(endpoints)
    assert {scope: values.shape for scope, values in features.items()} == {
        scope: (4, *shape) for scope, shape in FEATURES[name].items()
    }
    found, of_scores = classify(model, variables["params"], features)
    scale = jnp.abs(logits).max()
    assert jnp.ptp(logits, axis=0).max() > 0.01
    chex.assert_trees_all_close(found, logits, rtol=0, atol=1e-5 * scale)
    losses = model.clip_losses(logits, endpoints, LABELS)
    chex.assert_trees_all_close(model.clip_losses(found, of_scores, LABELS), losses, rtol=1e-5)
    for stream, own in model.stream_logits(endpoints).items():
        chex.assert_trees_all_close(model.stream_logits(of_scores)[stream], own, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(("name", "rate"), [("conv_lstm", 0.5), ("c3d", 0.003)])
def test_training_on_features_is_training_the_network_with_a_mask(name, rate):
    model, variables, clips = small(name)
    sgd = make_optimizer(**{**SGD, "learning_rates": (rate,)})[0]
    inputs = {stream: clip.astype(np.float32) / 127.5 - 1 for stream, clip in clips.items()}
    optimizer = transfer.restrict(sgd, transfer.trained(variables["params"], "fixed"))

    # The whole network, written out: the gradient of every parameter, running statistics, no dropout.
    @jax.jit
    def gradient_of_everything(params):
        def loss(params):
            return model.clip_losses(*model.apply({**variables, "params": params}, inputs), LABELS).mean()

        return jax.value_and_grad(loss)(params)

    params, optimizer_state, losses = variables["params"], optimizer.init(variables["params"]), []
    for _ in range(4):
        loss, gradients = gradient_of_everything(params)
        losses.append(loss)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        params = optax.apply_updates(params, updates)
    assert losses[0] - losses[-1] > 0.02

    # Two windows of two videos.
    batch = {stream: clip.reshape(2, 2, *clip.shape[1:]) for stream, clip in clips.items()}
    features = jax.jit(transfer.features_step(model))(variables, batch)
    assert all(values.shape[:2] == (2, 2) for values in features.values())
    rows = {scope: values.reshape(4, *values.shape[2:]) for scope, values in features.items()}
    batch = {**rows, "label": LABELS, "mask": np.ones(4, bool)}
    state = initial_state(variables, optimizer)
    step = jax.jit(training_step(transfer.Classifiers(model), optimizer, seed=0))
    for loss in losses:
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"][0] / 4, loss, rtol=1e-5)
    chex.assert_trees_all_close(state.params, params, rtol=0, atol=1e-5)
    # What lies before the classifiers is left as it was, to the last bit.
    before, after = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (variables["params"], state.params))
    assert sorted(path for path in before if (before[path] != after[path]).any()) == CLASSIFIERS[name]
    chex.assert_trees_all_equal(state.batch_stats, variables["batch_stats"])


def test_dropout_of_features_is_that_of_the_architecture():
    model = models.create("two_stream_i3d", 2, width_multiplier=0.125, dropout_rate=0.25)
    variables = random_variables(model)
    features = {scope: jnp.ones((50, 3, 128)) for scope in ("RGB/Logits", "Flow/Logits")}
    # A class that counts the features that are left, each 1 / (1 - 0.25) of what it was, and their mean over the steps.
    for scope in ("RGB", "Flow"):
        layer = {"kernel": jnp.ones((1, 1, 1, 128, 2)), "bias": jnp.zeros(2)}
        variables["params"][scope]["Logits"] = {"Conv3d_0c_1x1": layer}

    def left(seed, train=True):
        rngs = {"dropout": jax.random.key(seed)}
        apply = transfer.Classifiers(model).apply
        (_, endpoints), _ = apply(variables, features, train=train, mutable=["batch_stats"], rngs=rngs)
        return {scope: np.asarray(own[:, 0]) for scope, own in endpoints.items()}

    found = left(0)
    counts = {scope: own * 3 * 0.75 for scope, own in found.items()}
    for own in counts.values():
        np.testing.assert_allclose(own, own.round(), atol=1e-3)
        assert own.mean() / (3 * 128) == pytest.approx(0.75, abs=0.01)
    assert (counts["RGB/Logits"] != counts["Flow/Logits"]).any()
    chex.assert_trees_all_equal(left(0), found)
    assert (left(1)["RGB/Logits"] != found["RGB/Logits"]).any()
    for own in left(0, train=False).values():
        np.testing.assert_allclose(own, 128)


def batches_of(rows, batch_size, *, seed=0, first_row=0):
    features = {"Logits": np.arange(rows, dtype=np.float32)[:, None, None]}
    made = transfer.FeatureBatches(
        features, 10 * np.arange(rows), batch_size=batch_size, seed=seed, first_row=first_row
    )
    return (next(made) for _ in range(1000))


def drawn(batches, number):
    """The rows of the first batches, whose labels go with them."""
    found = []
    for _, batch in zip(range(number), batches, strict=False):
        assert (batch["label"] == 10 * batch["Logits"][:, 0, 0]).all()
        assert batch["mask"].all()
        assert batch["label"].dtype == np.int32
        found += batch["label"].tolist()
    return found


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_a_standardised_optimizer_trains_on_standardised_features(name, scale):
    """Against a classifier that is given standardised features, whatever the features' own scale and offset."""
    random = np.random.default_rng(0)
    deviations = scale * random.uniform(0.5, 2, 16)
    features = random.normal(size=(40, 1, 16)) * deviations + scale * random.uniform(-1, 3, 16)
    features, labels = features.astype(np.float32), random.integers(0, 3, 40)
    mean, deviation = features.mean((0, 1)), features.std((0, 1))
    optimizer, _ = make_optimizer(**{**SGD, "name": name, "learning_rates": (0.05,)})
    statistics = transfer.statistics_of({"RGB/Logits": features})
    np.testing.assert_allclose(statistics["RGB/Logits"][0], mean, rtol=1e-4, atol=1e-3)
    # The thousandth of the mean variance is within this.
    np.testing.assert_allclose(statistics["RGB/Logits"][1], deviation, rtol=0.02)

    kernel, bias = random.normal(size=(1, 1, 16, 3)).astype(np.float32), np.float32([1, 2, 3])
    inside = {"Conv": {"kernel": kernel / deviation[:, None], "bias": bias - (mean / deviation) @ kernel[0, 0]}}
    others = {"mixed": jnp.ones(3)}

    def train(optimizer, params, inputs):
        """Returns the logits of the inputs after twenty steps."""

        def logits(params):
            layer = params["RGB"]["Logits"]["Conv"]
            return inputs[:, 0] @ layer["kernel"][0, 0] + layer["bias"]

        @jax.jit
        def step(carry, _):
            params, state = carry
            gradients = jax.grad(
                lambda params: optax.softmax_cross_entropy_with_integer_labels(logits(params), labels).mean()
            )(params)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=20)
        return logits(params)

    exact = {"RGB/Logits": (mean, deviation)}
    found = train(transfer.standardised(optimizer, exact), {"RGB": {"Logits": inside, **others}}, features)
    standard = {"RGB": {"Logits": {"Conv": {"kernel": kernel, "bias": bias}}, **others}}
    expected = train(optimizer, standard, (features - mean) / deviation)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_channels_that_hardly_vary_are_not_blown_up():
    features = np.zeros((100, 1, 3), np.float32)
    features[:, 0, 0], features[0, 0, 1] = np.arange(100), 1e-3
    [(_, deviation)] = transfer.statistics_of({"Logits": features}).values()
    assert deviation[0] == pytest.approx(np.arange(100).std(), rel=1e-3)
    assert (deviation[1:] > 0.01 * deviation[0]).all()
    [(_, deviation)] = transfer.statistics_of({"Logits": features[:, :, 2:]}).values()
    assert deviation.tolist() == [1.0]


def test_every_row_once_an_epoch_and_a_resumed_run_goes_on():
    whole = drawn(batches_of(10, 4), 10)
    for epoch in range(4):
        assert sorted(whole[10 * epoch : 10 * epoch + 10]) == list(range(0, 100, 10))
    assert whole[:10] != whole[10:20]
    assert drawn(batches_of(10, 4, first_row=12), 7) == whole[12:]
    assert drawn(batches_of(10, 4, seed=1), 10) != whole
    # A batch of more rows than there are.
    assert sorted(drawn(batches_of(3, 8), 1)[:6]) == [0, 0, 10, 10, 20, 20]
