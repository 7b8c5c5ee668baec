"""The rule by which frames that come at any times become frames at a constant rate."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

Frame = TypeVar("Frame")

# Mean frame intervals: a last frame that lasts longer is meant to; others are often rounded or made up by writers.
LASTS = Fraction(3, 2)


def resample(
    timed_frames: Iterable[tuple[Fraction, Frame]],
    frame_rate: Fraction,
    *,
    start: Fraction = Fraction(0),
    end: Fraction | None = None,
    last_until: Callable[[Fraction, Frame], Fraction] | None = None,
) -> Iterator[Frame]:
    """Yields the frames of a piece of a video at a constant rate, while the source's frames stream by.

    Frame k of the result stands at time start + k / frame_rate: it is the source frame nearest in time, the earlier one
    of two that are equally near. Their number is the piece's duration times `frame_rate`, rounded, and at least 1; the
    video ends one mean frame interval after its last frame, or when that frame does if it lasts half as long again. The
    same object is yielded again where a frame repeats.

    Args:
      timed_frames: (seconds from the video's start, frame), strictly increasing in time. Frames long before `start`
        may be left out, as after a seek, but not the last one before it.
      frame_rate: frames a second.
      start: seconds, 0 or more, where the piece starts.
      end: seconds where it ends, after `start`; None, or a time after the video's end, for the video's end.
      last_until: takes the last frame and its seconds and returns the seconds where it ends; None if nobody knows.

    Yields:
      The frames; none at all if the video has none or ends before `start`.
    """
    most = None if end is None else max(1, round((end - start) * frame_rate))
    yielded = 0
    # For the next results, each with its number of repetitions, which the timestamps of a broken file may make huge.
    # How many results there will be is not yet certain.
    chosen: deque[tuple[Frame, int]] = deque()
    places = 0  # That are taken: those yielded and those chosen.
    first = Fraction(0)
    latest: tuple[Fraction, Frame] | None = None
    count = 0
    for time, next_frame in timed_frames:
        if latest is None:
            first = time
        else:
            last, frame = latest
            # Places are counted in results: result k stands at place k.
            middle = ((last + time) / 2 - start) * frame_rate
            repetitions = math.floor(middle) + 1 - places
            if repetitions > 0:
                chosen.append((frame, repetitions))
                places += repetitions
        latest = time, next_frame
        count += 1
        certain = round((time - start) * frame_rate)
        if most is not None:
            certain = min(certain, most)
        while chosen and yielded < certain:
            waiting, repetitions = chosen.popleft()
            now = min(repetitions, certain - yielded)
            if now < repetitions:
                chosen.appendleft((waiting, repetitions - now))
            for _ in range(now):
                yield waiting
            yielded += now
        if yielded == most:
            return
    if latest is None:
        return
    last, frame = latest
    interval = (last - first) / (count - 1) if count > 1 else 1 / frame_rate
    video_end = last + interval
    own_end = video_end if last_until is None else last_until(last, frame)
    if own_end > last + LASTS * interval:
        video_end = own_end
    if video_end <= start:
        return
    total = max(1, round((video_end - start) * frame_rate))
    if most is not None:
        total = min(total, most)
    # The last frame fills what is left.
    for waiting, repetitions in (*chosen, (frame, total)):
        for _ in range(min(repetitions, total - yielded)):
            yield waiting
            yielded += 1
