"""Opens a file as a video: the file itself, and no other that it names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import av

from i3d_jax.system import files
from i3d_jax.system.copies import on_this_machine
from i3d_jax.video.errors import UnreadableVideo

# Metadata is often in another encoding than UTF-8: before version 19 PyAV raises there unless it is told, since then it
# never does, and takes no such argument.
LENIENT_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}

# What names other files, here or on the network, that FFmpeg would open in its place.
PLAYLISTS = frozenset({"concat", "dash", "hls", "imf", "rtsp", "sdp"})
VIDEOS_ALONE = {"format_whitelist": ",".join(sorted(av.formats_available - PLAYLISTS))}


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[av.container.InputContainer]:
    """Opens a file as a video, one of a bucket as a copy on this machine; an `UnreadableVideo` says why it cannot be.

    FFmpeg seeks to and fro: over the network that would take longer than all of the file.
    """
    _refuse_no_video(path)
    with on_this_machine(path) as found, _opened(found) as container:
        yield container


@contextlib.contextmanager
def opened_in_place(path: str | os.PathLike) -> Iterator[av.container.InputContainer]:
    """Opens a file as `opened` does, to read little of it: one of a bucket piece by piece, without a copy."""
    _refuse_no_video(path)
    if not files.is_in_bucket(path):
        with _opened(Path(path)) as container:
            yield container
        return
    with files.opened(path) as content, _opened(content) as container:
        yield container


def _refuse_no_video(path: str | os.PathLike) -> None:
    if not files.is_file(path):
        raise UnreadableVideo("it is not a file")
    if files.size(path) == 0:
        raise UnreadableVideo("the file is empty")


def _opened(video: Path | BinaryIO) -> av.container.InputContainer:
    # Absolute, so that a colon in the name is not taken for a protocol.
    source = str(video.absolute()) if isinstance(video, Path) else video
    try:
        return av.open(source, options=VIDEOS_ALONE, **LENIENT_METADATA)
    except av.ArgumentError as error:
        raise UnreadableVideo("it is damaged, or a playlist: the files that one names are not opened") from error
    except av.FFmpegError as error:
        reason = told(error, "it is of no format that FFmpeg knows, or damaged at its beginning")
        raise UnreadableVideo(f"it cannot be opened as a video: {reason}") from error


def told(error: av.FFmpegError, invalid: str) -> str:
    """Returns what FFmpeg says, or `invalid` where that is no more than that the data are invalid."""
    return invalid if isinstance(error, av.InvalidDataError) else error.strerror or invalid


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Returns the best video stream of a file, to be decoded in one thread; an `UnreadableVideo` says there is none."""
    stream = cast(av.VideoStream | None, container.streams.best("video"))
    if stream is None:
        raise UnreadableVideo("it has no video stream")
    if stream.codec_context is None:
        raise UnreadableVideo("there is no decoder for its video stream")
    # Processes are the parallelism; in a single one, threads save 12% of the decoding and a few percent of the whole.
    stream.codec_context.thread_count = 1
    return stream
