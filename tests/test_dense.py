"""A clip in pieces scores as it does in one, whatever its length, and the pieces are all that memory holds."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from helpers.small_networks import random_variables

from i3d_jax import models
from i3d_jax.evaluation import dense
from i3d_jax.evaluation.dense import pieces
from i3d_jax.system.errors import UserError
from i3d_jax.training.step import scaled


@functools.cache
def network(name, **options):
    model = models.create(name, num_classes=5, width_multiplier=0.0625, **options)
    return model, random_variables(model)


def moving(model, frames, seed=0):
    """A clip that is another picture at every frame, and brighter towards its end."""
    random = np.random.default_rng(seed)
    shapes = model.input_shapes(frames, 32)
    light = np.linspace(0.2, 1, frames)[:, None, None, None]
    return {stream: (random.integers(0, 256, shape) * light).astype(np.uint8) for stream, shape in shapes.items()}


def in_one_piece(model, variables, clip):
    apply = jax.jit(functools.partial(model.apply, variables))
    logits, endpoints = apply({stream: scaled(pixels)[None] for stream, pixels in clip.items()})
    return logits[0], {stream: own[0] for stream, own in model.stream_logits(endpoints).items()}


@pytest.mark.parametrize("frames", [9, *range(225, 233)])
def test_pieces_are_the_whole(frames):
    model, variables = network("i3d")
    clip = moving(model, frames)
    ours, _ = dense.dense(model, variables, clip)
    whole, _ = in_one_piece(model, variables, clip)
    print(np.ptp(whole), np.abs(ours - whole).max())
    np.testing.assert_allclose(ours, whole, rtol=0, atol=1e-5 * np.ptp(whole))
