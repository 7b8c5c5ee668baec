"""From a video file to frames at a constant rate, one at a time: a long video needs no more memory than a short one.

Uses PyAV, which raises where OpenCV silently returns fewer frames.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.video.picture import picture, scaled_size
from i3d_jax.video.resample import resample

TimedFrames = Iterator[tuple[Fraction, av.VideoFrame]]

# Seconds: a seek aims this much before the piece, for the tables of some containers are in decoding order.
SEEK_MARGIN = 1
# Seconds by which a video may end before the time that its file states: an audio track is often a little longer.
END_TOLERANCE = 1
LONGEST_SIDE = 65_500  # Pixels: libjpeg takes no more.
# Metadata is often in another encoding than UTF-8: before version 19 PyAV raises there unless it is told, since then it
# never does, and takes no such argument.
LENIENT_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


class UnreadableVideo(Exception):
    """The video cannot be read from start to end; its text is a short reason that says how far it came."""


class UnusableTimestamps(Exception):
    """The timestamps go backwards or are missing: the video has to be decoded again with `by_timestamps=False`."""


def decode(
    path: str | os.PathLike,
    preprocessing: Preprocessing,
    *,
    start: float | None = None,
    end: float | None = None,
    by_timestamps: bool = True,
) -> Iterator[np.ndarray]:
    """Yields the frames of a video, or of a piece of it, upright, with square pixels, resampled and resized.

    The same array is yielded again where resampling repeats a frame.

    Args:
      path: the file. Its best video stream is taken.
      preprocessing: the frame rate and the shorter side of the result.
      start: seconds from the first frame where the piece starts; None for the first frame.
      end: seconds from the first frame where it ends; None for the end. Nothing after it is decoded.
      by_timestamps: True to place frames in time by their timestamps; False by their number and the stream's average
        frame rate.

    Yields:
      uint8 RGB [H, W, 3] in 0..255, all of one size.

    Raises:
      UnreadableVideo: the file is no video, is damaged or cut off, or has no frame in the piece. It may come after
        frames have been yielded: a video is all there or it is not to be used.
      UnusableTimestamps: only with `by_timestamps`; it too may come after frames have been yielded.
    """
    piece_start = _exact(start or 0)
    with _opened(path) as container:
        stream = _video_stream(container)
        timed_frames = (
            _timed_by_timestamps(container, stream, piece_start)
            if by_timestamps
            else _timed_by_number(container, stream)
        )
        chosen = resample(
            timed_frames,
            _exact(preprocessing.frame_rate),
            start=piece_start,
            end=None if end is None else _exact(end),
        )
        source: av.VideoFrame | None = None
        pixels: np.ndarray
        for frame in chosen:
            if frame is not source:
                source, pixels = frame, _picture(frame, stream, preprocessing.short_side)
            yield pixels
        if source is None:
            raise UnreadableVideo(f"it ends before the piece starts at {start:g} s" if start else "it has no frames")


def check_header(path: str | os.PathLike, *, start: float | None = None) -> None:
    """Opens a video without decoding anything: what is found here in milliseconds, `decode` need not find in hours.

    Args:
      path: the file.
      start: seconds from the first frame where a piece is to start; None for the first frame.

    Raises:
      UnreadableVideo: the file is empty, no video, without a video stream or a decoder for it, or states that it ends
        before the piece starts. A file that is damaged further on gives no sign of it.
    """
    with _opened(path) as container:
        stated = _stated_duration(container, _video_stream(container))
        if start and stated and stated <= _exact(start):
            raise UnreadableVideo(f"it ends before the piece starts at {start:g} s")


def seconds_of(path: str | os.PathLike, start: float | None, end: float | None) -> float:
    """Returns how long a piece of a video is by its ends and what the file states; infinity where neither says it.

    Raises:
      UnreadableVideo: the file cannot be opened as a video.
    """
    with _opened(path) as container:
        stated = float(_stated_duration(container, _video_stream(container))) or math.inf
    return min(stated, math.inf if end is None else end) - (start or 0)


def _exact(number: float | str) -> Fraction:
    """Returns the decimal number as it was written: the float 0.28 itself is a little more, enough to break a tie."""
    return Fraction(str(number))


def _opened(path: str | os.PathLike) -> av.container.InputContainer:
    if not os.path.isfile(path):
        raise UnreadableVideo("it is not a file")
    if os.path.getsize(path) == 0:
        raise UnreadableVideo("the file is empty")
    try:
        # Absolute, so that a colon in the name is not taken for a protocol.
        return av.open(str(Path(path).absolute()), **LENIENT_METADATA)
    except av.FFmpegError as error:
        raise UnreadableVideo(f"it cannot be opened as a video: {error.strerror}") from error


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    stream = cast(av.VideoStream | None, container.streams.best("video"))
    if stream is None:
        raise UnreadableVideo("it has no video stream")
    if stream.codec_context is None:
        raise UnreadableVideo("there is no decoder for its video stream")
    # Processes are the parallelism; in a single one, threads save 12% of the decoding and a few percent of the whole.
    stream.codec_context.thread_count = 1
    return stream


def _frames(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Yields the frames from where the container stands; any sign of damage is an `UnreadableVideo`."""
    count = 0
    size = None
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise UnreadableVideo(f"it is damaged or cut off after {count} frames")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise UnreadableVideo(f"it is damaged or cut off after {count} frames")
                size = size or (frame.width, frame.height)
                if size != (frame.width, frame.height):
                    sizes = f"{size[0]}x{size[1]} to {frame.width}x{frame.height}"
                    raise UnreadableVideo(f"the frame size changes from {sizes} after {count} frames")
                yield frame
                count += 1
    except av.FFmpegError as error:
        raise UnreadableVideo(f"decoding fails after {count} frames: {error.strerror}") from error


def _timed_by_number(container: av.container.InputContainer, stream: av.VideoStream) -> TimedFrames:
    if not stream.average_rate:
        raise UnreadableVideo("it has neither usable timestamps nor a frame rate")
    for number, frame in enumerate(_frames(container, stream)):
        yield number / stream.average_rate, frame


def _timed_by_timestamps(
    container: av.container.InputContainer, stream: av.VideoStream, start: Fraction
) -> TimedFrames:
    """Yields frames with their seconds from the video's first frame, at the latest from the last one before `start`."""
    frames = _frames(container, stream)
    first = next(frames, None)
    if first is None:
        return
    origin = _timestamp(first)
    frames = itertools.chain([first], frames)
    if start > SEEK_MARGIN:
        frames = _frames_from(container, stream, origin, start)
    previous = None
    for frame in frames:
        timestamp = _timestamp(frame)
        if previous is not None and timestamp <= previous:
            raise UnusableTimestamps
        yield (timestamp - origin) * _time_base(stream), frame
        previous = timestamp
    # Matroska files that are cut off give no other sign.
    reached = (timestamp - min(origin, 0) + (frame.duration or 0)) * _time_base(stream)
    stated = _stated_duration(container, stream)
    if reached < stated - END_TOLERANCE:
        raise UnreadableVideo(f"it ends after {float(reached):.1f} of the {float(stated):.1f} s that the file states")


def _frames_from(
    container: av.container.InputContainer, stream: av.VideoStream, origin: int, start: Fraction
) -> Iterator[av.VideoFrame]:
    """Yields the frames from a keyframe before `start` on, or from the first frame where a seek does not lead there."""
    with contextlib.suppress(av.FFmpegError, UnreadableVideo):
        container.seek(origin + math.floor((start - SEEK_MARGIN) / _time_base(stream)), stream=stream)
        frames = _frames(container, stream)
        first = next(frames, None)
        if first is not None and (_timestamp(first) - origin) * _time_base(stream) <= start:
            return itertools.chain([first], frames)
    with contextlib.suppress(av.FFmpegError):
        # To where the whole file starts: a seek to the first timestamp leads past it in MPEG transport streams.
        container.seek(0)
        frames = _frames(container, stream)
        first = next(frames, None)
        if first is not None and _timestamp(first) == origin:
            return itertools.chain([first], frames)
    raise UnreadableVideo(f"it cannot be read from {float(start):g} s on: cut the piece out of it beforehand")


def _timestamp(frame: av.VideoFrame) -> int:
    if frame.pts is None:
        raise UnusableTimestamps
    return frame.pts


def _time_base(stream: av.VideoStream) -> Fraction:
    """The seconds that a timestamp's unit stands for."""
    # Since version 19 PyAV has rational numbers of its own, one of which means that there is none.
    if not stream.time_base:
        raise UnusableTimestamps
    return Fraction(stream.time_base.numerator, stream.time_base.denominator)


def _stated_duration(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction:
    """Returns the seconds that the stream, or else the container, says the video takes; 0 where neither does."""
    if stream.duration and stream.time_base:
        return stream.duration * _time_base(stream)
    return Fraction(container.duration or 0, av.time_base)


def _picture(frame: av.VideoFrame, stream: av.VideoStream, short_side: int) -> np.ndarray:
    pixel = stream.sample_aspect_ratio or Fraction(1)
    size = scaled_size(frame.width, frame.height, Fraction(pixel.numerator, pixel.denominator), short_side)
    if max(size) > LONGEST_SIDE:
        raise UnreadableVideo(f"its picture of {frame.width}x{frame.height} would become {size[0]}x{size[1]}")
    try:
        return picture(frame, size)
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableVideo(f"its pixel format {frame.format.name} cannot be converted: {error}") from error
