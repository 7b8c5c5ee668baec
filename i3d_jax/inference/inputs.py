"""Which videos a command line names: files, folders of them, patterns, or a list on standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator

from i3d_jax.system import files
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_folder

STANDARD_INPUT = "-"
# What is taken from a folder; a file that is named may be called anything.
SUFFIXES = frozenset(
    f".{name}"
    for name in "mp4 m4v mov mkv webm avi mpg mpeg ts mts m2ts wmv flv 3gp ogv gif".split()  # noqa: SIM905
)
HELP = (
    "a video file of any format that FFmpeg reads, a folder (all videos below it), a pattern in quotes ('*.mp4'), or "
    "- for a list of them on standard input, one on a line"
)


def video_paths(arguments: Iterable[str]) -> list[str]:
    """Returns the paths of the videos that are named, in order.

    Args:
      arguments: files, folders, patterns, `STANDARD_INPUT`. A file need not be there.

    Raises:
      UserError: a folder holds no video, a pattern matches nothing, or there is none at all.
    """
    found = [path for argument in arguments for path in _paths(argument)]
    if not found:
        raise UserError("a video was expected, found none on standard input")
    return found


def _paths(argument: str) -> Iterator[str]:
    if argument == STANDARD_INPUT:
        for line in sys.stdin:
            if name := line.rstrip("\r\n"):
                yield from _named(name)
    else:
        yield from _named(argument)


def _named(name: str) -> list[str]:
    if is_folder(name):
        videos = sorted(str(path) for path in files.path(name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not videos:
            raise UserError(f"the folder {name} holds no video: files of {', '.join(sorted(SUFFIXES))} were expected")
        return videos
    in_bucket = files.is_in_bucket(name)
    if glob.has_magic(name) and not (files.is_file(name) if in_bucket else os.path.lexists(name)):
        matching = files.matching(name) if in_bucket else glob.glob(name, recursive=True)
        videos = sorted(path for path in matching if in_bucket or os.path.isfile(path))
        if not videos:
            raise UserError(f"no file matches {name!r}")
        return videos
    return [name]
