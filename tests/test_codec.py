"""Flow as bytes: hand-computed numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from helpers.foreign_records import truncated

from i3d_jax.flow import codec
from i3d_jax.training.step import scaled


@pytest.mark.parametrize(
    ("pixels", "byte"),
    [
        (-1000.0, 0),
        (-20.0, 0),
        (-3.0, 108),  # 17 * 6.375 = 108.375
        (0.0, 128),  # 127.5, and of two bytes that are equally near the even one
        (2.0, 140),  # 22 * 6.375 = 140.25
        (3.0, 147),  # 146.625: cut off, it would be 146
        (19.95, 255),
        (20.0, 255),
        (float("inf"), 255),
    ],
)
def test_pixels_to_bytes(pixels, byte):
    displacement = np.full((2, 3), pixels, np.float32)
    stored = codec.to_bytes(displacement)
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, np.full((2, 3), byte))
    np.testing.assert_array_equal(jax.jit(codec.to_bytes)(displacement), stored)


def test_bytes_to_pixels():
    stored = np.array([0, 51, 204, 255], np.uint8)
    found = codec.to_pixels(stored)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [-20, -12, 12, 20], atol=1e-5)
    np.testing.assert_allclose(jax.jit(codec.to_pixels)(stored), found, atol=1e-5)


def test_what_is_stored_comes_back_within_half_a_step():
    displacement = np.random.default_rng(0).uniform(-20, 20, (50, 2)).astype(np.float32)
    found = codec.to_pixels(codec.to_bytes(displacement))
    assert 0.07 < np.abs(found - displacement).max() <= 40 / 255 / 2 + 1e-5


def test_the_network_sees_the_displacement_over_the_bound():
    displacement = np.array([-20, -5, 10, 20], np.float32)
    np.testing.assert_allclose(scaled(jnp.array(codec.to_bytes(displacement))), displacement / 20, atol=0.5 / 127)


def test_negation_of_u_alone():
    displacement = np.array([[3.0, 2.0], [-7.3, 4.4], [30.0, -30.0]], np.float32)
    negated = codec.to_bytes(displacement * np.float32([-1, 1]))
    stored = codec.to_bytes(displacement)
    np.testing.assert_array_equal(codec.negate_u(stored, "nearest"), negated)
    np.testing.assert_array_equal(codec.negate_u(jnp.array(stored), "nearest", minimum=jnp.minimum), negated)
    np.testing.assert_array_equal(codec.negate_u(tf.constant(stored), "nearest", minimum=tf.minimum), negated)


@pytest.mark.parametrize(
    ("u", "byte", "negated"),
    [
        # b = floor(6.375 u + 127.5), worked out by hand.
        (0.0, 127, 127),
        (2.0, 140, 114),  # 140.25, and 114.75 for -2
        (-2.0, 114, 140),
        (19.99, 254, 0),
        (20.0, 255, 0),
        (25.0, 255, 0),
        (-19.99, 0, 254),
        (-20.0, 0, 254),  # +20 is 255: the edge of a step, and one step off
    ],
)
def test_truncated_flow(u, byte, negated):
    stored = truncated(np.array([[u, u]], np.float32))
    np.testing.assert_array_equal(stored, [[byte, byte]])
    for library in (np, jnp, tf):
        array = stored if library is np else library.asarray(stored) if library is jnp else library.constant(stored)
        found = codec.negate_u(array, "truncated", minimum=library.minimum)
        np.testing.assert_array_equal(found, [[negated, byte]])
        assert np.asarray(found).dtype == np.uint8


def test_truncated_bytes_are_the_middle_of_their_step():
    displacement = np.random.default_rng(0).uniform(-20, 20, (50, 2)).astype(np.float32)
    found = codec.to_pixels(truncated(displacement), "truncated")
    assert found.dtype == np.float32
    assert 0.07 < np.abs(found - displacement).max() <= 40 / 255 / 2 + 1e-5
    np.testing.assert_allclose(codec.to_pixels(np.array([127, 255], np.uint8), "truncated"), [0, 20], atol=2e-6)


def test_the_description_is_the_contract():
    assert json.loads(json.dumps(codec.description(implementation="opencv", version="5.0.0"))) == {
        "algorithm": "tvl1",
        "implementation": "opencv",
        "version": "5.0.0",
        "bound": 20.0,
        "rounding": "nearest",
        "tau": 0.25,
        "lambda": 0.15,
        "theta": 0.3,
        "scales": 5,
        "warps": 5,
        "epsilon": 0.01,
        "inner_iterations": 30,
        "outer_iterations": 10,
        "scale_step": 0.8,
        "median": 5,
    }
