"""Videos whose flow is known: a picture of smooth noise that slides by whole pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from i3d_jax.video.write import write_video

HEIGHT, WIDTH = 48, 64


def sliding(frames: int, *, right: int, down: int, seed: int = 0) -> np.ndarray:
    """Frames uint8 [frames, HEIGHT, WIDTH, 3] whose content moves by (right, down) pixels from each to the next."""
    reach = max(abs(right), abs(down)) * (frames - 1)
    noise = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
    size = (WIDTH + 2 * reach, HEIGHT + 2 * reach)
    world = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    corners = [(reach - number * down, reach - number * right) for number in range(frames)]
    return np.stack([world[top : top + HEIGHT, left : left + WIDTH] for top, left in corners])


def write_lossless(path: Path, frames: np.ndarray) -> None:
    write_video(path, frames, 25, codec="ffv1", pixel_format="bgr0")
