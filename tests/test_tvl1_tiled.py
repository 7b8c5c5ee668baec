"""TV-L1's kernel for NVIDIA GPUs, interpreted on the CPU, against the plain iterations, and its own laws."""

import functools
import types
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.textures import shifted, texture
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from i3d_jax import flow
from i3d_jax.flow import dual_tvl1, tiled_iterations
from i3d_jax.flow.equations import Numbers
from i3d_jax.flow.tiled_iterations import Tiling

pytestmark = pytest.mark.skipif(tiled_iterations.triton is None, reason="this version of JAX has no Triton")
NUMBERS = Numbers(*map(np.float32, (0.045, 0.3, 0.25 / 0.3, 1e-4)))
# By tiling, for all tests: those with the same parameters share what is compiled.
PROGRAMS: dict[Tiling, Callable] = {}
# Of 16x16 pixels, 10x10 of which are written, and of 32x32, 22x22 of which are.
OF_THREE, OF_FIVE = Tiling(3, (8, 8), (2, 2)), Tiling(5, (16, 16), (2, 2))


def passed(fields: np.ndarray, limit: list[int], tiling: Tiling, which: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Iterates u, v, four dual fields, two slopes and the constant, [9, N, H, W]; [6, N, H, W] and the changes."""
    size = fields.shape[2:]
    padded = np.pad(fields, ((0, 0), (0, 0), *tiling.padding(*size)))
    # The state that is not valid is full of what must not be read.
    states = np.full((2, 6, *padded.shape[1:]), 1e9, np.float32)
    for pair, one in enumerate(which):
        states[one, :, pair] = padded[:6, pair]
    iterate = functools.partial(tiled_iterations.iterate, size=size, tiling=tiling, interpret=True)
    after, changes = jax.jit(iterate)(states, np.int32(which), np.int32(limit), padded[6:], NUMBERS)
    np.testing.assert_array_equal(*(np.asarray(one)[which, :, range(len(which))] for one in (after, states)))
    (top, _), (left, _) = tiling.padding(*size)
    inside = np.asarray(after)[..., top : top + size[0], left : left + size[1]]
    return np.stack([inside[1 - one, :, pair] for pair, one in enumerate(which)], axis=1), np.asarray(changes)


def random_fields(pairs: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(9, pairs, height, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "tiling"),
    [
        ((37, 53), OF_THREE),
        ((9, 7), OF_FIVE),
        ((20, 23), Tiling(2, (4, 8), (3, 1))),
        ((32, 20), Tiling(1, (8, 4), (1, 2))),
    ],
)
def test_a_pass_is_so_many_iterations(size, tiling):
    """Of any flow and dual variable, also at the borders, for each pair as many as it is told."""
    fields = random_fields(3, *size)
    # No slope at all, as in a frame of one colour, and one too small to be divided by.
    fields[6:8, :, 2], fields[6:8, :, 4] = 0, 1e-5
    limit = [tiling.iterations, max(1, tiling.iterations - 2), 0]
    found, changes = passed(fields, limit, tiling, which=[0, 1, 0])
    u, v, *dual, across, down, constant = fields
    state = dual_tvl1._State((u, v), ((dual[0], dual[1]), (dual[2], dual[3])), np.ones(3, np.float32), np.int32(0))
    step = jax.jit(dual_tvl1._step)
    for number in range(tiling.iterations):
        state = step(state, [across, down], constant, NUMBERS)
        expected = np.stack(jax.tree.leaves((state.flow, state.dual)))
        for pair in range(2):
            if number < limit[pair]:
                np.testing.assert_allclose(changes[pair, number], state.change[pair], rtol=1e-5)
            if number + 1 == limit[pair]:
                np.testing.assert_allclose(found[:, pair], expected[:, pair], rtol=1e-5, atol=3e-5)


def test_the_tiling_changes_no_number():
    fields = random_fields(1, 21, 26)
    first, changes = passed(fields, [3], OF_THREE, which=[0])
    again, sums = passed(fields, [3], Tiling(3, (4, 8), (3, 1)), which=[0])
    np.testing.assert_allclose(again, first, rtol=0, atol=1e-6)
    np.testing.assert_allclose(sums, changes, rtol=1e-5)


def test_a_pair_is_wanted_up_to_its_end():
    nan = np.nan
    changes = jnp.array([[5, 4, 3], [5, 1, 3], [5, 4, 1], [5, 4, 1], [nan, 4, 1], [2, 2, 2]], jnp.float32)
    found = dual_tvl1._wanted(changes, jnp.array([3, 3, 3, 2, 3, 0]), np.float32(2))
    np.testing.assert_array_equal(found, [3, 2, 3, 2, 1, 0])


SEVEN = {"inner_iterations": 7, "outer_iterations": 3}


@pytest.fixture
def tiled(monkeypatch):
    """Returns a function that finds the flow as on an NVIDIA GPU, with a tiling of its own."""

    def of_nvidia(*arrays, cuda=None, rocm=None, default):
        return (cuda or default)(*arrays)

    def run(*frames, tiling=OF_THREE, **parameters):
        iterate = functools.partial(tiled_iterations.iterate, interpret=True)
        if tiling not in PROGRAMS:
            # Another function, of which JAX has no program yet.
            PROGRAMS[tiling] = jax.jit(lambda *arguments: plain(*arguments), static_argnums=3)
        with monkeypatch.context() as patched:
            patched.setattr(jax.lax, "platform_dependent", of_nvidia)
            patched.setattr(tiled_iterations, "available", lambda: True)
            patched.setattr(tiled_iterations, "iterate", iterate)
            patched.setattr(tiled_iterations, "TILING", tiling)
            patched.setattr(dual_tvl1, "_tvl1", PROGRAMS[tiling])
            return np.asarray(flow.tvl1(*frames, **parameters))

    plain = dual_tvl1._tvl1.__wrapped__
    return run


@pytest.mark.parametrize(
    ("parameters", "tiling"),
    [
        # As by default; a pair that goes on for long, a still one, one that ends amidst a pass.
        ({}, OF_FIVE),
        # Iterations that passes do not divide.
        (SEVEN, OF_THREE),
        ({"inner_iterations": 1, "outer_iterations": 3}, OF_THREE),
        # All end at once; none ends.
        ({**SEVEN, "epsilon": 10.0}, OF_THREE),
        ({**SEVEN, "epsilon": 1e-9}, OF_THREE),
    ],
)
def test_the_flow_is_that_of_the_plain_iterations(parameters, tiling, tiled):
    """To the rounding, whenever the pairs end: an iteration more or less would show."""
    pairs = np.stack([shifted(37, 53), (texture(37, 53),) * 2, shifted(37, 53, seed=1)], axis=1)
    parameters = {"scales": 1, "warps": 2, **parameters}
    expected = np.asarray(flow.tvl1(*pairs, **parameters))
    assert np.abs(expected[0]).mean() > 0.3
    np.testing.assert_allclose(tiled(*pairs, tiling=tiling, **parameters), expected, rtol=0, atol=2e-4)


def test_two_scales_together(tiled):
    """A pair at the threshold may take an iteration more, which moves the flow by 0.01 pixels at most in the mean."""
    pair = shifted(32, 44)
    parameters = {"scales": 2, "warps": 2}
    found, expected = tiled(*pair, tiling=OF_FIVE, **parameters), np.asarray(flow.tvl1(*pair, **parameters))
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01)
    assert np.median(np.abs(found - expected)) < 1e-4


def test_what_the_others_of_a_batch_do_changes_nothing(tiled):
    previous, following = (np.stack([frame] * 3) for frame in shifted(37, 53, seed=3))
    previous[1] = following[1] = texture(37, 53)
    following[2] = np.random.default_rng(0).uniform(0, 255, (37, 53))
    parameters = {"scales": 1, "warps": 2, **SEVEN, "tiling": OF_THREE}
    found = tiled(previous, following, **parameters)
    turned = tiled(previous[::-1], following[::-1], **parameters)
    np.testing.assert_array_equal(turned[::-1], found)
    following[2, 20, 30] = np.nan
    spoilt = tiled(previous, following, **parameters)
    assert np.isnan(spoilt[2]).all()
    np.testing.assert_array_equal(spoilt[:2], found[:2])


def test_where_the_kernel_cannot_be_compiled_iterations_are_made_one_by_one(monkeypatch):
    gpu = AbstractMesh((1,), ("x",), abstract_device=AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu"))

    def found(capabilities):
        devices = [types.SimpleNamespace(compute_capability=one) for one in capabilities]
        monkeypatch.setattr(jax, "local_devices", lambda backend: devices)
        tiled_iterations._is_lowered.cache_clear()
        with use_abstract_mesh(gpu):
            return tiled_iterations.available()

    assert found(["9.0", "8.0"])
    assert found(["12.0"])
    assert not found(["9.0", "7.5"])
    with monkeypatch.context() as unknown:
        # As Pallas does with a GPU of a name that it does not know.
        unknown.setattr(tiled_iterations, "iterate", lambda *_, **__: [][0])
        assert not found(["8.6"])
    tiled_iterations._is_lowered.cache_clear()

    def none_is_here(backend):
        raise RuntimeError(f"no {backend}")

    monkeypatch.setattr(jax, "local_devices", none_is_here)
    assert not tiled_iterations.available()
    monkeypatch.setattr(tiled_iterations, "triton", None)
    assert not found(["9.0"])
    asked = []
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, default, **ways: asked.append(ways))
    still = jnp.zeros((1, 20, 20))
    with pytest.raises(TypeError):
        dual_tvl1._one_scale(still, still, (still, still), NUMBERS, dual_tvl1._Counts(1, 1, 30, 10, 0.8, 5))
    assert asked == [{}]


def test_it_is_part_of_the_program_for_a_gpu_and_says_nothing_of_its_compiler(monkeypatch):
    monkeypatch.setattr(tiled_iterations, "available", lambda: True)
    frames = jax.ShapeDtypeStruct((2, 40, 50), jnp.uint8)
    # What JAX compiles for where no such GPU is.
    gpu = AbstractMesh((1,), ("x",), abstract_device=AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu"))
    with warnings.catch_warnings(), use_abstract_mesh(gpu):
        warnings.simplefilter("error")
        # As when it is imported.
        tiled_iterations._compiler()
        traced = jax.jit(lambda *frames: flow.tvl1(*frames, scales=1)).trace(frames, frames)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "tvl1_iterations" in text
    assert "tvl1_iterations" not in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_a_version_without_triton_has_no_kernel(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(tiled_iterations.importlib, "import_module", missing)
    assert tiled_iterations._compiler() is None
