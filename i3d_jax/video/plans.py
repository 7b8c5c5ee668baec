"""Which frames and flow fields of a video make up its windows: evenly spread over it, or one after the other."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64

from i3d_jax import clips
from i3d_jax.system.errors import UserError
from i3d_jax.video.view import View

# Of a window: so much of a video may be left at its end before there is one window more.
REST = 1 / 10
# The length of Kinetics' clips, and of what the paper's tests see (Table 1).
USUAL_SECONDS = 10


class Place(NamedTuple):
    """Where a window stands.

    Attributes:
      first: the first frame that it stands for.
      after: the frame after the last one.
      numbers: for each network, by stream, the numbers of its frames and fields, int64 [count].
    """

    first: int
    after: int
    numbers: tuple[Mapping[str, Int64[np.ndarray, " _count"]], ...]


class Plan(Protocol):
    """Which windows a video has."""

    @property
    def needs_count(self) -> bool:
        """Whether the number of frames has to be known before the first window is."""

    def enough(self, views: Sequence[View]) -> int | None:
        """Returns of how many frames on the windows are the same whatever the number; None where there is none such."""

    def places(self, views: Sequence[View], count: int | None = None) -> Iterator[Place]:
        """Yields the windows of a video of `count` frames, by their first frames; each has the views' numbers.

        Without a count, where it is not needed, they have no end.
        """

    def sees(self, number: int) -> bool:
        """Says whether a frame or field may be in a window; asked where the number of frames is not known."""

    def exists(self, place: Place, count: int) -> bool:
        """Says whether a video of `count` frames has such a window."""

    def outside(self, number: int, last: int) -> int | None:
        """Returns which frame or field stands for one that there is not; None for one that shows nothing.

        Args:
          number: below 0 or above `last`.
          last: the number of the last one that there is.
        """


@dataclasses.dataclass(frozen=True)
class Spread:
    """The evaluation's windows, evenly spread over the whole video; their scores are averaged.

    Attributes:
      windows: how many; None: as in the evaluation where it spreads several over a video of up to `USUAL_SECONDS`, or
        over one that they fill; of a longer one, and where the evaluation has a single one at the start, as many as
        fill it. A rest of less than `REST` of a window is left at the end.
    """

    windows: int | None = None

    needs_count = True

    def enough(self, views: Sequence[View]) -> int | None:
        """See `Plan`; a single window holds the first frames."""
        return max(view.reach for view in views) if self.windows == 1 else None

    def places(self, views: Sequence[View], count: int | None = None) -> Iterator[Place]:
        """See `Plan`; a video that is too short is looped, as `clips.cover` does it."""
        if count is None:
            raise ValueError("the number of frames was expected")
        covers = [clips.cover(count, view.sampling, self.number(view, count), streams=view.streams) for view in views]
        # Networks that see windows of other lengths have other numbers of them.
        most = max(len(numbers) for cover in covers for numbers in cover.values())
        for window in range(most):
            numbers = tuple(
                {stream: own[window] for stream, own in cover.items()}
                if window < len(next(iter(cover.values())))
                else {}
                for cover in covers
            )
            seen = np.concatenate([own for one in numbers for own in one.values()])
            yield Place(int(seen.min()), int(seen.max()) + 1, numbers)

    def number(self, view: View, count: int) -> int:
        """Returns how many windows a network sees of a video of `count` frames."""
        if self.windows is not None:
            return self.windows
        usual = max(view.windows * view.reach, USUAL_SECONDS * float(view.stored.frame_rate))
        if view.windows > 1 and count <= usual:
            return view.windows
        return max(view.windows, math.ceil(count / view.reach - REST))

    def sees(self, number: int) -> bool:
        """See `Plan`."""
        return True

    def exists(self, place: Place, count: int) -> bool:
        """See `Plan`."""
        return place.after <= count

    def outside(self, number: int, last: int) -> int | None:
        """See `Plan`; there is none."""
        raise ValueError(f"there is no number {number}, the last one is {last}")


@dataclasses.dataclass(frozen=True)
class Sliding:
    """Windows one after the other, whatever the length of the video: N = floor((F - window) / stride) + 1.

    A field leads from a frame to the next one: of the last frame there is none, and the one before stands for it.

    Attributes:
      window: frames that a window stands for.
      stride: frames from one window to the next.
      centred: whether window i has frame i x stride in its middle, for every such frame that there is; what lies beyond
        the video's ends shows nothing.
    """

    window: int
    stride: int
    centred: bool = False

    needs_count = False

    def __post_init__(self):
        for name in ("window", "stride"):
            if getattr(self, name) < 1:
                raise UserError(f"the {name} must be 1 frame or more, found {getattr(self, name)}")

    def enough(self, views: Sequence[View]) -> int | None:
        """See `Plan`."""
        return None

    def places(self, views: Sequence[View], count: int | None = None) -> Iterator[Place]:
        """See `Plan`."""
        offsets = [self._offsets(view) for view in views]
        before = self.window // 2 if self.centred else 0
        for start in itertools.count(0, self.stride):
            first = start - before
            numbers = tuple({stream: own + first for stream, own in offset.items()} for offset in offsets)
            place = Place(first, first + self.window, numbers)
            if count is not None and not self.exists(place, count):
                return
            yield place

    def sees(self, number: int) -> bool:
        """See `Plan`; between windows that do not touch nothing is looked at."""
        return self.centred or number % self.stride < self.window

    def exists(self, place: Place, count: int) -> bool:
        """See `Plan`."""
        return place.first + self.window // 2 < count if self.centred else place.after <= count

    def outside(self, number: int, last: int) -> int | None:
        """See `Plan`."""
        return None if self.centred else min(number, last)

    def _offsets(self, view: View) -> dict[str, Int64[np.ndarray, " _count"]]:
        sampling = view.sampling
        around = sampling.flow_per_frame if "flow" in view.streams else 1
        frames = (self.window - around) // sampling.stride + 1
        if frames < 1:
            raise UserError(f"a window of {around} frames or more was expected for this network, found {self.window}")
        window = dataclasses.replace(sampling, frames=frames)
        # As of a video that is just long enough: from its start, and nothing is looped.
        own = clips.cover(clips.reach(window, streams=view.streams), window, 1, streams=view.streams)
        return {stream: numbers[0] for stream, numbers in own.items()}
