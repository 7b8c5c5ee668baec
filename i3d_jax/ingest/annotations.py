"""Which actions the videos show: annotation files of two dialects to a list of clips.

`csv` is this project's own: a header `video,label,split` and, where clips are cut from longer files, `start,end` in
seconds. `kinetics` is the official CSV, `label,youtube_id,time_start,time_end,split`; the files are looked for under
the names that the usual downloaders give them. Columns of other names are ignored.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import math
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from i3d_jax.errors import UserError

DIALECTS = ("csv", "kinetics")
CSV_COLUMNS = ("video", "label", "split")
KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
EXTENSIONS = ("mp4", "mkv", "webm", "avi", "mov")
# The official CSVs of Kinetics-600 and -700 say "validate" where the folders of the published archives are named "val".
FOLDERS_OF_SPLIT = {"validate": ("validate", "val"), "val": ("val", "validate")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One annotated video, or one piece of a longer one.

    Attributes:
      name: unique in the dataset. `csv`: the path, and for a piece "PATH#t=START,END" (as W3C's Media Fragments write
        it); `kinetics`: ID_SSSSSS_EEEEEE.
      path: of the file, relative to the videos folder.
      label: the action.
      split: "train" for example.
      start: seconds from the first frame; None for the start of the file.
      end: seconds from the first frame; None for the end of the file.
    """

    name: str
    path: str
    label: str
    split: str
    start: float | None = None
    end: float | None = None


@dataclasses.dataclass(frozen=True)
class _Row:
    """One row of an annotations file: where it stands, for messages, and its fields by column."""

    where: str
    fields: dict[str, str]

    def label_and_split(self) -> tuple[str, str]:
        label, split = self.fields["label"], self.fields["split"]
        if not label:
            raise UserError(f"{self.where}: a label was expected, found none")
        if not split:
            raise UserError(f"{self.where}: a split was expected, found none")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
            raise UserError(f"{self.where}: a split is named with letters, digits, '_' and '-', found {split!r}")
        return label, split

    def start_and_end(self, start_column: str, end_column: str) -> tuple[float | None, float | None]:
        start, end = self._seconds(start_column), self._seconds(end_column)
        if end is not None and (start or 0.0) >= end:
            raise UserError(f"{self.where}: the start must come before the end, found {start or 0:g} and {end:g}")
        return start, end

    def _seconds(self, column: str) -> float | None:
        text = self.fields.get(column, "")
        if not text:
            return None
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise UserError(f"{self.where}: {column} must be a number of seconds, 0 or more, found {text!r}")
        return seconds

    def refuse_outside(self, path: str) -> None:
        """Refuses a path that leaves the videos folder; a symbolic link in it may point wherever its owner likes."""
        if posixpath.isabs(path) or posixpath.normpath(path).split("/")[0] in ("..", "."):
            raise UserError(f"{self.where}: a path of a file inside the videos folder was expected, found {path!r}")


def read(dialect: str, file: str | os.PathLike, videos: str | os.PathLike) -> list[Clip]:
    """Reads an annotations file.

    Args:
      dialect: "csv" or "kinetics".
      file: the annotations, UTF-8 with or without a byte order mark.
      videos: the folder of the video files. A file that is not there is no error here: its clip is skipped later.

    Returns:
      The clips in the order of the rows.

    Raises:
      UserError: the file or the folder is not there, the file is not UTF-8 CSV, a column is missing, there are no rows,
        or a row is wrong (an empty label, a split that cannot be a file name, a path outside the folder, a time that is
        no number, a start after the end, a video listed twice); it names the file and the line.
    """
    if dialect not in DIALECTS:
        raise UserError(f"the dialect of the annotations must be one of {', '.join(DIALECTS)}, found {dialect!r}")
    file, videos = Path(file), Path(videos)
    if not file.is_file():
        raise UserError(
            f"an annotations file was expected at {file}, found {'a folder' if file.is_dir() else 'nothing'}"
        )
    if not videos.is_dir():
        raise UserError(
            f"a folder of videos was expected at {videos}, found {'a file' if videos.exists() else 'nothing'}"
        )
    if dialect == "csv":
        columns, clip_of = CSV_COLUMNS, _csv_clip
    else:
        columns, clip_of = KINETICS_COLUMNS, functools.partial(_kinetics_clip, file_names=_listing(videos))
    clips = []
    seen: dict[tuple, str] = {}
    for row in _rows(file, columns):
        clip = clip_of(row)
        row.refuse_outside(clip.path)
        piece = (posixpath.normpath(clip.path), clip.start, clip.end)
        if piece in seen:
            raise UserError(f"{row.where}: {clip.name} is listed twice, first in {seen[piece]}")
        seen[piece] = row.where
        clips.append(clip)
    if not clips:
        raise UserError(f"{file}: a row for each video was expected, found none")
    return clips


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[_Row]:
    """Yields the rows with their fields stripped of blanks around them; the header must have `columns`."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: text in UTF-8 was expected, found another encoding at byte {error.start}") from error
    if "\0" in text:
        raise UserError(f"{file}: a CSV file was expected, found a binary file")
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [column for column in columns if column not in header]
        if missing:
            found = ", ".join(header) or "none"
            raise UserError(
                f"{file}: the columns {', '.join(columns)} were expected, {', '.join(missing)} missing, found {found}"
            )
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            where = f"{file}, line {reader.line_num}"
            if len(values) > len(header):
                raise UserError(
                    f"{where}: {len(header)} fields were expected, found {len(values)} (quote a field that has a comma)"
                )
            values += [""] * (len(header) - len(values))
            yield _Row(where, dict(zip(header, map(str.strip, values), strict=True)))
    except csv.Error as error:
        raise UserError(
            f"{file}, line {reader.line_num}: a row of CSV was expected, found an error: {error}"
        ) from error


def _csv_clip(row: _Row) -> Clip:
    label, split = row.label_and_split()
    path = row.fields["video"]
    if not path:
        raise UserError(f"{row.where}: the path of a video was expected, found none")
    start, end = row.start_and_end("start", "end")
    piece = "" if start is None and end is None else f"#t={_number(start)},{_number(end)}".rstrip(",")
    return Clip(name=path + piece, path=path, label=label, split=split, start=start, end=end)


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.15g}"


def _kinetics_clip(row: _Row, file_names: Callable[[str], frozenset[str]]) -> Clip:
    label, split = row.label_and_split()
    identifier = row.fields["youtube_id"]
    start, end = row.start_and_end("time_start", "time_end")
    if not identifier or start is None or end is None:
        raise UserError(f"{row.where}: youtube_id, time_start and time_end were expected, found an empty one")
    name = f"{identifier}_{int(start):06d}_{int(end):06d}"
    folders = _folders(label, split)
    path = _find(name, folders, file_names)
    if path:  # The downloader has cut it.
        return Clip(name=name, path=path, label=label, split=split)
    path = _find(identifier, folders, file_names)
    if path:
        return Clip(name=name, path=path, label=label, split=split, start=start, end=end)
    return Clip(name=name, path=f"{name}.mp4", label=label, split=split)


def _folders(label: str, split: str) -> list[str]:
    """Returns the folders in which the usual downloaders put a clip, relative to the videos folder."""
    in_front = ["", *(folder for folder in FOLDERS_OF_SPLIT.get(split, (split,)))]
    return [posixpath.join(front, folder) for front in in_front for folder in ("", label, label.replace(" ", "_"))]


def _find(stem: str, folders: list[str], file_names: Callable[[str], frozenset[str]]) -> str | None:
    """Returns the path of the first video file of this name; None where there is none."""
    for folder in folders:
        for extension in EXTENSIONS:
            name = f"{stem}.{extension}"
            if name in file_names(folder):
                return posixpath.join(folder, name)
    return None


def _listing(videos: Path) -> Callable[[str], frozenset[str]]:
    """Returns a function that lists a folder in `videos` once, however often it is asked: Kinetics has 650,000 rows."""

    @functools.cache
    def file_names(folder: str) -> frozenset[str]:
        try:
            return frozenset(os.listdir(videos / folder))
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()

    return file_names
