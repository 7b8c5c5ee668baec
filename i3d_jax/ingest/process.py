"""From one annotated clip to the video that a record holds, or the reason why it cannot be read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.data.records import StoredVideo
from i3d_jax.ingest.annotations import Clip
from i3d_jax.ingest.decode import UnreadableVideo, UnusableTimestamps, decode, seconds_of
from i3d_jax.ingest.flow import FieldEncoder

# Of a video's frames and flow fields: a record cannot hold 2 GiB, and several videos are in memory at a time.
MOST_BYTES = 2**30
# With flow, the frames of longer pieces are counted before the flow is computed.
LONG_SECONDS = 300
# The reason of a video that is not there.
MISSING = "missing"


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
        return Skipped(clip.name, MISSING)
    try:
        streams = streams_of(path, preprocessing, start=clip.start, end=clip.end)
    except UnreadableVideo as error:
        return Skipped(clip.name, str(error))
    frames = streams["rgb"]
    height, width = decode_images(frames[:1]).shape[1:3]
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
        flow=tuple(streams["flow"]) if preprocessing.flow is not None else (),
    )


def streams_of(
    path: str | os.PathLike,
    preprocessing: Preprocessing,
    *,
    start: float | None = None,
    end: float | None = None,
    flow_threads: int = 1,
) -> dict[str, list[bytes]]:
    """Reads a video file and returns its streams as a dataset stores them.

    Args:
      path: the file.
      preprocessing: how frames and flow are made.
      start: seconds from the first frame where the piece starts; None for the first frame.
      end: seconds from the first frame where it ends; None for the end.
      flow_threads: pairs of frames whose flow OpenCV computes at a time; more than one where this process is the only
        one at work. It changes no byte.

    Returns:
      "rgb": an RGB JPEG for each of N frames; if the preprocessing has flow, "flow": a PNG for each of N - 1 fields.

    Raises:
      UnreadableVideo: with the reason.
    """
    try:
        return _streams_of(path, preprocessing, {"start": start, "end": end}, flow_threads)
    except UnusableTimestamps:
        return _streams_of(path, preprocessing, {"start": start, "end": end, "by_timestamps": False}, flow_threads)


def _streams_of(
    path: str | os.PathLike, preprocessing: Preprocessing, piece: Mapping[str, Any], flow_threads: int
) -> dict[str, list]:
    if preprocessing.flow is not None and seconds_of(path, piece["start"], piece["end"]) > LONG_SECONDS:
        # Hours of flow would be lost on a video that turns out too long, and fields take as much as frames.
        frames_alone = dataclasses.replace(preprocessing, flow=None)
        _encode(decode(path, preprocessing, **piece), frames_alone, None, most_bytes=MOST_BYTES // 2)
    flow = None if preprocessing.flow is None else FieldEncoder(preprocessing.flow["implementation"], flow_threads)
    return _encode(decode(path, preprocessing, **piece), preprocessing, flow, most_bytes=MOST_BYTES)


def decode_images(images: Sequence[bytes]) -> np.ndarray:
    """Decodes frames (or flow fields, whose third channel is 0) of one size to uint8 RGB [T, H, W, 3] in 0..255."""
    return np.stack([cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB) for image in images])


def _encode(
    frames: Iterable[np.ndarray], preprocessing: Preprocessing, encoder: FieldEncoder | None, *, most_bytes: int
) -> dict[str, list[bytes]]:
    """Encodes frames, uint8 RGB [H, W, 3], while they stream by; a frame that repeats is encoded once."""
    jpegs: list[bytes] = []
    fields: list[bytes] = []
    total = 0
    last = None
    for frame in frames:
        if frame is not last:
            last = frame
            jpeg = _jpeg(frame, preprocessing.jpeg_quality)
        jpegs.append(jpeg)
        ready = [] if encoder is None else encoder.add(frame)
        fields += ready
        total += len(jpeg) + sum(map(len, ready))
        if total > most_bytes:
            raise UnreadableVideo(
                f"its first {len(jpegs)} frames take more than {most_bytes >> 20} MiB: cut it with start and end"
            )
    if encoder is None:
        return {"rgb": jpegs}
    fields += encoder.finish()
    if not fields:
        raise UnreadableVideo("it has one frame, and flow needs two")
    return {"rgb": jpegs, "flow": fields}


def _jpeg(frame: np.ndarray, quality: int) -> bytes:
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
