"""Many videos through networks: what was computed of each, in order, and why one could not be read."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from i3d_jax.inference.batching import Program, ahead, computed
from i3d_jax.system.errors import UserError
from i3d_jax.system.progress import Bar
from i3d_jax.video.decode import UnreadableVideo
from i3d_jax.video.pictures import Source
from i3d_jax.video.plans import Plan
from i3d_jax.video.view import View
from i3d_jax.video.windows import Crop, TooShort, Window, middle, windows


class _Ended(NamedTuple):
    """A video has no more windows; `failure` says why it could not be read to its end."""

    failure: Exception | None
    frame_rate: float = 0
    frames: int = 0


@dataclasses.dataclass
class Video:
    """What was computed of a video.

    Attributes:
      number: of the video, from 0.
      spans: of each window the first frame and the frame after the last one.
      results: for each network float32 [crops, ...] of each of its windows.
      frame_rate: frames a second that its windows are counted in.
      frames: how many it has; of one that was not read to its end, as many as are expected.
      failure: why it could not be read; None where it could.
    """

    number: int
    spans: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    results: list[list[np.ndarray]] = dataclasses.field(default_factory=list)
    frame_rate: float = 0
    frames: int = 0
    failure: Exception | None = None

    def refuse_failure(self, name: str) -> None:
        """Raises a `UserError` where the video could not be read, or is shorter than a window."""
        if isinstance(self.failure, UserError):
            raise self.failure
        if isinstance(self.failure, TooShort):
            raise UserError(f"the video {name} is too short: {self.failure}") from self.failure
        if self.failure is not None:
            raise UserError(f"the video {name} cannot be read: {self.failure}") from self.failure


class VideosBar(Bar):
    """Shows how many videos are done, and how many windows of them are computed.

    Args:
      doing: what is done.
      count: of the videos.
      stays: as of `Bar`.
    """

    def __init__(self, doing: str, count: int, *, stays: bool = True):
        super().__init__(doing, total=count, unit="videos", rate_of="windows", stays=stays)
        self._videos = self._windows = 0

    def window(self, share: float) -> None:
        """Takes notice of a window, with which about this share of its video is done."""
        self._windows += 1
        self.to(self._videos + min(1.0, share), windows=self._windows)

    def video(self) -> None:
        """Takes notice of a video's end."""
        self._videos += 1
        self.to(self._videos)


def videos(
    programs: Sequence[Program],
    sources: Iterable[Callable[[], Source]],
    plan: Plan,
    views: Sequence[View],
    *,
    crop: Crop = middle,
    bar: VideosBar | None = None,
) -> Iterator[Video]:
    """Yields what networks compute of each video, in order, while the next ones are read.

    Args:
      programs: the networks.
      sources: for each video, what opens it; a `UserError` or an `UnreadableVideo` from there is that video's failure.
      plan: which windows.
      views: what each network sees.
      crop: as of `windows`.
      bar: shows how far it is.
    """

    # About how many frames each video has that has been opened.
    about: dict[int, float] = {}

    def read() -> Iterator[Window | _Ended]:
        for number, source in enumerate(sources):
            try:
                opened = source()
                frame_rate = opened.frame_rate
                about[number] = opened.about() if bar is not None else math.inf
                frames = yield from windows(opened, plan, views, crop=crop)
            except (UnreadableVideo, UserError) as error:
                yield _Ended(error)
            else:
                yield _Ended(None, frame_rate, frames)

    video = Video(0, results=[[] for _ in programs])
    with contextlib.closing(ahead(read())) as items:
        for item, results in computed(programs, items, rows):
            if isinstance(item, _Ended):
                video.failure, video.frame_rate, video.frames = item
                if bar is not None:
                    bar.video()
                yield video
                video = Video(video.number + 1, results=[[] for _ in programs])
                continue
            if not item.number and video.spans:
                video = Video(video.number, results=[[] for _ in programs])
            video.spans.append((item.first, item.after))
            for own, result in zip(video.results, results, strict=True):
                if len(result):
                    own.append(result)
            if bar is not None:
                bar.window(item.after / max(1, about[video.number]))


def rows(item: Window | _Ended) -> Sequence[Sequence[Mapping[str, np.ndarray]]]:
    """Returns for each network the crops of a window, uint8 [T, crop, crop, C] by stream; none for a video's end."""
    if isinstance(item, _Ended):
        return ()
    return [
        [{stream: own[crop] for stream, own in pixels.items()} for crop in range(len(next(iter(pixels.values()), ())))]
        for pixels in item.pixels
    ]
