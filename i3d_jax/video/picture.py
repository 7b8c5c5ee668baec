"""From a decoded frame to the picture as a viewer sees it: RGB, upright, with square pixels, at its final size."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type


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
    """Returns a frame of any pixel format as uint8 RGB [H, W, 3] in 0..255, resized once, then turned as players do.

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
    transposed, upside_down, mirrored = orientation(frame)
    if transposed:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Returns how players show a frame: whether lines become columns, then whether lines and columns run backwards.

    An angle that is no multiple of 90 degrees is taken as the nearest one.

    Args:
      frame: as the decoder gave it, with the display matrix of its stream or its own, or without one.
    """
    # Not `frame.rotation`: it is the angle alone, and four of the eight orientations are mirrored.
    side_data: Any = frame.side_data
    matrix = side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return False, False, False
    # A point (x, y), y downwards, is shown at (a x + c y, b x + d y).
    a, b, _, c, d = map(int, np.frombuffer(matrix, np.int32)[:5])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0
