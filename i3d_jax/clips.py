"""Which frames of a video the network sees: a window in training, the cover of the whole video in evaluation."""

from __future__ import annotations

import numpy as np


def training_window(num_frames: int, frames: int, draw: float) -> np.ndarray:
    """Returns the indices of `frames` consecutive frames, int64 [frames], each in 0 .. num_frames - 1.

    Every start at which the window fits is equally likely; a video that is too short is looped from its start
    (reference: paper, section 3).

    Args:
      num_frames: frames of the video, 1 or more.
      frames: frames of the window, 1 or more.
      draw: a uniform draw in [0, 1).

    Raises:
      ValueError: a count is below 1 or the draw outside [0, 1).
    """
    _require_positive(num_frames=num_frames, frames=frames)
    if not 0 <= draw < 1:
        raise ValueError(f"the draw must be in [0, 1), found {draw}")
    start = int(draw * (_last_start(num_frames, frames) + 1))
    return (start + np.arange(frames)) % num_frames


def cover(num_frames: int, frames: int, windows: int) -> np.ndarray:
    """Returns the indices of `windows` windows over the whole video, int64 [windows, frames].

    One window holds the first `frames` frames. Several start evenly spaced from the first start that fits to the
    last; a start that falls between two frames is rounded down. A video that is too short is looped from its start.

    Raises:
      ValueError: a count is below 1.
    """
    _require_positive(num_frames=num_frames, frames=frames, windows=windows)
    starts = np.arange(windows) * _last_start(num_frames, frames) // max(windows - 1, 1)
    return (starts[:, None] + np.arange(frames)) % num_frames


def _last_start(num_frames: int, frames: int) -> int:
    return max(num_frames - frames, 0)


def _require_positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, found {count}")
