"""From one video file to the very windows that evaluation would cut from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from i3d_jax import clips
from i3d_jax.data.preprocessing import Preprocessing, centre_crop
from i3d_jax.errors import UserError
from i3d_jax.ingest.decode import UnreadableVideo
from i3d_jax.ingest.process import decode_jpegs, frames_of


def read_windows(path: str | os.PathLike, preprocessing: Mapping[str, Any], *, where: str) -> np.ndarray:
    """Prepares a video as `prepare` does, JPEG included, and cuts the evaluation's windows from it.

    Args:
      path: a video file.
      preprocessing: of a checkpoint's `model.json`: the fields of `Preprocessing`, `crop`, `frames` and `windows`.
      where: what to call the checkpoint in an error.

    Returns:
      uint8 [windows, frames, crop, crop, 3], RGB.

    Raises:
      UserError: the video is missing or cannot be read, or a field is missing.
    """
    missing = [name for name in ("crop", "frames", "windows") if name not in preprocessing]
    if missing:
        raise UserError(f"{where}: 'preprocessing' lacks {', '.join(missing)}")
    if not os.path.isfile(path):
        raise UserError(f"there is no video {os.fspath(path)}")
    try:
        jpegs = frames_of(path, Preprocessing.from_json(preprocessing, where=where))
    except UnreadableVideo as error:
        raise UserError(f"the video {os.fspath(path)} cannot be read: {error}") from error
    cover = clips.cover(len(jpegs), preprocessing["frames"], preprocessing["windows"])
    needed, order = np.unique(cover, return_inverse=True)
    frames = decode_jpegs([jpegs[index] for index in needed])
    return centre_crop(frames, preprocessing["crop"])[order.reshape(cover.shape)]
