"""From one annotated clip to the video that a record holds, or the reason why it cannot be read."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.ingest.annotations import AnnotatedClip
from i3d_jax.records.example import StoredVideo
from i3d_jax.system.copies import on_this_machine
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_file
from i3d_jax.video.decode import UnreadableVideo, seconds_of
from i3d_jax.video.encoded import decode_images, streams_of

# The reason of a video that is not there.
MISSING = "missing"
# A video that takes no longer is not asked how far it has come.
SHORT_SECONDS = 1.0

# Is given a share, 0 to 1, and the number of frames and of fields.
Tell = Callable[[float, int, int], None]


def no_tell(share: float, frames: int, fields: int) -> None:
    """Takes what nobody wants to know."""


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


class _Share:
    """Tells how much of a clip is done, while its frames are made.

    What a video that takes its time has to give is asked of its header; of a short one nobody asks.
    """

    def __init__(self, clip: AnnotatedClip, path: Path, preprocessing: Preprocessing, tell: Tell):
        self._clip, self._path, self._preprocessing, self._tell = clip, path, preprocessing, tell
        self._began = time.monotonic()
        self._expected: float | None = None
        self._frames = self._fields = 0

    def seen(self, frames: int, fields: int) -> None:
        """Takes notice of how many there are by now; a video that is read twice begins anew."""
        self._frames, self._fields = max(self._frames, frames), max(self._fields, fields)
        if self._expected is None and time.monotonic() - self._began > SHORT_SECONDS:
            try:
                seconds = seconds_of(self._path, self._clip.start, self._clip.end)
            except UnreadableVideo:
                seconds = math.inf
            self._expected = max(1.0, seconds * float(self._preprocessing.frame_rate))
        done = self._frames if self._preprocessing.flow is None else self._fields
        self._tell(min(1.0, done / self._expected) if self._expected else 0.0, self._frames, self._fields)


def process(
    clip: AnnotatedClip, videos: Path, labels: Sequence[str], preprocessing: Preprocessing, *, tell: Tell = no_tell
) -> Prepared | Skipped:
    """Reads a clip and prepares its frames; a missing or damaged video gives `Skipped` instead of an exception.

    Args:
      clip: the video or piece of it.
      videos: the folder of the video files.
      labels: the actions of the dataset, in its order.
      preprocessing: how frames are made.
      tell: is given, again and again, the share that is done, 0 to 1, and how many frames and fields there are by now.
    """
    path = videos / clip.path
    if reason := absence(path):
        return Skipped(clip.name, reason)
    notes: list[str] = []
    try:
        # It is opened more than once.
        with on_this_machine(path) as found:
            seen = _Share(clip, found, preprocessing, tell).seen
            streams = streams_of(found, preprocessing, start=clip.start, end=clip.end, note=notes.append, seen=seen)
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
