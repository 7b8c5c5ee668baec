"""Calls of the core with other arrays than its signatures name are refused while the tests run (`conftest.py`)."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CHECKED
from jaxtyping import TypeCheckError

from i3d_jax import models
from i3d_jax.flow import codec, sampling, tvl1
from i3d_jax.models import batch_norm, lowering, pooling, winograd
from i3d_jax.models.conv_lstm import BatchNormalisedLSTM
from i3d_jax.models.network import cross_entropy
from i3d_jax.training.metrics import masked_sum
from i3d_jax.training.step import inputs_of, scaled


def functions():
    """The functions and methods that the modules under check define, by name."""
    for name in CHECKED:
        module = importlib.import_module(name)
        below = pkgutil.walk_packages(module.__path__, f"{name}.") if hasattr(module, "__path__") else ()
        for one in [module, *(importlib.import_module(found.name) for found in below)]:
            for value in vars(one).values():
                for member in vars(value).values() if inspect.isclass(value) else [value]:
                    # What dataclasses make of their fields is in no file.
                    if inspect.isfunction(member) and inspect.unwrap(member).__code__.co_filename == one.__file__:
                        yield f"{one.__name__}.{member.__qualname__}", member


@pytest.mark.parametrize(("name", "function"), functions())
def test_every_signature_is_understood(name, function):
    """What jaxtyping cannot read it would let pass, whatever it is."""
    del name
    typing.get_type_hints(function, include_extras=True)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def normalised_relu(channels):
    return batch_norm.normalised_relu(zeros(2, 4), zeros(4), zeros(4), zeros(channels), jnp.float32)


def warp(rows):
    return sampling.warp(zeros(1, 3, 8, 9), zeros(1, 4, 5), zeros(1, rows, 5))


def lstm(dtype):
    module = BatchNormalisedLSTM(units=2, statistics_steps=3, decay=0.9)
    return jax.eval_shape(lambda inputs: module.init(jax.random.key(0), inputs, False), jnp.zeros((1, 3, 4), dtype))


def c3d(dtype):
    model = models.create("c3d", num_classes=3, width_multiplier=0.0625, frame_size=16)
    variables = models.template(model)
    clip = jax.ShapeDtypeStruct((1, 16, 16, 16, 3), dtype)
    return jax.eval_shape(model.apply, variables, {"rgb": clip})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pooling.max_pool(zeros(7), (2,), (2,)), "batch ... channels"),
        (lambda: pooling.max_pool(zeros(1, 4, 4, 2, dtype=np.int32), (2, 2), (2, 2)), "batch ... channels"),
        (lambda: lowering.convolution(zeros(1, 4, 4, 2), zeros(3, 3, 5, 6), (1, 1), ((1, 1),) * 2), "channels=2"),
        (lambda: winograd.convolution(zeros(1, 8, 8, 2), zeros(5, 5, 2, 3)), "3 3 _channels _features"),
        (lambda: normalised_relu(5), "channels=4"),
        (lambda: warp(5), "rows=4"),
        (lambda: lstm(jnp.bfloat16), "bf16[1,3,4]"),
        (lambda: c3d(jnp.uint8), "batch ..."),
        (lambda: cross_entropy(zeros(2, 3), zeros(2)), "labels"),
        (lambda: cross_entropy(zeros(2, 5, 3), zeros(2, dtype=np.int32)), "axes"),
        (lambda: masked_sum(zeros(4), zeros(5, dtype=bool)), "batch=4"),
        (lambda: scaled(zeros(2, 3)), "UInt8"),
        (lambda: inputs_of({"rgb": np.uint8(0)}), "batch ..."),
        (lambda: tvl1(zeros(4, 4, dtype=bool), zeros(4, 4)), "previous"),
        (lambda: codec.to_bytes(zeros(2, dtype=np.int32)), "displacement"),
        (lambda: codec.negate_u(zeros(4, 3, dtype=np.uint8), codec.NEAREST), "axes 2"),
    ],
)
def test_other_arrays_are_refused(call, words):
    with pytest.raises(TypeCheckError) as refused:
        call()
    assert words in str(refused.value)


@pytest.mark.parametrize("library", [np, jnp])
def test_those_of_the_signature_pass(library):
    assert pooling.max_pool(library.zeros((1, 4, 4, 2), jnp.bfloat16), (2, 2), (2, 2)).dtype == jnp.bfloat16
    assert normalised_relu(4).shape == (2, 4)
    assert warp(4).shape == (1, 3, 4, 5)
    assert cross_entropy(library.zeros((2, 5, 3)), library.zeros((2, 5), np.int32)).shape == (2, 5)
    assert masked_sum(library.ones(4), library.ones(4, bool)) == (4, 4)
    assert scaled(library.zeros((2, 3), np.uint8)).dtype == np.float32
    assert codec.to_bytes(library.zeros((2, 2), np.float32)).dtype == np.uint8


def test_networks_take_floats_of_either_width():
    for dtype in (jnp.float32, jnp.bfloat16):
        logits, _ = c3d(dtype)
        assert (logits.shape, logits.dtype) == ((1, 3), jnp.float32)
    lstm(jnp.float32)
