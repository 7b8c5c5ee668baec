"""From one video file to its streams as a dataset stores them: an image for every frame and for every field of flow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.video.decode import Note, UnreadableVideo, UnusableTimestamps, decode, no_note, seconds_of
from i3d_jax.video.fields import FieldEncoder

# Of a video's frames and flow fields: a record cannot hold 2 GiB, and several videos are in memory at a time.
MOST_BYTES = 2**30
# With flow, the frames of longer pieces are counted before the flow is computed.
LONG_SECONDS = 300
NO_FLOW = "it has one frame, and flow needs two"

# Is given the number of frames and of fields.
Seen = Callable[[int, int], None]


def no_seen(frames: int, fields: int) -> None:
    """Takes what nobody wants to know."""


def streams_of(
    path: str | os.PathLike,
    preprocessing: Preprocessing,
    *,
    start: float | None = None,
    end: float | None = None,
    flow_threads: int = 1,
    note: Note = no_note,
    seen: Seen = no_seen,
) -> dict[str, list[bytes]]:
    """Reads a video file and returns its streams as a dataset stores them.

    Args:
      path: the file.
      preprocessing: how frames and flow are made.
      start: seconds from the first frame where the piece starts; None for the first frame.
      end: seconds from the first frame where it ends; None for the end.
      flow_threads: pairs of frames whose flow OpenCV computes at a time; more than one where this process is the only
        one at work. It changes no byte.
      note: called once with each sentence on what was mended in the file, after it was read.
      seen: called after each frame with how many frames and fields there are; from 0 again where a file is read again.

    Returns:
      "rgb": an RGB JPEG for each of N frames; if the preprocessing has flow, "flow": a PNG for each of N - 1 fields.

    Raises:
      UnreadableVideo: with the reason.
    """
    # The same is found by each reading of a file that is read more than once.
    notes: dict[str, None] = {}
    piece = {"start": start, "end": end, "note": notes.setdefault}
    try:
        streams = _streams_of(path, preprocessing, piece, flow_threads, seen)
    except UnusableTimestamps:
        streams = _streams_of(path, preprocessing, {**piece, "by_timestamps": False}, flow_threads, seen)
    for sentence in notes:
        note(sentence)
    return streams


def _streams_of(
    path: str | os.PathLike, preprocessing: Preprocessing, piece: Mapping[str, Any], flow_threads: int, seen: Seen
) -> dict[str, list]:
    if preprocessing.flow is not None and seconds_of(path, piece["start"], piece["end"]) > LONG_SECONDS:
        # Hours of flow would be lost on a video that turns out too long, and fields take as much as frames.
        frames_alone = dataclasses.replace(preprocessing, flow=None)
        _encode(decode(path, preprocessing, **piece), frames_alone, None, most_bytes=MOST_BYTES // 2, seen=seen)
    flow = None if preprocessing.flow is None else FieldEncoder(preprocessing.flow["implementation"], flow_threads)
    return _encode(decode(path, preprocessing, **piece), preprocessing, flow, most_bytes=MOST_BYTES, seen=seen)


def decode_images(images: Sequence[bytes]) -> np.ndarray:
    """Decodes frames (or flow fields, whose third channel is 0) of one size to uint8 RGB [T, H, W, 3] in 0..255."""
    # None for bytes that are no image, which cannot be stacked.
    decoded: list[Any] = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB) for image in images]
    return np.stack(decoded)


def _encode(
    frames: Iterable[np.ndarray],
    preprocessing: Preprocessing,
    encoder: FieldEncoder | None,
    *,
    most_bytes: int,
    seen: Seen,
) -> dict[str, list[bytes]]:
    """Encodes frames, uint8 RGB [H, W, 3], while they stream by; a frame that repeats is encoded once."""
    jpegs: list[bytes] = []
    fields: list[bytes] = []
    total = 0
    last = None
    for frame in frames:
        if frame is not last:
            last = frame
            encoded = jpeg(frame, int(preprocessing.jpeg_quality))
        jpegs.append(encoded)
        ready = [] if encoder is None else encoder.add(frame)
        fields += ready
        seen(len(jpegs), len(fields))
        total += len(encoded) + sum(map(len, ready))
        if total > most_bytes:
            raise UnreadableVideo(
                f"its first {len(jpegs)} frames take more than {most_bytes >> 20} MiB: cut it with start and end"
            )
    if encoder is None:
        return {"rgb": jpegs}
    fields += encoder.finish()
    if not fields:
        raise UnreadableVideo(NO_FLOW)
    return {"rgb": jpegs, "flow": fields}


def jpeg(frame: np.ndarray, quality: int) -> bytes:
    """Encodes a frame, uint8 RGB [H, W, 3], as a dataset stores it; the quality is 1 to 100."""
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
