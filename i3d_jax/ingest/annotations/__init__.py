"""Which actions the videos show: annotation files of several dialects to a list of clips.

`csv` is this project's own (`table`), `kinetics`, `ucf101` and `hmdb51` are those datasets' published files.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from i3d_jax.data.labels import check_labels
from i3d_jax.ingest.annotations.classes import ClassList
from i3d_jax.ingest.annotations.clip import AnnotatedClip, Listed
from i3d_jax.ingest.annotations.hmdb51 import SPLIT_FILES, read_hmdb51
from i3d_jax.ingest.annotations.kinetics import read_kinetics
from i3d_jax.ingest.annotations.table import read_csv
from i3d_jax.ingest.annotations.ucf101 import LISTS, read_ucf101
from i3d_jax.ingest.annotations.video_files import VideoFiles
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import entries, instead, is_folder, path

__all__ = ["DIALECTS", "AnnotatedClip", "ClassList", "combined_splits", "read"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dialect:
    """A way to write annotations.

    Attributes:
      read: yields the clips of a file.
      files: what the files are named, a regular expression, and an example; a folder of them may be given instead.
      overlap: whether a clip may be in several splits.
      subset: whether a list of classes leaves the clips of others out; otherwise they are a mistake.
    """

    read: Callable[[Path, VideoFiles], Iterator[Listed]]
    files: tuple[str, str] | None = None
    overlap: bool = False
    subset: bool = False


DIALECTS = {
    "csv": Dialect(read=read_csv),
    "kinetics": Dialect(read=read_kinetics, subset=True),
    "ucf101": Dialect(read=read_ucf101, files=(LISTS, "trainlist01.txt"), overlap=True),
    "hmdb51": Dialect(read=read_hmdb51, files=(SPLIT_FILES, "brush_hair_test_split1.txt"), overlap=True),
}


def read(
    dialect: str,
    files: str | os.PathLike | Sequence[str | os.PathLike],
    videos: str | os.PathLike,
    classes: ClassList | None = None,
) -> list[AnnotatedClip]:
    """Reads annotations.

    Args:
      dialect: one of `DIALECTS`.
      files: one file or several, UTF-8 with or without a byte order mark; for `ucf101` and `hmdb51` also the folder
        that holds them.
      videos: the folder of the video files. A file that is not there is no error here: its clip is skipped later. One
        whose name differs in case or Unicode form alone is found, but for Kinetics, where case tells videos apart.
      classes: those that are wanted; None for all.

    Returns:
      The clips in the order of the rows; one that several splits list stands where it is listed first.

    Raises:
      UserError: a file or the folder is not there, a file is not UTF-8 text, a column is missing, there are no rows,
        or a row is wrong (an empty label, one that `classes` lacks, a split that cannot be a file name, a path outside
        the folder, a time that is no number, a start after the end, a video listed twice, a class's number or a mark
        that does not fit, several files whose names differ from the one listed in case alone); it names the file and
        the line. Or `classes` has one that no clip has, or two labels look the same.
    """
    if dialect not in DIALECTS:
        raise UserError(f"the dialect of the annotations must be one of {', '.join(DIALECTS)}, found {dialect!r}")
    chosen, videos = DIALECTS[dialect], path(videos)
    given = [files] if isinstance(files, str | os.PathLike) else files
    paths = [file for one in given for file in _files(path(one), chosen.files)]
    if not is_folder(videos):
        raise UserError(f"a folder of videos was expected at {videos}, found {instead(videos)}")
    video_files = VideoFiles(videos)
    listed = [one for file in paths for one in chosen.read(file, video_files)]
    if not listed:
        raise UserError(f"{paths[0]}: at least one video of a split was expected, found none")
    if classes is not None:
        listed = classes.wanted(listed, subset=chosen.subset)
    check_labels(sorted({one.clip.label for one in listed}))
    return _different(listed, overlap=chosen.overlap)


def combined_splits(clips: Iterable[AnnotatedClip]) -> dict[str, list[str]]:
    """Returns, for each split of a dataset whose splits overlap, the stored splits that make it up; else nothing."""
    pairs = sorted({(split, clip.split) for clip in clips for split in clip.splits})
    return {split: [stored for one, stored in pairs if one == split] for split, _ in pairs}


def _files(path: Path, named: tuple[str, str] | None) -> list[Path]:
    """Returns the files of one argument: itself, or where folders may be given those of the dialect in it."""
    if named is None or not is_folder(path):
        return [path]
    pattern, example = named
    files = [file for file in entries(path) if re.fullmatch(pattern, file.name)]
    if not files:
        raise UserError(f"files named like {example} were expected in the folder {path}, found none")
    return files


def _different(listed: Iterable[Listed], *, overlap: bool) -> list[AnnotatedClip]:
    """Returns the clips, one that several splits list once; refuses any other repetition."""
    seen: dict[tuple, list[Listed]] = {}
    for one in listed:
        one.refuse_outside()
        clip = one.clip
        repeated = seen.setdefault((posixpath.normpath(clip.path), clip.start, clip.end), [])
        for other in repeated:
            _refuse_repetition(one, other, overlap=overlap)
        repeated.append(one)
    return [_merged([one.clip for one in repeated]) for repeated in seen.values()]


def _refuse_repetition(one: Listed, other: Listed, *, overlap: bool) -> None:
    clip, first = one.clip, other.clip
    if overlap and clip.name != first.name:
        raise UserError(
            f"{one.where}: {clip.name} is found at {clip.path}, and so is {first.name} of {other.where}:"
            " put the videos into folders of their classes"
        )
    if overlap and clip.split[-2:] != first.split[-2:]:
        return
    difference = next(
        (
            f" with the {what} {theirs!r}, here {ours!r}"
            for what, theirs, ours in (
                ("label", first.label, clip.label),
                ("split", first.split, clip.split),
                ("name", first.name, clip.name),
            )
            if theirs != ours
        ),
        "",
    )
    raise UserError(f"{one.where}: {clip.name} is listed twice, first in {other.where}{difference}")


def _merged(clips: Sequence[AnnotatedClip]) -> AnnotatedClip:
    if len(clips) == 1:
        return clips[0]
    splits = tuple(sorted(clip.split for clip in clips))
    return dataclasses.replace(clips[0], split="_".join(splits), splits=splits)
