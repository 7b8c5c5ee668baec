"""From one annotated clip to the video that a record holds, or the reason why it cannot be read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.data.records import StoredVideo
from i3d_jax.ingest.annotations import Clip
from i3d_jax.ingest.decode import UnreadableVideo, UnusableTimestamps, decode

MOST_BYTES = 2**30  # Of a video's frames: a record cannot hold 2 GiB, and several videos are in memory at a time.


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A clip that could not be read: its name and a short reason."""

    name: str
    reason: str


def process(clip: Clip, videos: Path, labels: Sequence[str], preprocessing: Preprocessing) -> StoredVideo | Skipped:
    """Reads a clip and prepares its frames; a missing or damaged video gives `Skipped` instead of an exception.

    Args:
      clip: the video or piece of it.
      videos: the folder of the video files.
      labels: the actions of the dataset, in its order.
      preprocessing: how frames are made.
    """
    path = videos / clip.path
    if not os.path.isfile(path):
        return Skipped(clip.name, "missing")
    try:
        frames = frames_of(path, preprocessing, start=clip.start, end=clip.end)
    except UnreadableVideo as error:
        return Skipped(clip.name, str(error))
    height, width = decode_jpegs(frames[:1]).shape[1:3]
    start = clip.start or 0.0
    return StoredVideo(
        name=clip.name,
        data_path=clip.path,
        label=clip.label,
        label_index=labels.index(clip.label),
        start_microseconds=_microseconds(start),
        end_microseconds=_microseconds(start + len(frames) / preprocessing.frame_rate),
        frame_rate=preprocessing.frame_rate,
        height=height,
        width=width,
        frames=tuple(frames),
        timestamps=tuple(_microseconds(number / preprocessing.frame_rate) for number in range(len(frames))),
    )


def frames_of(
    path: str | os.PathLike, preprocessing: Preprocessing, *, start: float | None = None, end: float | None = None
) -> list[bytes]:
    """Reads a video file and returns its frames as a dataset stores them: one RGB JPEG a frame.

    Args:
      path: the file.
      preprocessing: how frames are made.
      start: seconds from the first frame where the piece starts; None for the first frame.
      end: seconds from the first frame where it ends; None for the end.

    Raises:
      UnreadableVideo: with the reason.
    """
    try:
        return _jpegs(decode(path, preprocessing, start=start, end=end), preprocessing.jpeg_quality)
    except UnusableTimestamps:
        frames = decode(path, preprocessing, start=start, end=end, by_timestamps=False)
        return _jpegs(frames, preprocessing.jpeg_quality)


def decode_jpegs(frames: Sequence[bytes]) -> np.ndarray:
    """Decodes the frames of a video, JPEGs of one size, to uint8 RGB [T, H, W, 3] in 0..255."""
    return np.stack([cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR_RGB) for frame in frames])


def _jpegs(frames: Iterable[np.ndarray], quality: int) -> list[bytes]:
    """Encodes frames, uint8 RGB [H, W, 3], while they stream by; a frame that repeats is encoded once."""
    jpegs = []
    total = 0
    last = None
    for frame in frames:
        if frame is not last:
            last = frame
            _, buffer = cv2.imencode(
                ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
            )
            jpeg = buffer.tobytes()
        jpegs.append(jpeg)
        total += len(jpeg)
        if total > MOST_BYTES:
            raise UnreadableVideo(
                f"its first {len(jpegs)} frames take more than {MOST_BYTES >> 20} MiB: cut it with start and end"
            )
    return jpegs


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
