"""How long a file says that its video takes, and whether a video that ends earlier is cut off."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from fractions import Fraction

import av

from i3d_jax.video.errors import UnreadableVideo

# Seconds by which a video may end before the time that its file states: an audio track is often a little longer.
END_TOLERANCE = 1
LAST_LASTS = Fraction(1, 10)  # Seconds: at least, of a last frame whose packet does not say.
# FFmpeg gives the duration of the whole file to each of their tracks.
WHOLE_FILE_DURATIONS = frozenset({"asf"})


@dataclasses.dataclass(frozen=True)
class Stated:
    """What a file says: seconds, 0 where it says nothing, and whether they are the video track's own or all tracks'."""

    seconds: Fraction
    of_the_track: bool


def tick(stream: av.VideoStream) -> Fraction:
    """Returns the seconds of a unit of the stream's timestamps; an `UnreadableVideo` says that there is none."""
    # Since version 19 PyAV has rational numbers of its own, one of which means that there is none.
    if not stream.time_base:
        raise UnreadableVideo("its timestamps have no unit")
    return Fraction(stream.time_base.numerator, stream.time_base.denominator)


def stated_duration(container: av.container.InputContainer, stream: av.VideoStream) -> Stated:
    """Returns the duration that the stream's header or tag states, else that of the container."""
    whole = Fraction(container.duration or 0, av.time_base)
    if stream.duration and container.format.name not in WHOLE_FILE_DURATIONS:
        return Stated(stream.duration * tick(stream), True)
    tag = _tag(stream)
    if tag:
        # A tag that was copied from a longer file stays when the video is cut.
        return Stated(min(tag, whole or tag), True)
    return Stated(whole, len(container.streams) == 1)


def another_track_reaches(container: av.container.InputContainer, video: int, seconds: Fraction) -> bool:
    """Whether the packets of another track go on until `seconds`: then the file is whole, and its video ends earlier.

    Args:
      container: just opened; its packets are read, and nothing is decoded.
      video: the number of the video's stream.
      seconds: from the start of the file.
    """
    others = [other for other in container.streams if other.index != video]
    with contextlib.suppress(av.FFmpegError):
        for packet in container.demux(others) if others else ():
            end = (packet.pts or packet.dts or 0) + (packet.duration or 0)
            if packet.time_base and end * packet.time_base >= seconds:
                return True
    return False


def video_reaches(container: av.container.InputContainer, stream: av.VideoStream, seconds: Fraction) -> bool:
    """Whether the video's own packets go on until `seconds` from its first frame; nothing is decoded."""
    origin = None
    with contextlib.suppress(av.FFmpegError):
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            if origin is None:
                origin = packet.pts
                with contextlib.suppress(av.FFmpegError):
                    container.seek(origin + math.floor((seconds - 1) / tick(stream)), stream=stream)
            end = (packet.pts - origin) * tick(stream) + max((packet.duration or 0) * tick(stream), LAST_LASTS)
            if end > seconds:
                return True
    return origin is None


def _tag(stream: av.VideoStream) -> Fraction | None:
    """Returns the seconds of Matroska's tag DURATION, which some writers follow by a language; None without one."""
    for name, value in stream.metadata.items():
        found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", value)
        if found and name.upper().partition("-")[0] == "DURATION":
            hours, minutes, seconds = found.groups()
            return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    return None
