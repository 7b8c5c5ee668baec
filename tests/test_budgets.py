"""What each architecture's steps may cost: operations, bytes and memory of small networks.

So no change raises them unseen. A clock would say less: it depends on the machine, and on what else runs there.
Who lowers a figure enters the new one; who has to raise one says in the commit what it buys.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from helpers.small_networks import SHALLOW, SMALL

from i3d_jax import models
from i3d_jax.training.compiler_options import compiled_for
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import evaluation_step, training_step

CLIPS, WINDOWS = 4, 2
# Compilers of different years fuse differently; what a change to a layer costs is more than this.
TOLERANCE = 1.1


class Budget(NamedTuple):
    """Of a step's program on a CPU: millions of operations, MB that these read and write, MB of temporaries."""

    operations: float
    accessed: float
    temporary: float


# As measured with jax 0.10.2 and 0.12.0.1, the larger of the two.
TRAINING = {
    "conv_lstm": Budget(33.6, 18.1, 1.23),
    "c3d": Budget(705.6, 171.6, 11.51),
    "two_stream": Budget(46.5, 13.2, 0.89),
    "fused": Budget(550.8, 102.4, 5.44),
    "i3d": Budget(222.4, 46.2, 3.97),
    "two_stream_i3d": Budget(394.3, 85.7, 5.42),
}
EVALUATION = {
    "conv_lstm": Budget(3.0, 1.0, 0.08),
    "c3d": Budget(65.0, 11.1, 1.12),
    "two_stream": Budget(5.1, 0.9, 0.09),
    "fused": Budget(48.3, 6.3, 0.93),
    "i3d": Budget(24.2, 3.1, 0.62),
    "two_stream_i3d": Budget(42.1, 5.7, 0.62),
}

# Of the training step as it is handed to the compiler of each platform: convolutions, matrix products (the
# classifier's, kernels of one pixel, Winograd's transforms, the order of columns on TPUs), pools, and the pools'
# gradients by XLA's own select-and-scatter, which GPUs are slow at. At this width layers of fewer than 8 channels are
# many: each turns its kernel round for NVIDIA's GPUs, and a stem of strides 2 brings its blocks together for TPUs.
COUNTED = ("convolution", "dot_general", "reduce_window", "select_and_scatter", "transpose", "custom_call")
OPERATIONS = {
    ("conv_lstm", "cpu"): (17, 36, 2, 0, 29, 0),
    ("conv_lstm", "cuda"): (17, 36, 6, 0, 16, 0),
    ("conv_lstm", "tpu"): (17, 36, 6, 4, 16, 0),
    ("c3d", "cpu"): (14, 96, 0, 0, 30, 0),
    ("c3d", "cuda"): (23, 9, 5, 0, 5, 0),
    ("c3d", "tpu"): (23, 9, 5, 5, 3, 0),
    ("two_stream", "cpu"): (34, 60, 4, 0, 45, 0),
    ("two_stream", "cuda"): (34, 60, 12, 0, 21, 0),
    ("two_stream", "tpu"): (34, 60, 12, 8, 21, 0),
    ("fused", "cpu"): (36, 84, 0, 0, 49, 0),
    ("fused", "cuda"): (37, 57, 9, 0, 20, 0),
    ("fused", "tpu"): (37, 57, 9, 9, 20, 0),
    ("i3d", "cpu"): (17, 30, 2, 0, 22, 0),
    ("i3d", "cuda"): (17, 30, 6, 0, 18, 0),
    ("i3d", "tpu"): (17, 32, 6, 4, 16, 0),
    ("two_stream_i3d", "cpu"): (34, 60, 4, 0, 44, 0),
    ("two_stream_i3d", "cuda"): (34, 60, 12, 0, 36, 0),
    ("two_stream_i3d", "tpu"): (34, 64, 12, 8, 32, 0),
}


def network(name):
    options = SMALL[name][2] if name == "c3d" else SHALLOW
    return models.create(name, num_classes=3, width_multiplier=0.125, **options)


def batch(name, model, windows=()):
    frames, size, _ = SMALL[name]
    shapes = {stream: (CLIPS, *windows, *shape) for stream, shape in model.input_shapes(frames, size).items()}
    return {
        **{stream: jax.ShapeDtypeStruct(shape, jnp.uint8) for stream, shape in shapes.items()},
        "label": jax.ShapeDtypeStruct((CLIPS,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((CLIPS,), bool),
    }


def training(name):
    """The step with the release's optimizer, whose state takes the place of the old one, and the shapes it takes."""
    model, optimizer = network(name), optax.sgd(0.1, 0.9)
    state = jax.eval_shape(lambda variables: initial_state(variables, optimizer), models.template(model))
    return jax.jit(training_step(model, optimizer, seed=0), donate_argnums=0), (state, batch(name, model))


def evaluation(name):
    model = network(name)
    return jax.jit(evaluation_step(model)), (models.template(model), batch(name, model, (WINDOWS,)))


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize(("made", "budgets"), [(training, TRAINING), (evaluation, EVALUATION)])
def test_a_step_costs_no_more_than_its_budget(name, made, budgets):
    step, shapes = made(name)
    compiled = compiled_for("cpu", step.lower(*shapes))
    costs = compiled.cost_analysis()
    found = Budget(
        costs["flops"] / 1e6, costs["bytes accessed"] / 1e6, compiled.memory_analysis().temp_size_in_bytes / 1e6
    )
    for what, own, most in zip(Budget._fields, found, budgets[name], strict=True):
        # Of megabytes, half of the last digit besides.
        assert own <= TOLERANCE * most + 0.005, f"{name}, {made.__name__}, {what}: {own:.2f}, the budget is {most}"
        # A budget of twice what is needed would let a doubling pass.
        assert own >= most / 2, f"{name}, {made.__name__}, {what}: {own:.2f}, so {most} is no budget: lower it"


@pytest.mark.parametrize(("name", "platform"), OPERATIONS)
def test_a_training_step_has_these_operations(name, platform):
    """No device of the platform is needed: nothing is compiled."""
    step, shapes = training(name)
    text = step.trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    counts = Counter(re.findall(rf"stablehlo\.({'|'.join(COUNTED)})\b", text))
    assert tuple(counts[operation] for operation in COUNTED) == OPERATIONS[name, platform]
