"""Writes frames to a video file: the quickstart's videos and the tests' come from here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

from i3d_jax.system import copies, files
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import replaceable

# Near transparent. Without mbtree=0, the x264 inside PyAV 18.1 writes the same frames to other bytes each time.
ENCODER_OPTIONS = {
    "libx264": {"crf": "14", "preset": "veryfast", "mbtree": "0"},
    "mpeg4": {"qmin": "1", "qmax": "1"},
    "ffv1": {},
}


def write_video(
    path: str | Path,
    frames: np.ndarray | Iterable[np.ndarray],
    frame_rate: float | Fraction,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    sample_aspect_ratio: Fraction = Fraction(1),
) -> None:
    """Writes frames to a video file, in the container that the suffix of `path` names.

    The file appears whole or not at all, and the same arguments give the same bytes.

    Args:
      path: the file to write, in a folder that exists; a file of that name is replaced.
      frames: uint8 RGB in 0..255, [T, H, W, 3] or an iterable of [H, W, 3]; all frames of one size.
      frame_rate: frames a second. A Fraction is kept as it is (`Fraction(30000, 1001)`); a float becomes the nearest
        fraction with a denominator of at most 1001.
      codec: "libx264" (H.264), "mpeg4" (MPEG-4 part 2) or "ffv1" (lossless).
      pixel_format: how the file stores pixels. "yuv420p" is what every player takes, halves the resolution of colour
        and needs even sides; "yuv444p" takes odd ones; "bgr0" with "ffv1" gives every pixel back as it was.
      sample_aspect_ratio: width of a stored pixel over its height.

    Raises:
      UserError: there is no frame; a frame is not uint8 [H, W, 3] or not of the first one's size; a side is odd with
        "yuv420p"; the frame rate is not positive; the codec is not one of the three; no file can be put at `path`.
    """
    path = files.path(path)
    if codec not in ENCODER_OPTIONS:
        raise UserError(f"{path}: the codec must be one of {', '.join(ENCODER_OPTIONS)}, found {codec!r}")
    rate = frame_rate if isinstance(frame_rate, Fraction) else Fraction(frame_rate).limit_denominator(1001)
    if rate <= 0:
        raise UserError(f"{path}: the frame rate must be positive, found {frame_rate}")
    if files.is_in_bucket(path):
        with copies.made_on_this_machine(path) as target:
            write_video(
                target,
                frames,
                rate,
                codec=codec,
                pixel_format=pixel_format,
                sample_aspect_ratio=sample_aspect_ratio,
            )
        return
    # The suffix stays last, for it names the container; the process keeps two writers of one file apart.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        # bitexact keeps random identifiers and version strings out of the container.
        with av.open(str(temporary), "w", options={"fflags": "+bitexact"}) as container:
            stream = cast(av.VideoStream, container.add_stream(codec, rate=rate, options=ENCODER_OPTIONS[codec]))
            stream.pix_fmt = pixel_format
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
            stream.codec_context.thread_count = 1  # The bytes may depend on it.
            size = None
            for index, frame in enumerate(frames):
                _check_frame(frame, size, pixel_format, where=f"{path}, frame {index}")
                if size is None:
                    size = frame.shape
                    stream.height, stream.width = frame.shape[:2]
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
            if size is None:
                raise UserError(f"{path}: a video needs at least one frame, found none")
            container.mux(stream.encode(None))
        os.replace(temporary, replaceable(path))
    finally:
        temporary.unlink(missing_ok=True)


def _check_frame(frame: np.ndarray, size: tuple[int, ...] | None, pixel_format: str, *, where: str) -> None:
    """Refuses a frame that is not uint8 [H, W, 3], not of `size` (unless None), or odd where colour is halved."""
    found = f"found {frame.dtype} {list(frame.shape)}"
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise UserError(f"{where}: expected uint8 [H, W, 3], {found}")
    if size is not None and frame.shape != size:
        raise UserError(f"{where}: expected {list(size)} as in the first frame, {found}")
    if pixel_format == "yuv420p" and (frame.shape[0] % 2 or frame.shape[1] % 2):
        raise UserError(f"{where}: expected even sides for yuv420p (yuv444p takes odd ones), {found}")
