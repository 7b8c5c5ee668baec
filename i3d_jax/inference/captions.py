"""A video with the best classes of each moment drawn on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from i3d_jax.inference.answers import Answer
from i3d_jax.inference.scores import best
from i3d_jax.system.errors import UserError
from i3d_jax.video.decode import UnreadableVideo, UnusableTimestamps, decode
from i3d_jax.video.frames import Frames
from i3d_jax.video.write import write_video

CLASSES = 3
# Of a picture's height: a line of text; at least so many pixels, which can still be read.
_LINE = 1 / 16
_LEAST = 12


def save_video(path: str | Path, answer: Answer, frame_rate: float) -> None:
    """Writes a video file with the best classes of the nearest window drawn on each frame.

    Args:
      path: the file; its suffix names the container.
      answer: what is said of the video, and of which seconds of it.
      frame_rate: of the file that is written.

    Raises:
      UserError: the video cannot be read again, or no file can be put there.
    """
    try:
        try:
            write_video(path, _captioned(answer, frame_rate, by_timestamps=True), Fraction(str(frame_rate)))
        except UnusableTimestamps:
            write_video(path, _captioned(answer, frame_rate, by_timestamps=False), Fraction(str(frame_rate)))
    except UnreadableVideo as error:
        raise UserError(f"the video {answer.video} cannot be read: {error}") from error


def _captioned(answer: Answer, frame_rate: float, *, by_timestamps: bool) -> Iterator[np.ndarray]:
    start, end = answer.scored
    middles = np.array([(first + after) / 2 for first, after in answer.spans])
    lines = [
        [f"{100 * one['probability']:.0f}%  {one['label']}" for one in best(own, answer.labels, CLASSES)]
        for own in answer.logits
    ]
    frames = decode(
        answer.video, Frames(frame_rate=frame_rate), start=start or None, end=end, by_timestamps=by_timestamps
    )
    with contextlib.closing(frames):
        for number, frame in enumerate(frames):
            nearest = int(np.abs(middles - (start + number / frame_rate)).argmin())
            # Even sides, for players.
            height, width = (side - side % 2 for side in frame.shape[:2])
            yield drawn(frame[:height, :width], lines[nearest])


def drawn(frame: np.ndarray, lines: list[str]) -> np.ndarray:
    """Returns a frame uint8 [H, W, 3] with lines of text at its bottom, on darkened pixels."""
    picture = frame.copy()
    height = max(_LEAST, round(frame.shape[0] * _LINE))
    top = max(0, frame.shape[0] - height * (len(lines) + 1))
    picture[top:] //= 3
    library: Any = cv2
    font = library.FontFace("sans")
    for number, line in enumerate(lines, 1):
        place = (height // 2, top + height * number + height // 4)
        library.putText(picture, line, place, (255, 255, 255), font, round(0.75 * height))
    return picture
