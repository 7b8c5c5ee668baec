"""Grey frames whose motion is known."""

from __future__ import annotations

import cv2
import numpy as np


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise, float32 [height, width] in 0..255."""
    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)


def shifted(height: int = 32, width: int = 44, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A pair of frames whose content moves by 3 pixels to the right and 2 downwards."""
    wide = texture(height + 2, width + 3, seed)
    return wide[2:, 3:], wide[:-2, :-3]
