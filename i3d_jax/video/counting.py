"""How many frames a video has, by its packets alone: milliseconds, where decoding takes seconds."""

from __future__ import annotations

import os
from fractions import Fraction

import av

from i3d_jax.video.decode import WITHOUT_TIMESTAMPS, exact
from i3d_jax.video.durations import stated_duration, tick
from i3d_jax.video.errors import UnreadableVideo
from i3d_jax.video.frames import Frames
from i3d_jax.video.opening import opened, video_stream
from i3d_jax.video.resample import resample

Seconds = float | Fraction | None


def expected_count(
    path: str | os.PathLike, wanted: Frames, *, start: Seconds = None, end: Seconds = None
) -> int | None:
    """Returns how many frames `decode` yields if every packet of the video is a frame, as it nearly always is.

    Args:
      path: the file.
      wanted: at which rate.
      start, end: seconds from the first frame, of a piece.

    Returns:
      The number; None where packets do not tell it, or nothing can be read. Only decoding shows whether it is right.
    """
    try:
        with opened(path) as container:
            stream = video_stream(container)
            if container.format.name in WITHOUT_TIMESTAMPS:
                return None
            times: list[tuple[int, int]] = []
            for packet in container.demux(stream):
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None or packet.is_corrupt:
                    return None
                times.append((packet.pts, packet.duration or 0))
            if len({time for time, _ in times}) < len(times) or not times:
                return None
            unit, stated = tick(stream), stated_duration(container, stream)
    except (av.FFmpegError, UnreadableVideo):
        return None
    times.sort()
    origin = times[0][0]
    timed = [((time - origin) * unit, duration) for time, duration in times]
    begin, finish = exact(start or 0), None if end is None else exact(end)
    if wanted.frame_rate is None:
        return sum(begin <= time and (finish is None or time < finish) for time, _ in timed)

    def last_until(time: Fraction, duration: int) -> Fraction:
        until = time + duration * unit
        return min(until, stated.seconds) if stated.of_the_track else until

    rate = exact(wanted.frame_rate)
    return sum(1 for _ in resample(timed, rate, start=begin, end=finish, last_until=last_until))


def native_rate(path: str | os.PathLike) -> float:
    """Returns the frames a second of a file, as it states them or as FFmpeg finds them.

    Raises:
      UnreadableVideo: the file cannot be opened as a video, or nothing tells it.
    """
    with opened(path) as container:
        stream = video_stream(container)
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise UnreadableVideo("nothing in it tells how many frames it has a second")
        return rate.numerator / rate.denominator
