import numpy as np
import pytest

from i3d_jax import clips


@pytest.mark.parametrize(
    ("num_frames", "frames", "draw", "expected"),
    [
        (10, 4, 0.0, [0, 1, 2, 3]),
        (10, 4, 0.999999, [6, 7, 8, 9]),
        (10, 4, 0.5, [3, 4, 5, 6]),  # seven starts, 0 to 6
        (4, 4, 0.999999, [0, 1, 2, 3]),
        (3, 7, 0.999999, [0, 1, 2, 0, 1, 2, 0]),
        (1, 3, 0.2, [0, 0, 0]),
    ],
)
def test_training_window(num_frames, frames, draw, expected):
    window = clips.training_window(num_frames, frames, draw)
    assert window.dtype == np.int64
    np.testing.assert_array_equal(window, expected)


def test_every_start_is_equally_likely():
    draws = (np.arange(700) + 0.5) / 700
    starts = [clips.training_window(10, 4, draw)[0] for draw in draws]
    np.testing.assert_array_equal(np.bincount(starts), [100] * 7)


@pytest.mark.parametrize(
    ("num_frames", "frames", "windows", "expected"),
    [
        (10, 4, 1, [[0, 1, 2, 3]]),
        (10, 4, 2, [[0, 1, 2, 3], [6, 7, 8, 9]]),
        (11, 4, 3, [[0, 1, 2, 3], [3, 4, 5, 6], [7, 8, 9, 10]]),  # 3.5 is rounded down
        (3, 5, 2, [[0, 1, 2, 0, 1], [0, 1, 2, 0, 1]]),
        (3, 5, 1, [[0, 1, 2, 0, 1]]),
    ],
)
def test_cover(num_frames, frames, windows, expected):
    indices = clips.cover(num_frames, frames, windows)
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices, expected)


@pytest.mark.parametrize("num_frames", [64, 65, 250, 301])
def test_windows_span_the_video(num_frames):
    indices = clips.cover(num_frames, 64, 10)
    assert indices[0, 0] == 0
    assert indices[-1, -1] == num_frames - 1
    steps = np.diff(indices[:, 0])
    assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("counts", [(0, 4), (4, 0), (-1, 4)])
def test_counts_below_one_are_refused(counts):
    with pytest.raises(ValueError, match="must be 1 or more"):
        clips.training_window(*counts, 0.5)
    with pytest.raises(ValueError, match="must be 1 or more"):
        clips.cover(*counts, 1)


def test_draws_outside_are_refused():
    with pytest.raises(ValueError, match="draw must be in"):
        clips.training_window(10, 4, 1.0)
