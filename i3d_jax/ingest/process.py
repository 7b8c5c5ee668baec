"""From one annotated clip to the video that a record holds, or the reason why it cannot be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.ingest.annotations import AnnotatedClip
from i3d_jax.records.example import StoredVideo
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_file
from i3d_jax.video.decode import UnreadableVideo
from i3d_jax.video.encoded import decode_images, streams_of

# The reason of a video that is not there.
MISSING = "missing"


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A clip that could not be read: its name and a short reason."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared(StoredVideo):
    """A video and, in `notes`, a sentence on each thing that was mended in its file; a record holds none of them."""

    notes: tuple[str, ...] = ()


def absence(path: Path) -> str | None:
    """Returns why there is no file to open at a path: `MISSING`, or that its folder may not be searched; else None."""
    try:
        return None if is_file(path) else MISSING
    except UserError as error:
        return str(error)


def process(
    clip: AnnotatedClip, videos: Path, labels: Sequence[str], preprocessing: Preprocessing
) -> Prepared | Skipped:
    """Reads a clip and prepares its frames; a missing or damaged video gives `Skipped` instead of an exception.

    Args:
      clip: the video or piece of it.
      videos: the folder of the video files.
      labels: the actions of the dataset, in its order.
      preprocessing: how frames are made.
    """
    path = videos / clip.path
    if reason := absence(path):
        return Skipped(clip.name, reason)
    notes: list[str] = []
    try:
        streams = streams_of(path, preprocessing, start=clip.start, end=clip.end, note=notes.append)
    except UnreadableVideo as error:
        return Skipped(clip.name, str(error))
    frames = streams["rgb"]
    height, width = decode_images(frames[:1]).shape[1:3]
    start = clip.start or 0.0
    frame_rate = float(preprocessing.frame_rate)
    return Prepared(
        name=clip.name,
        data_path=clip.path,
        label=clip.label,
        label_index=labels.index(clip.label),
        start_microseconds=_microseconds(start),
        end_microseconds=_microseconds(start + len(frames) / frame_rate),
        frame_rate=frame_rate,
        height=height,
        width=width,
        frames=tuple(frames),
        timestamps=tuple(_microseconds(number / frame_rate) for number in range(len(frames))),
        flow=tuple(streams["flow"]) if preprocessing.flow is not None else (),
        notes=tuple(notes),
    )


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
