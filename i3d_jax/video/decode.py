"""From a video file to frames at a constant rate, one at a time: a long video needs no more memory than a short one.

Uses PyAV, which raises where OpenCV silently returns fewer frames.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction

import av
import numpy as np

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.video.durations import END_TOLERANCE, Stated, another_track_reaches, stated_duration, tick, video_reaches
from i3d_jax.video.errors import UnreadableVideo, UnusableTimestamps
from i3d_jax.video.frames import Frames
from i3d_jax.video.opening import opened, opened_in_place, told, video_stream
from i3d_jax.video.picture import orientation, picture
from i3d_jax.video.resample import resample
from i3d_jax.video.timestamps import FEW, mend, usual_step

TimedFrames = Iterator[tuple[Fraction, av.VideoFrame]]
# Takes a sentence on what a file holds that players mend, or show in another way than we do.
Note = Callable[[str], None]

# Seconds: a seek aims this much before the piece, for the tables of some containers are in decoding order.
SEEK_MARGIN = 1
# Seconds: after a longer step forward a few frames are waited for, which tell whether it was a bad timestamp.
LONG_STEP = 1
# Their timestamps are frame numbers in the order of decoding, which leads nowhere where frames are shown in another.
WITHOUT_TIMESTAMPS = frozenset({"avi"})
# They mark packets as corrupt where a counter does not go on, as where two recordings were joined. With other
# containers the mark is of a packet that is cut off.
SUSPICIOUS = frozenset({"mpegts"})
# Frames after such a mark among which a hole in time would be: a decoder holds back 16 at most.
AFTER_A_MARK = 32
LATEST_START = 1 << 31  # Seconds: containers count in 64 bits, of units down to a nanosecond.
HDR = {16: "PQ", 18: "HLG"}  # By the numbers of ITU-T H.273 for the transfer characteristics.
LONGEST_SIDE = 65_500  # Pixels: libjpeg takes no more.


def no_note(sentence: str) -> None:
    """Takes a note that nobody wants."""


def decode(
    path: str | os.PathLike,
    wanted: Preprocessing | Frames,
    *,
    start: float | Fraction | None = None,
    end: float | Fraction | None = None,
    by_timestamps: bool = True,
    note: Note = no_note,
) -> Generator[np.ndarray]:
    """Yields the frames of a video, or of a piece of it, upright, with square pixels, resampled and resized.

    The same array is yielded again where resampling repeats a frame.

    Args:
      path: the file. Its best video stream is taken.
      wanted: the frame rate and the size of the result.
      start: seconds from the first frame where the piece starts; None for the first frame.
      end: seconds from the first frame where it ends; None for the end. Nothing after it is decoded.
      by_timestamps: True to place frames in time by their timestamps; False where these are bad: a few are mended, and
        with more of them frames are placed by their number and the frame rate, which reads the file twice.
      note: called with each sentence on what was mended; it may be called before a later exception.

    Yields:
      uint8 RGB [H, W, 3] in 0..255, all of the first one's size.

    Raises:
      UnreadableVideo: the file is no video, is damaged or cut off, or has no frame in the piece. It may come after
        frames have been yielded: a video is all there or it is not to be used.
      UnusableTimestamps: only with `by_timestamps`; it too may come after frames have been yielded.
    """
    source: av.VideoFrame | None = None
    size = (0, 0)
    pixels: np.ndarray
    frames = Frames.of(wanted)
    for frame, stream in _resampled(path, frames, start=start, end=end, by_timestamps=by_timestamps, note=note):
        if frame is not source:
            if source is None:
                size = _shown_size(frame, stream, frames)
                if frame.color_trc in HDR:
                    note(hdr_note(HDR[frame.color_trc]))
            source, pixels = frame, _picture(frame, size)
        yield pixels


def count_frames(
    path: str | os.PathLike,
    wanted: Preprocessing | Frames,
    *,
    start: float | Fraction | None = None,
    end: float | Fraction | None = None,
    most: int | None = None,
    by_timestamps: bool = True,
    note: Note = no_note,
) -> int:
    """Returns how many frames `decode` yields, without making pictures of them.

    Args:
      most: counting, and with it reading, ends at so many; None for all.
      path, wanted, start, end, by_timestamps, note: as of `decode`.

    Raises:
      UnreadableVideo, UnusableTimestamps: as `decode`, for what was read.
    """
    frames = _resampled(path, Frames.of(wanted), start=start, end=end, by_timestamps=by_timestamps, note=note)
    with contextlib.closing(frames):
        return sum(1 for _ in itertools.islice(frames, most))


def _resampled(
    path: str | os.PathLike,
    wanted: Frames,
    *,
    start: float | Fraction | None,
    end: float | Fraction | None,
    by_timestamps: bool,
    note: Note,
) -> Generator[tuple[av.VideoFrame, av.VideoStream]]:
    """Yields the file's own frame for each frame of the result, one at least, and their stream; see `decode`."""
    _refuse_beyond(start)
    piece_start = exact(start or 0)
    place = None if by_timestamps else _placing(path, note)
    with opened(path) as container:
        stream = video_stream(container)
        timed_frames = (
            _timed_by_timestamps(container, stream, piece_start, note)
            if place is None
            else ((place(number), frame) for number, frame in enumerate(_frames(container, stream, note)))
        )
        stated = stated_duration(container, stream)

        def last_until(time: Fraction, frame: av.VideoFrame) -> Fraction:
            if not by_timestamps:
                # Where times are not to be trusted, durations are not either.
                return time
            until = time + (frame.duration or 0) * tick(stream)
            return min(until, stated.seconds) if stated.of_the_track else until

        piece_end = None if end is None else exact(end)
        chosen = (
            _between(timed_frames, piece_start, piece_end)
            if wanted.frame_rate is None
            else resample(
                timed_frames, exact(wanted.frame_rate), start=piece_start, end=piece_end, last_until=last_until
            )
        )
        some = False
        for frame in chosen:
            some = True
            yield frame, stream
        if not some:
            raise UnreadableVideo(
                f"it ends before the piece starts at {float(start):g} s" if start else "it has no frames"
            )


def _between(timed_frames: TimedFrames, start: Fraction, end: Fraction | None) -> Iterator[av.VideoFrame]:
    """Yields the frames that stand at `start` or later and before `end`; nothing after it is decoded."""
    for time, frame in timed_frames:
        if end is not None and time >= end:
            return
        if time >= start:
            yield frame


def hdr_note(transfer: str) -> str:
    """Returns what is to be said of a video whose transfer function is PQ or HLG."""
    return f"it is HDR ({transfer}), which is not tone-mapped: its colours come out pale"


def check_header(path: str | os.PathLike, *, start: float | None = None, note: Note = no_note) -> None:
    """Opens a video without decoding anything: what is found here in milliseconds, `decode` need not find in hours.

    Args:
      path: the file.
      start: seconds from the first frame where a piece is to start; None for the first frame.
      note: called with a sentence where the header says that the video is HDR.

    Raises:
      UnreadableVideo: the file is empty, no video, without a video stream or a decoder for it, or states that it ends
        before the piece starts. A file that is damaged further on gives no sign of it.
    """
    _refuse_beyond(start)
    with opened_in_place(path) as container:
        stream = video_stream(container)
        stated = stated_duration(container, stream)
        if start and stated.seconds and not _may_hold(container, stream, stated, exact(start)):
            raise UnreadableVideo(f"it ends before the piece starts at {float(start):g} s")
        if stream.codec_context.color_trc in HDR:
            note(hdr_note(HDR[stream.codec_context.color_trc]))


def _refuse_beyond(start: float | Fraction | None) -> None:
    if start and start > LATEST_START:
        raise UnreadableVideo(f"it ends before the piece starts at {float(start):g} s")


def _may_hold(
    container: av.container.InputContainer, stream: av.VideoStream, stated: Stated, seconds: Fraction
) -> bool:
    """Whether the video goes on until `seconds`, as the file states, or by its packets where that is of all tracks."""
    return seconds < stated.seconds and (stated.of_the_track or video_reaches(container, stream, seconds))


def seconds_of(path: str | os.PathLike, start: float | None, end: float | None) -> float:
    """Returns how long a piece of a video is by its ends and what the file states; infinity where neither says it.

    Raises:
      UnreadableVideo: the file cannot be opened as a video.
    """
    with opened(path) as container:
        stated = float(stated_duration(container, video_stream(container)).seconds) or math.inf
    return min(stated, math.inf if end is None else end) - (start or 0)


def exact(number: float | Fraction) -> Fraction:
    """Returns the decimal number as it was written: the float 0.28 itself is a little more, enough to break a tie."""
    return number if isinstance(number, Fraction) else Fraction(str(number))


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream, note: Note = no_note
) -> Iterator[av.VideoFrame]:
    """Yields the frames from where the container stands; any sign of damage is an `UnreadableVideo`."""
    count = marks = watched = 0
    size = before = None
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                if container.format.name not in SUSPICIOUS:
                    raise UnreadableVideo(f"it is damaged or cut off after {count} frames")
                marks += 1
                watched = AFTER_A_MARK
            for frame in packet.decode():
                # Whole frames that are missing leave nothing for the decoder to complain of.
                if frame.is_corrupt or (watched and before is not None and _is_hole(before, frame)):
                    raise UnreadableVideo(f"it is damaged or cut off after {count} frames")
                if size not in (None, (frame.width, frame.height)):
                    sizes = f"{size[0]}x{size[1]} to {frame.width}x{frame.height}"
                    note(f"the frame size changes from {sizes} after {count} frames: all are brought to the first size")
                size = (frame.width, frame.height)
                before = frame
                yield frame
                count += 1
                watched = max(0, watched - 1)
    except av.FFmpegError as error:
        raise UnreadableVideo(f"decoding fails after {count} frames: {told(error, 'it is damaged there')}") from error
    if marks:
        places = "a place" if marks == 1 else f"{marks} places"
        note(f"the file marks {places} as damaged, as where recordings were joined: no frame is missing there")


def _is_hole(before: av.VideoFrame, frame: av.VideoFrame) -> bool:
    """Whether more time lies between two frames than the first one lasts by half."""
    if before.pts is None or frame.pts is None or not before.duration:
        return False
    return 2 * (frame.pts - before.pts) > 3 * before.duration


def _placing(path: str | os.PathLike, note: Note) -> Callable[[int], Fraction]:
    """Decodes a video whose timestamps are bad and returns what gives the seconds of a frame from its number."""
    with opened(path) as container:
        stream = video_stream(container)
        if container.format.name in WITHOUT_TIMESTAMPS and stream.average_rate:
            return _at_rate(stream.average_rate)
        timestamps = [frame.pts for frame in _frames(container, stream)]
        present = [timestamp for timestamp in timestamps if timestamp is not None]
        latest = (present[0] if present else 0) + _latest(container, stream) / tick(stream)
        if sum(timestamp > latest for timestamp in present) <= FEW:
            timestamps = [None if timestamp is None or timestamp > latest else timestamp for timestamp in timestamps]
        mended = mend(timestamps)
        if mended is not None:
            # Bad ones may lie beyond the others, and then the stated duration often counts them.
            end = mended.times[-1] - mended.times[0] + (usual_step(timestamps) or 0)
            _refuse_cut_off(container, stream, max(Fraction(max(present) - min(present[0], 0)), end) * tick(stream))
            if mended.bad:
                note(f"of {len(timestamps)} timestamps {mended.bad} missing or out of order: mended")
            if mended.jumps:
                note(f"time begins anew {mended.jumps}x on the way: carried on")
            seconds, times = tick(stream), mended.times
            return lambda number: (times[number] - times[0]) * seconds
        rate = _frame_rate(container, stream, timestamps)
        if present or rate != stream.average_rate:
            note(f"its timestamps cannot be used: the frames are placed {float(rate):.6g} a second")
        return _at_rate(rate)


def _latest(container: av.container.InputContainer, stream: av.VideoStream) -> float | Fraction:
    """Returns the seconds beyond which the last few frames cannot stand, by what the file states."""
    stated = stated_duration(container, stream).seconds
    # Stated durations are often estimates.
    return 2 * stated + LONG_STEP if stated else math.inf


def _at_rate(rate: Fraction) -> Callable[[int], Fraction]:
    return lambda number: number / rate


def _frame_rate(
    container: av.container.InputContainer, stream: av.VideoStream, timestamps: list[int | None]
) -> Fraction:
    """Returns the frames a second that fit the stated duration: the header's if they do."""
    step = usual_step(timestamps)
    rates = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    rates += [1 / (step * tick(stream))] if step else []
    stated = stated_duration(container, stream)
    # Files without any timestamps, which are bare streams, have durations that FFmpeg guesses from their size.
    if step and stated.seconds and stated.of_the_track:
        tolerance = max(Fraction(END_TOLERANCE), stated.seconds / 10)
        fitting = [rate for rate in rates if abs(len(timestamps) / rate - stated.seconds) <= tolerance]
        rates = fitting or [len(timestamps) / stated.seconds]
    if not rates:
        raise UnreadableVideo("it has neither usable timestamps nor a frame rate")
    return rates[0]


def _timed_by_timestamps(
    container: av.container.InputContainer, stream: av.VideoStream, start: Fraction, note: Note
) -> TimedFrames:
    """Yields frames with their seconds from the video's first frame, at the latest from the last one before `start`."""
    frames = _frames(container, stream, note)
    first = next(frames, None)
    if first is None:
        return
    origin = _timestamp(first)
    frames = itertools.chain([first], frames)
    if start > SEEK_MARGIN:
        frames = _frames_from(container, stream, origin, start, note)
    seconds = tick(stream)
    timestamp: int | None = None
    last = origin
    waiting: list[tuple[Fraction, av.VideoFrame]] = []
    for frame in frames:
        previous, timestamp = timestamp, _timestamp(frame)
        if previous is not None and timestamp <= previous:
            raise UnusableTimestamps
        last = timestamp + (frame.duration or 0)
        timed = (timestamp - origin) * seconds, frame
        if not waiting and (previous is None or (timestamp - previous) * seconds <= LONG_STEP):
            yield timed
            continue
        waiting.append(timed)
        if len(waiting) > FEW:
            yield from waiting
            waiting.clear()
    if waiting and waiting[-1][0] > _latest(container, stream):
        raise UnusableTimestamps
    yield from waiting
    _refuse_cut_off(container, stream, (last - min(origin, 0)) * seconds)


def _refuse_cut_off(container: av.container.InputContainer, stream: av.VideoStream, reached: Fraction) -> None:
    """Raises an `UnreadableVideo` if the file states more seconds than were reached: Matroska gives no other sign."""
    stated = stated_duration(container, stream)
    end = stated.seconds - END_TOLERANCE
    if reached >= end:
        return
    if not stated.of_the_track:
        # Opened anew: FLV files that state no duration can only be read from their start.
        with opened(container.name) as again:
            if another_track_reaches(again, stream.index, end):
                return
    raise UnreadableVideo(
        f"it ends after {float(reached):.1f} of the {float(stated.seconds):.1f} s that the file states"
    )


def _frames_from(
    container: av.container.InputContainer, stream: av.VideoStream, origin: int, start: Fraction, note: Note
) -> Iterator[av.VideoFrame]:
    """Yields the frames from a keyframe before `start` on, or from the first frame where a seek does not lead there."""
    with contextlib.suppress(av.FFmpegError, UnreadableVideo):
        container.seek(origin + math.floor((start - SEEK_MARGIN) / tick(stream)), stream=stream)
        frames = _frames(container, stream, note)
        first = next(frames, None)
        if first is not None and (_timestamp(first) - origin) * tick(stream) <= start:
            return itertools.chain([first], frames)
    with contextlib.suppress(av.FFmpegError):
        # To where the whole file starts: a seek to the first timestamp leads past it in MPEG transport streams.
        container.seek(0)
        frames = _frames(container, stream, note)
        first = next(frames, None)
        if first is not None and _timestamp(first) == origin:
            return itertools.chain([first], frames)
    raise UnreadableVideo(f"it cannot be read from {float(start):g} s on: cut the piece out of it beforehand")


def _timestamp(frame: av.VideoFrame) -> int:
    if frame.pts is None:
        raise UnusableTimestamps
    return frame.pts


def _shown_size(frame: av.VideoFrame, stream: av.VideoStream, wanted: Frames) -> tuple[int, int]:
    """Returns the (width, height) of all pictures of a video by its first frame."""
    turned = orientation(frame)[0]
    pixels = stream.sample_aspect_ratio or Fraction(1)
    size = wanted.shown_size(frame.width, frame.height, pixels, turned=turned)
    if max(size) > LONGEST_SIDE:
        raise UnreadableVideo(f"its picture of {frame.width}x{frame.height} would become {size[0]}x{size[1]}")
    return size[::-1] if turned else size


def _picture(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    try:
        return picture(frame, size[::-1] if orientation(frame)[0] else size)
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableVideo(f"its pixel format {frame.format.name} cannot be converted: {error}") from error
