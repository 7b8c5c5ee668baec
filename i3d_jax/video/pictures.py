"""A video's frames and flow fields as a network's dataset would have stored them, one at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.system.copies import copied_for
from i3d_jax.system.errors import UserError
from i3d_jax.video.counting import expected_count, native_rate
from i3d_jax.video.decode import (
    Note,
    UnreadableVideo,
    UnusableTimestamps,
    count_frames,
    decode,
    exact,
    no_note,
    seconds_of,
)
from i3d_jax.video.encoded import NO_FLOW, decode_images, jpeg
from i3d_jax.video.fields import Fields
from i3d_jax.video.frames import Frames

# Frames between two that are needed: over so many it is quicker to look for a key frame than to decode.
FAR = 250


class Picture(NamedTuple):
    """One frame, uint8 RGB [H, W, 3], or one field, uint8 [H, W, 2] as `flow.codec` codes it, by its number."""

    stream: str
    number: int
    pixels: np.ndarray


class OtherCount(Exception):
    """A video has another number of frames than was expected; None: nobody knows yet which."""

    def __init__(self, count: int | None):
        super().__init__(count)
        self.count = count


# Whether a frame or a field is needed, by its stream and its number.
Needed = Callable[[str, int], bool]


class Source(Protocol):
    """Where frames come from: a file, an array, a record."""

    @property
    def frame_rate(self) -> float:
        """Frames a second."""

    def count(self, most: int | None = None) -> int:
        """Returns how many frames there are, as far as can be told; where `most` is enough, at least so many."""

    def about(self) -> float:
        """Returns about how many frames there are, by what is stated, for a progress bar; infinity if nothing says it.

        Raises:
          UnreadableVideo: it cannot be opened.
        """

    def begin_anew(self, error: OtherCount | UnusableTimestamps) -> None:
        """Takes notice of what reading has shown; the pictures are to be asked for again."""

    def pictures(self, spans: Sequence[tuple[int, int | None]], needed: Needed) -> Iterator[Picture | int]:
        """Yields the pictures that are needed of some spans of frames, by their numbers, each stream in order.

        Args:
          spans: (first frame, frame after the last; None for the end).
          needed: which to make.

        Yields:
          The pictures, and last, where the last span goes to the end, the number of all frames.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Making:
    """How decoded frames become pictures.

    Attributes:
      streams: which are asked for.
      stored: the quality of the JPEG that a frame goes through, as those in training did, and whose flow.
      flow_threads: as of `Fields`.
    """

    streams: Sequence[str]
    stored: Preprocessing
    flow_threads: int = 1

    def refuse_without_flow(self, count: int) -> None:
        """Raises an `UnreadableVideo` where flow is asked of a single frame."""
        if "flow" in self.streams and count < 2:
            raise UnreadableVideo(NO_FLOW)

    def pictures(self, frames: Iterable[np.ndarray], first: int, needed: Needed) -> Iterator[Picture | int]:
        """Yields pictures of frames that stream by, the first of which has the number `first`; then the number after.

        Args:
          frames: uint8 RGB [H, W, 3]; the very same array where a frame repeats.
          first: of the first frame.
          needed: as of `Source.pictures`.
        """
        fields = None
        if "flow" in self.streams and self.stored.flow is not None:
            fields = Fields(self.stored.flow["implementation"], self.flow_threads)
        # The fields that are being computed, by their numbers.
        running: list[int] = []
        source: np.ndarray | None = None
        picture: np.ndarray
        number = first - 1
        for number, frame in enumerate(frames, first):
            if "rgb" in self.streams and needed("rgb", number):
                if frame is not source:
                    source = frame
                    [picture] = decode_images([jpeg(frame, int(self.stored.jpeg_quality))])
                yield Picture("rgb", number, picture)
            if fields is None:
                continue
            wanted = number > first and needed("flow", number - 1)
            if wanted:
                running.append(number - 1)
            for field in fields.add(frame, wanted=wanted):
                yield Picture("flow", running.pop(0), field)
        if fields is not None:
            for field in fields.finish():
                yield Picture("flow", running.pop(0), field)
        yield number + 1


class FrameArray:
    """Frames that are there already, at the rate that the network was trained on.

    Args:
      frames: uint8 RGB [T, H, W, 3] in 0..255.
      wanted: the rate that they have, and the size that they are brought to.
      making: how they become pictures.

    Raises:
      UserError: another dtype or shape.
    """

    def __init__(self, frames: np.ndarray, wanted: Frames, making: Making):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not all(frames.shape):
            raise UserError(f"frames uint8 [T, H, W, 3] were expected, found {frames.dtype} {list(frames.shape)}")
        self._frames, self._wanted, self._making = frames, wanted, making

    @property
    def frame_rate(self) -> float:
        """See `Source`; 25 where the native one is asked for, which an array does not tell."""
        return self._wanted.frame_rate or 25.0

    def count(self, most: int | None = None) -> int:
        """See `Source`."""
        self._making.refuse_without_flow(len(self._frames))
        return len(self._frames)

    def about(self) -> float:
        """See `Source`."""
        return len(self._frames)

    def begin_anew(self, error: OtherCount | UnusableTimestamps) -> None:
        """See `Source`; it is never needed."""
        raise error

    def pictures(self, spans: Sequence[tuple[int, int | None]], needed: Needed) -> Iterator[Picture | int]:
        """See `Source`."""
        height, width = self._frames.shape[1:3]
        size = self._wanted.shown_size(width, height, Fraction(1), turned=False)

        def frames() -> Iterator[np.ndarray]:
            for frame in self._frames:
                own = np.ascontiguousarray(frame)
                yield own if size == (width, height) else cv2.resize(own, size, interpolation=cv2.INTER_LINEAR)

        yield from self._making.pictures(frames(), 0, needed)


class VideoFile:
    """Frames of a video file, or of a piece of it.

    Args:
      path: the file.
      frames: at which rate and size.
      making: how they become pictures.
      start, end: seconds from the first frame, of a piece.
      note: called once with each sentence on what was mended in the file.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        frames: Frames,
        making: Making,
        *,
        start: float | None = None,
        end: float | None = None,
        note: Note = no_note,
    ):
        # It is opened more than once.
        self._path = copied_for(self, path)
        self._frames = frames
        self._making = making
        self._start = None if start is None else exact(start)
        self._end = None if end is None else exact(end)
        self._noted: set[str] = set()
        self._note = note
        self._by_timestamps = True
        self._count: int | None = None

    @property
    def frame_rate(self) -> float:
        """See `Source`; the file's own where every frame of it is asked for."""
        if self._frames.frame_rate is None:
            return native_rate(self._path)
        return self._frames.frame_rate

    @property
    def seekable(self) -> bool:
        """Whether a frame can be looked for by its number."""
        return self._frames.frame_rate is not None and self._by_timestamps

    def count(self, most: int | None = None) -> int:
        """See `Source`."""
        if self._count is None and self._by_timestamps:
            self._count = expected_count(self._path, self._frames, start=self._start, end=self._end) or None
        if self._count is None:
            found = self._counted(most)
            if most is not None and found >= most:
                return found
            self._count = found
        self._making.refuse_without_flow(self._count)
        return self._count

    def _counted(self, most: int | None = None) -> int:
        piece: dict[str, Any] = {"start": self._start, "end": self._end, "most": most, "note": self._tell}
        if self._by_timestamps:
            with contextlib.suppress(UnusableTimestamps):
                return count_frames(self._path, self._frames, **piece)
            self._by_timestamps = False
        return count_frames(self._path, self._frames, by_timestamps=False, **piece)

    def about(self) -> float:
        """See `Source`."""
        if self._count is not None:
            return self._count
        start, end = (None if time is None else float(time) for time in (self._start, self._end))
        return seconds_of(self._path, start, end) * self.frame_rate

    def begin_anew(self, error: OtherCount | UnusableTimestamps) -> None:
        """See `Source`."""
        if isinstance(error, UnusableTimestamps):
            self._by_timestamps = False
            self._count = None
        else:
            self._count = error.count or self._counted()

    def pictures(self, spans: Sequence[tuple[int, int | None]], needed: Needed) -> Iterator[Picture | int]:
        """See `Source`; it may also raise `OtherCount` and `UnusableTimestamps` (`begin_anew`), `UnreadableVideo`."""
        for first, after in spans if self.seekable else [(0, None)]:
            start, end = self._start, self._end
            if self.seekable:
                rate = exact(self._frames.frame_rate or 0)
                begin = self._start or Fraction(0)
                start = begin + first / rate if first else self._start
                end = self._end if after is None else begin + after / rate
            else:
                first = 0
            with contextlib.closing(
                decode(
                    self._path,
                    self._frames,
                    start=start,
                    end=end,
                    by_timestamps=self._by_timestamps,
                    note=self._tell,
                )
            ) as frames:
                for made in self._making.pictures(frames, first, needed):
                    if isinstance(made, Picture):
                        yield made
                    elif after is not None and self.seekable and made < after:
                        raise OtherCount(None)
                    elif after is None or not self.seekable:
                        self._making.refuse_without_flow(made)
                        yield made

    def _tell(self, sentence: str) -> None:
        # The same is found by each reading of a file that is read more than once.
        if sentence not in self._noted:
            self._noted.add(sentence)
            self._note(sentence)
