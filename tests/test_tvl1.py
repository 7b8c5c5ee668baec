"""TV-L1 in JAX against OpenCV's, part by part and as a whole, and its own laws."""

import inspect
import itertools
from pathlib import Path

import av
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.textures import shifted, texture

from i3d_jax import flow
from i3d_jax.flow import codec, dual_tvl1, sampling
from i3d_jax.flow.median import comparators, median
from i3d_jax.system.errors import UserError

VIDEOS = Path(__file__).parents[2] / "shared" / "videos"
# (file, first frame, frames from it to the next): the last two are strong motion, up to 40 pixels.
PAIRS = [
    ("v_Basketball_g01_c01.avi", 40, 1),
    ("flipping_a_pancake.mkv", 41, 1),
    ("arm_wrestling.mp4", 40, 1),
    ("v_Biking_g05_c02.avi", 60, 2),
    ("cleaning_pool.mp4", 100, 4),
]
needs_videos = pytest.mark.skipif(not VIDEOS.is_dir(), reason="the real clips are not here")


def grey_pair(name: str, number: int, apart: int) -> np.ndarray:
    """Two frames of a video, uint8 [2, 160, 212], resized and cut to one size for all videos."""
    frames = []
    with av.open(str(VIDEOS / name)) as container:
        for frame in itertools.islice(container.decode(video=0), number, number + apart + 1, apart):
            scale = 160 / min(frame.height, frame.width)
            size = round(frame.width * scale), round(frame.height * scale)
            frames.append(cv2.resize(frame.to_ndarray(format="gray"), size)[:, :212])
    return np.stack(frames)


def opencv(previous: np.ndarray, following: np.ndarray, **parameters) -> np.ndarray:
    """OpenCV's flow of frames 0..255, uint8 or float."""
    if previous.dtype != np.uint8:
        previous, following = previous / np.float32(255), following / np.float32(255)
    return cv2.optflow.DualTVL1OpticalFlow_create(**parameters).calc(previous, following, None)


def errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.asarray(found) - expected, axis=-1)


def energy(field: np.ndarray, previous: np.ndarray, following: np.ndarray) -> float:
    """What TV-L1 minimises (Zach et al. 2007, equation 3), with lambda at its default."""
    previous, following = previous.astype(np.float32), following.astype(np.float32)
    height, width = previous.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    warped = cv2.remap(following, x + field[..., 0], y + field[..., 1], cv2.INTER_CUBIC)
    across, down = np.diff(field, axis=1, append=field[:, -1:]), np.diff(field, axis=0, append=field[-1:])
    return float(np.hypot(across, down).sum() + 0.15 * np.abs(warped - previous).sum())


@needs_videos
def test_real_clips_have_the_flow_that_opencv_finds():
    pairs = [grey_pair(*pair) for pair in PAIRS]
    fields = np.asarray(flow.tvl1(*np.stack(pairs, axis=1)))
    means, energies = [], []
    for (name, _, _), pair, found in zip(PAIRS, pairs, fields, strict=True):
        expected = opencv(*pair)
        error = errors(found, expected)
        assert np.median(error) <= 0.03, name
        means.append(error.mean())
        energies.append((energy(found, *pair), energy(expected, *pair)))
    assert np.mean(means) <= 0.05
    # Of all pairs together: that of one which hardly moves is chance, for OpenCV too (docs/flow.md).
    ours, theirs = np.sum(energies, axis=0)
    assert ours <= 1.01 * theirs


def test_a_shift_comes_back():
    found = np.asarray(flow.tvl1(*shifted(96, 128)))
    inside = found[8:-8, 8:-8]
    np.testing.assert_allclose(inside.mean((0, 1)), (3, 2), atol=0.02)
    assert np.median(errors(inside, np.array([3, 2]))) <= 0.02


@pytest.mark.parametrize("frame", [texture(32, 44), np.full((32, 44), 128, np.uint8)], ids=["texture", "constant"])
def test_equal_frames_have_no_flow(frame):
    assert not np.asarray(flow.tvl1(frame, frame)).any()


def test_constant_frames_of_two_brightnesses_have_no_flow():
    assert not np.asarray(flow.tvl1(np.full((32, 44), 10, np.uint8), np.full((32, 44), 200, np.uint8))).any()


def test_every_parameter_means_what_it_means_to_opencv():
    """All of them away from their defaults at once, in both; then back to its default one by one: each one matters."""
    ours = {
        "tau": 0.2,
        "lambda_": 0.08,
        "theta": 0.5,
        "scales": 2,
        "warps": 3,
        "epsilon": 0.03,
        "inner_iterations": 7,
        "outer_iterations": 3,
        "scale_step": 0.6,
        "median": 3,
    }
    names = {
        "scales": "nscales",
        "inner_iterations": "innnerIterations",
        "outer_iterations": "outerIterations",
        "scale_step": "scaleStep",
        "median": "medianFiltering",
    }
    pair = shifted(50, 60)
    found = np.asarray(flow.tvl1(*pair, **ours))
    expected = opencv(*pair, **{names.get(name, name): value for name, value in ours.items()})
    assert errors(found, expected).mean() <= 0.001
    for name in ours:
        changed = flow.tvl1(*pair, **{key: value for key, value in ours.items() if key != name})
        assert errors(changed, expected).mean() > 0.01, name


def test_the_defaults_are_those_that_datasets_state_and_opencv_has():
    signature = inspect.signature(flow.tvl1).parameters
    defaults = {name: one.default for name, one in signature.items() if one.kind is one.KEYWORD_ONLY}
    assert {name.rstrip("_"): value for name, value in defaults.items()} == codec.TVL1_PARAMETERS
    theirs = cv2.optflow.DualTVL1OpticalFlow_create()
    assert list(defaults.values()) == [
        theirs.getTau(),
        theirs.getLambda(),
        theirs.getTheta(),
        theirs.getScalesNumber(),
        theirs.getWarpingsNumber(),
        theirs.getEpsilon(),
        theirs.getInnerIterations(),
        theirs.getOuterIterations(),
        theirs.getScaleStep(),
        theirs.getMedianFiltering(),
    ]


def test_what_the_others_of_a_batch_do_changes_nothing():
    """A still pair is at its end at once, one that moves goes on, one of noise goes on for long."""
    still, noise = texture(32, 44, 1), np.random.default_rng(0).uniform(0, 255, (2, 32, 44)).astype(np.float32)
    companions = [(still, still), tuple(noise), shifted(seed=2)]
    alone = np.asarray(flow.tvl1(*shifted()))
    first = None
    for place in range(4):
        pairs = [*companions[:place], shifted(), *companions[place:]]
        fields = np.asarray(flow.tvl1(*(np.stack(frames) for frames in zip(*pairs, strict=True))))
        # To the last bit where the program is the same; another number of pairs is another program.
        np.testing.assert_allclose(fields[place], alone, atol=0.01)
        first = fields[place] if first is None else first
        np.testing.assert_array_equal(fields[place], first)


def test_an_iteration_in_one_pass_is_the_iteration():
    """At every pixel, those at the borders too, of any flow and dual variable."""
    random = np.random.default_rng(0)
    fields = list(random.normal(size=(9, 2, 6, 7)).astype(np.float32))
    u, v, *dual, across, down, constant = fields
    state = dual_tvl1._State((u, v), ((dual[0], dual[1]), (dual[2], dual[3])), np.ones(2, np.float32), np.int32(0))
    numbers = dual_tvl1.Numbers(*map(np.float32, (0.045, 0.3, 0.25 / 0.3, 1e-4)))
    expected, found = (
        jax.jit(step)(state, [across, down], constant, numbers) for step in (dual_tvl1._step, dual_tvl1._step_in_one)
    )
    assert np.abs(expected.flow[0] - u).min() > 1e-4
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5), found, expected)


@pytest.mark.parametrize("inner_iterations", [30, 11])
def test_what_gpus_without_the_kernel_run_finds_the_same(inner_iterations, monkeypatch):
    """Compiled for the CPU, up to rounding: one pass over memory, asked seldom, pairs that end at different times."""
    pairs = np.stack([shifted(), (texture(32, 44),) * 2, shifted(seed=1)], axis=1)
    expected = flow.tvl1(*pairs, inner_iterations=inner_iterations)
    asked = []

    def of_gpus(*arrays, rocm=None, default, **_):
        asked.append(rocm)
        return (rocm or default)(*arrays)

    monkeypatch.setattr(jax.lax, "platform_dependent", of_gpus)
    plain = dual_tvl1._tvl1.__wrapped__
    # Another function, of which JAX has no program yet.
    compiled = jax.jit(lambda *arguments: plain(*arguments), static_argnums=3)
    monkeypatch.setattr(dual_tvl1, "_tvl1", compiled)
    found = flow.tvl1(*pairs, inner_iterations=inner_iterations)
    assert any(asked)
    # To the last bit with jax 0.10; the compiler of 0.12 rounds otherwise in the two, and a pair at the threshold may
    # take an iteration more, which moves the flow by 0.01 pixels at most in the mean (epsilon).
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01)
    assert np.median(np.abs(found - expected)) < 1e-4


def test_any_axes_may_stand_before_the_frames_and_bytes_are_as_good_as_floats():
    frames = np.stack([shifted(seed=seed) for seed in range(6)]).round().astype(np.uint8)
    field = np.asarray(flow.tvl1(frames[:, 0], frames[:, 1], scales=1))
    assert field.shape == (6, 32, 44, 2)
    assert field.dtype == np.float32
    shaped = frames.reshape(2, 3, 2, 32, 44).astype(np.float32)
    again = flow.tvl1(shaped[:, :, 0], shaped[:, :, 1], scales=1)
    np.testing.assert_array_equal(again, field.reshape(2, 3, 32, 44, 2))
    assert flow.tvl1(frames[:0, 0], frames[:0, 1]).shape == (0, 32, 44, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pair_with_a_value_that_is_not_finite_spoils_no_other(value):
    previous, following = (np.stack([frame] * 2) for frame in shifted())
    unspoilt = np.asarray(flow.tvl1(previous, following, scales=1))
    following[0, 20, 30] = value
    field = np.asarray(flow.tvl1(previous, following, scales=1))
    assert np.isnan(field[0]).all()
    np.testing.assert_array_equal(field[1], unspoilt[1])


@pytest.mark.parametrize(
    ("shapes", "parameters", "message"),
    [
        (((40, 50), (40, 51)), {}, r"two arrays of grey frames .* of one shape.* found \[40, 50\] and \[40, 51\]"),
        (((2, 50), (2, 50)), {}, "at least 3 pixels a side"),
        (((50,), (50,)), {}, r"found \[50\] and \[50\]"),
        (((40, 50), (40, 50)), {"scales": 0}, "scales must be 1 or more, found 0"),
        (((40, 50), (40, 50)), {"epsilon": 0}, "epsilon must be above 0, found 0"),
        (((40, 50), (40, 50)), {"tau": float("nan")}, "tau must be above 0, found nan"),
        (((40, 50), (40, 50)), {"scale_step": 1.0}, "scale_step must be above 0 and below 1, found 1.0"),
        (((40, 50), (40, 50)), {"median": 4}, "median must be 1, 3 or 5, found 4"),
    ],
)
def test_mistakes(shapes, parameters, message):
    with pytest.raises(UserError, match=message):
        flow.tvl1(*map(np.zeros, shapes), **parameters)


@pytest.mark.parametrize("size", [3, 5])
def test_the_median_is_the_median(size):
    images = np.random.default_rng(0).integers(0, 40, (2, 3, 17, 23)).astype(np.float32)
    found = np.asarray(jax.jit(median, static_argnums=1)(images, size))
    padded = np.pad(images, [(0, 0)] * 2 + [(size // 2,) * 2] * 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    np.testing.assert_array_equal(found, np.median(windows, axis=(-2, -1)))
    np.testing.assert_array_equal(found[1, 2], cv2.medianBlur(images[1, 2], size))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 13])
def test_the_network_sorts(count):
    """What sorts all zeros and ones sorts everything (Knuth's zero-one principle)."""
    numbers = np.arange(2**count)
    places = [numbers >> place & 1 for place in range(count)]
    for low, high in comparators(count):
        places[low], places[high] = places[low] & places[high], places[low] | places[high]
    assert all((low <= high).all() for low, high in itertools.pairwise(places))


@pytest.mark.parametrize("shape", [(33, 41), (40, 50)])
def test_resizing_is_opencv_s(shape):
    image = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    smaller = cv2.resize(image, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(sampling.resize(image, *smaller.shape, step=(1.25, 1.25)), smaller, atol=1e-4)
    larger = cv2.resize(smaller, shape[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(sampling.resize(smaller, *shape), larger, atol=1e-4)


def test_warping_is_opencv_s_beyond_the_border_too():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (2, 3, 20, 30)).astype(np.float32)
    x, y = (rng.uniform(-9, side + 9, (2, 20, 30)).astype(np.float32) for side in (30, 20))
    found = np.asarray(sampling.warp(jnp.asarray(images), jnp.asarray(x), jnp.asarray(y)))
    for pair, channel in itertools.product(range(2), range(3)):
        expected = cv2.remap(images[pair, channel], x[pair], y[pair], cv2.INTER_CUBIC)
        np.testing.assert_allclose(found[pair, channel], expected, atol=1e-3)


def test_places_far_away_read_zeros():
    images = jnp.ones((1, 1, 8, 9))
    far = jnp.full((1, 1, 4), 1e9) * jnp.array([1, -1, 1, -1])
    assert not sampling.warp(images, far, far).any()


def test_the_gradient_at_a_border_is_half_the_difference():
    across, down = sampling.gradient(jnp.array([[0.0, 2.0, 6.0], [1.0, 1.0, 1.0]]))
    np.testing.assert_array_equal(across, [[1, 3, 2], [0, 0, 0]])
    np.testing.assert_array_equal(down, [[0.5, -0.5, -2.5], [0.5, -0.5, -2.5]])
