"""A residual network of the project's own layers: what an architecture that the paper has not takes."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import batch

from i3d_jax.models.layers import Convolution, ConvolutionUnit
from i3d_jax.models.network import Clip, Network
from i3d_jax.training.optimizer import make_optimizer
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import evaluation_step, training_step


class ResNet3D(Network):
    """Two blocks of two convolutions and a shortcut, the second at half the resolution."""

    streams = ("rgb",)
    training_clip = test_clip = Clip(4, 1, 8)

    @nn.compact
    def __call__(self, inputs, train=False):
        unit = functools.partial(ConvolutionUnit, batch_norm_decay=self.batch_norm_decay, dtype=self.dtype)
        outputs = unit(8, (3, 3, 3), name="stem")(inputs["rgb"], train)
        for name, features, strides in (("block1", 8, (1, 1, 1)), ("block2", 16, (2, 2, 2))):
            shortcut = outputs
            if strides != (1, 1, 1):
                shortcut = unit(features, (1, 1, 1), strides, relu=False, name=f"{name}_shortcut")(outputs, train)
            outputs = unit(features, (3, 3, 3), strides, name=f"{name}_a")(outputs, train)
            outputs = unit(features, (3, 3, 3), relu=False, name=f"{name}_b")(outputs, train)
            outputs = nn.relu(outputs + shortcut)
        pooled = outputs.astype(jnp.float32).mean((1, 2, 3), keepdims=True)
        logits = Convolution(self.num_classes, (1, 1, 1), use_bias=True, name="Logits")(pooled)[:, 0, 0, 0]
        return logits, {"features": pooled[:, 0, 0]}


def test_it_learns_and_evaluates():
    model = ResNet3D(num_classes=3, batch_norm_decay=0.5)
    optimizer, _ = make_optimizer(name="adam", learning_rates=(0.01,), boundaries=(), momentum=0.9, weight_decay=0.0)
    state = initial_state(model.init(jax.random.key(0), {"rgb": jnp.zeros((1, 4, 8, 8, 3))}), optimizer)
    step, one = jax.jit(training_step(model, optimizer, seed=0)), batch(0)
    clips = {name: one[name] for name in ("rgb", "label", "mask")}
    losses = []
    for _ in range(30):
        state, sums = step(state, clips)
        losses.append(float(sums["loss"][0] / sums["loss"][1]))
    assert losses[-1] < 0.1 < losses[0]
    logits, _ = jax.jit(evaluation_step(model))(state.variables, {"rgb": one["rgb"][:, None]})
    assert logits.argmax(-1).tolist() == one["label"].tolist()


@pytest.mark.parametrize("train", [True, False])
def test_a_unit_without_relu_is_one_with_it_before_the_relu(train):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(2, 4, 6, 6, 3)).astype(np.float32)
    weights = random.normal(size=(2, 4, 6, 6, 5)).astype(np.float32)
    with_it, without = (ConvolutionUnit(5, (3, 3, 3), relu=relu, batch_norm_gain=True) for relu in (True, False))
    variables = with_it.init(jax.random.key(0), inputs, False)
    chex.assert_trees_all_equal(variables, without.init(jax.random.key(0), inputs, False))
    variables = jax.tree.map(lambda leaf: leaf + random.uniform(0.1, 0.5, leaf.shape).astype(np.float32), variables)

    @functools.partial(jax.jit, static_argnums=0)
    def outputs_and_gradients(unit, params, inputs):
        def total(params, inputs):
            outputs, changed = unit.apply({**variables, "params": params}, inputs, train, mutable=["batch_stats"])
            return (nn.relu(outputs) * weights).sum(), (outputs, changed)

        return jax.grad(total, argnums=(0, 1), has_aux=True)(params, inputs)

    found, (outputs, changed) = outputs_and_gradients(without, variables["params"], inputs)
    expected, (rectified, changed_with_it) = outputs_and_gradients(with_it, variables["params"], inputs)
    assert (outputs < 0).mean() > 0.1
    np.testing.assert_allclose(nn.relu(outputs), rectified, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(changed, changed_with_it, rtol=1e-6)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)
