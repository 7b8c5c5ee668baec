"""From a decoded frame to the picture as a viewer sees it: RGB, upright, with square pixels, at its final size."""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np


def scaled_size(width: int, height: int, sample_aspect_ratio: Fraction, short_side: int) -> tuple[int, int]:
    """Returns the (width, height) in pixels at which a stored frame has square pixels and the given shorter side.

    The longer side is rounded to the nearest integer. A rotation comes after it and exchanges the two.

    Args:
      width: pixels of a stored line.
      height: stored lines.
      sample_aspect_ratio: width of a stored pixel over its height.
      short_side: pixels of the shorter side of the result.
    """
    shown_width = width * sample_aspect_ratio
    scale = Fraction(short_side) / min(shown_width, Fraction(height))
    return round(shown_width * scale), round(height * scale)


def picture(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """Returns a frame of any pixel format as uint8 RGB [H, W, 3] in 0..255, resized once, then turned upright.

    The conversion follows the colour matrix and range that the frame states; depths above 8 bits are reduced and an
    alpha channel is left out.

    Args:
      frame: as the decoder gave it.
      size: (width, height) before the rotation, as `scaled_size` gives it.
    """
    # One thread: a process for every core decodes already.
    pixels: np.ndarray = frame.to_ndarray(format="rgb24", threads=1)
    if size != (frame.width, frame.height):
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    # FFmpeg counts the degrees anticlockwise, as rot90 does.
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
