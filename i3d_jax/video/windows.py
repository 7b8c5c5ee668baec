"""A video's windows, one at a time and in bounded memory: each frame is decoded once, however many windows it is in."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from i3d_jax import clips
from i3d_jax.data.preprocessing import centre_crop
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import instead, is_file
from i3d_jax.video.decode import Note, UnreadableVideo, UnusableTimestamps, no_note
from i3d_jax.video.pictures import FAR, Making, Needed, OtherCount, Picture, Source, VideoFile
from i3d_jax.video.plans import Place, Plan, Spread
from i3d_jax.video.view import View

# Of the pixels of a video's windows: 28,000 frames of 224 x 224.
MOST_BYTES = 4 << 30
# A video of less than this part of a window (1 / 4) is worth a warning.
_FEW = 4
# What a network's zero is nearest to.
_NOTHING = 128
# Readings of one video, of which each may show that the one before was mistaken.
_READINGS = 4


class Window(NamedTuple):
    """A window as networks see it.

    Attributes:
      number: in its video. The number 0 may come again: then the video begins anew, and what came before is void.
      first: the first frame that it stands for; it may be below 0.
      after: the frame after the last one.
      pixels: for each network uint8 [crops, count, crop, crop, C] by stream; {} where it has no more windows.
    """

    number: int
    first: int
    after: int
    pixels: tuple[dict[str, np.ndarray], ...]


class TooShort(UnreadableVideo):
    """The video is shorter than a window."""


# Cuts a picture uint8 [H, W, C] of a stream to [crops, size, size, C].
Crop = Callable[[str, np.ndarray, int], np.ndarray]


def middle(stream: str, picture: np.ndarray, size: int) -> np.ndarray:
    """Cuts the centre crop, as the evaluation does."""
    del stream
    return centre_crop(picture, size)[None]


def windows(source: Source, plan: Plan, views: Sequence[View], *, crop: Crop = middle) -> Generator[Window, None, int]:
    """Yields a video's windows while its frames stream by.

    Args:
      source: where the frames come from.
      plan: which windows.
      views: what each network sees.
      crop: cuts what a network sees of a picture.

    Returns:
      The number of frames; of a video that was not read to its end, as many as are expected.

    Raises:
      UnreadableVideo: with the reason; windows may have come before.
      UserError: the frames are smaller than a crop.
    """
    for reading in itertools.count(1):
        try:
            return (yield from _Reading(source, plan, views, crop).windows())
        except (OtherCount, UnusableTimestamps) as error:
            if reading == _READINGS:
                raise UnreadableVideo("each time that it is read it has another number of frames") from error
            source.begin_anew(error)
    raise AssertionError


class _Reading:
    """One reading of a video from its beginning."""

    def __init__(self, source: Source, plan: Plan, views: Sequence[View], crop: Crop):
        self._source, self._plan, self._views, self._crop = source, plan, views, crop
        # For each network, by stream, what windows to come may need, cropped.
        self._held: list[dict[str, dict[int, np.ndarray]]] = [{stream: {} for stream in view.streams} for view in views]
        # By stream the number of the latest picture.
        self._reached = {stream: -1 for view in views for stream in view.streams}

    def windows(self) -> Generator[Window, None, int]:
        count, places, spans, needed = self._planned()
        numbered = enumerate(places)
        number, place = next(numbered, (0, None))
        total = None
        for made in self._source.pictures(spans, needed):
            if not isinstance(made, Picture):
                total = made
                break
            self._reached[made.stream] = made.number
            if place is not None:
                self._hold(made, self._lowest(place))
            while place is not None and self._is_complete(place):
                yield self._window(number, place, None)
                number, place = next(numbered, (0, None))
                if place is not None:
                    self._drop_before(place)
            if place is None and count is not None and spans[-1][1] is not None:
                return count
        if total is None or (count is not None and total != count):
            raise OtherCount(total)
        if not number and place is not None and not self._plan.exists(place, total):
            raise TooShort(
                f"it has {total} frame{'s' * (total != 1)}, and a window has {place.after - place.first}; a "
                f"--window of {total} or fewer would fit"
            )
        while place is not None and self._plan.exists(place, total):
            yield self._window(number, place, total)
            number, place = next(numbered, (0, None))
        return total

    def _planned(self) -> tuple[int | None, Iterable[Place], list[tuple[int, int | None]], Needed]:
        """Returns the number of frames if it matters, the places of the windows, the spans to read, what is needed."""
        if not self._plan.needs_count:
            return None, self._plan.places(self._views), [(0, None)], lambda stream, number: self._plan.sees(number)
        enough = self._plan.enough(self._views)
        count = self._source.count(enough)
        places = list(self._plan.places(self._views, count))
        wanted: dict[str, set[int]] = {stream: set() for stream in self._reached}
        for place in places:
            for numbers in place.numbers:
                for stream, own in numbers.items():
                    wanted[stream].update(own.tolist())
        frames = np.unique([*wanted.get("rgb", ()), *(n + k for n in wanted.get("flow", ()) for k in (0, 1))]).tolist()
        spans: list[tuple[int, int | None]] = []
        begin = frames[0]
        for frame, following in itertools.pairwise([*frames, frames[-1] + 2 * FAR]):
            if following - frame > FAR:
                spans.append((begin, frame + 1))
                begin = following
        if (enough is None or count < enough) and frames[-1] + FAR >= count:
            # By reading on the number of frames is confirmed.
            spans[-1] = (spans[-1][0], None)
        return count, places, spans, lambda stream, number: number in wanted[stream]

    @staticmethod
    def _lowest(place: Place) -> int:
        return min(int(own.min()) for numbers in place.numbers for own in numbers.values())

    def _is_complete(self, place: Place) -> bool:
        """Whether everything that the window needs has come, and the video has all that it stands for."""
        if self._plan.needs_count:
            there = True
        else:
            there = max(self._reached.get("rgb", -1), self._reached.get("flow", -2) + 1) >= place.after - 1
        return there and all(
            self._reached[stream] >= own.max() for numbers in place.numbers for stream, own in numbers.items()
        )

    def _hold(self, made: Picture, lowest: int) -> None:
        if made.number < lowest:
            return
        for view, held in zip(self._views, self._held, strict=True):
            if made.stream in view.streams:
                seen = view.seen(made.stream, made.pixels)
                # A view would keep the whole picture.
                held[made.stream][made.number] = np.ascontiguousarray(self._crop(made.stream, seen, view.crop))

    def _drop_before(self, place: Place) -> None:
        lowest = self._lowest(place)
        for held in self._held:
            for pictures in held.values():
                for number in list(itertools.takewhile(lambda number: number < lowest, pictures)):
                    del pictures[number]

    def _window(self, number: int, place: Place, total: int | None) -> Window:
        pixels = tuple(
            {
                stream: np.stack([self._at(held[stream], stream, int(n), total) for n in own], axis=1)
                for stream, own in numbers.items()
            }
            for held, numbers in zip(self._held, place.numbers, strict=True)
        )
        return Window(number, place.first, place.after, pixels)

    def _at(self, pictures: Mapping[int, np.ndarray], stream: str, number: int, total: int | None) -> np.ndarray:
        if number in pictures:
            return pictures[number]
        last = max(pictures) if total is None else total - (1 if stream == "rgb" else 2)
        instead = self._plan.outside(number, last)
        if instead is None:
            return np.full_like(next(iter(pictures.values())), _NOTHING)
        return pictures[instead]


def read_windows(
    path: str | os.PathLike,
    preprocessing: Mapping[str, Any],
    *,
    streams: Collection[str],
    where: str,
    note: Note = no_note,
) -> dict[str, np.ndarray]:
    """Prepares a video as `prepare` does, JPEG included, and cuts the evaluation's windows from it.

    Only frames that are in a window are encoded, and only flow that is in one is computed. Where there is one window,
    which holds the first frames, the file is not read any further.

    Args:
      path: a video file.
      preprocessing, streams, where: as of `View.of_checkpoint`.
      note: called with each sentence on what was mended in the file.

    Returns:
      The streams asked for, of "rgb": uint8 [windows, frames, crop, crop, 3] and "flow": uint8 [windows,
      frames * flow_per_frame, crop, crop, 2].

    Raises:
      UserError: the video is missing or cannot be read, or as `View.of_checkpoint` says.
    """
    view = View.of_checkpoint(preprocessing, streams=streams, where=where)
    _refuse_too_many(view, where)
    refuse_missing(path)
    making = Making(streams=view.streams, stored=view.stored, flow_threads=os.cpu_count() or 1)
    source = VideoFile(path, view.frames, making, note=note)
    found: list[Window] = []
    try:
        if warning := too_few(source.count(view.reach), view.reach):
            note(warning)
        for window in windows(source, Spread(view.windows), [view]):
            if not window.number:
                found.clear()
            found.append(window)
    except UnreadableVideo as error:
        raise UserError(f"the video {os.fspath(path)} cannot be read: {error}") from error
    return {stream: np.concatenate([window.pixels[0][stream] for window in found]) for stream in streams}


def refuse_missing(path: str | os.PathLike) -> None:
    """Raises a `UserError` where no file stands at the path of a video."""
    if not is_file(path):
        found = "no such file" if (found := instead(path)) == "nothing" else f"it is {found}"
        raise UserError(f"there is no video {os.fspath(path)!r}: {found}")


def too_few(count: int, reach: int) -> str:
    """Returns a warning where a video has few frames for a window that reaches over so many; else ""."""
    if count * _FEW >= reach:
        return ""
    frames = "its only frame is" if count == 1 else f"its {count} frames are"
    return f"warning: {frames} repeated to fill a window of {reach}, so the scores tell little"


def _refuse_too_many(view: View, where: str) -> None:
    pixels = sum(view.sampling.count(stream) * clips.CHANNELS[stream] for stream in view.streams) * view.crop**2
    if view.windows * pixels > MOST_BYTES:
        raise UserError(
            f"{where}: 'preprocessing' has {view.windows} windows of {view.sampling.frames} frames of "
            f"{view.crop}x{view.crop} pixels, which take {view.windows * pixels >> 20} MiB for a video; at most "
            f"{MOST_BYTES >> 20} were expected"
        )
