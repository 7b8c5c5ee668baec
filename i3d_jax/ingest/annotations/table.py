"""CSV files with a header, and the dialect that is this project's own.

`csv` has the columns `video,label,split` and, where clips are cut from longer files, `start,end` in seconds. Columns of
other names are ignored.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from i3d_jax.data.labels import spelt
from i3d_jax.ingest.annotations.clip import AnnotatedClip, Listed, read_text
from i3d_jax.ingest.annotations.video_files import VideoFiles
from i3d_jax.system.errors import UserError

COLUMNS = ("video", "label", "split")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of an annotations file: where it stands, for messages, and its fields by column."""

    where: str
    fields: dict[str, str]

    def label_and_split(self) -> tuple[str, str]:
        """Returns the two; a `UserError` says which is missing, or that the split cannot be part of a file's name."""
        label, split = spelt(self.fields["label"]), self.fields["split"]
        if not label:
            raise UserError(f"{self.where}: a label was expected, found none")
        if not split:
            raise UserError(f"{self.where}: a split was expected, found none")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
            raise UserError(f"{self.where}: a split is named with letters, digits, '_' and '-', found {split!r}")
        return label, split

    def start_and_end(self, start_column: str, end_column: str) -> tuple[float | None, float | None]:
        """Returns the seconds in two columns, None for an empty or absent one."""
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


def read_rows(file: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """Yields the rows with their fields stripped of blanks around them; the header must have `columns`."""
    reader = csv.reader(io.StringIO(read_text(file), newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [column for column in columns if column not in header]
        if missing:
            # A quotation mark that is left open makes one name of many lines.
            found = textwrap.shorten(", ".join(header), 200) or "none"
            raise UserError(
                f"{file}: the columns {', '.join(columns)} were expected, {', '.join(missing)} missing, found {found}"
            )
        found_any = False
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            where = f"{file}, line {reader.line_num}"
            if len(values) > len(header):
                raise UserError(
                    f"{where}: {len(header)} fields were expected, found {len(values)} (quote a field that has a comma)"
                )
            values += [""] * (len(header) - len(values))
            found_any = True
            yield Row(where, dict(zip(header, map(str.strip, values), strict=True)))
        if not found_any:
            raise UserError(f"{file}: a row for each video was expected, found none")
    except csv.Error as error:
        raise UserError(
            f"{file}, line {reader.line_num}: a row of CSV was expected, found an error: {error}"
        ) from error


def read_csv(file: Path, video_files: VideoFiles) -> Iterator[Listed]:
    """Reads a file of this project's own dialect; where the files lie is what it says, in any case and Unicode form."""
    for row in read_rows(file, COLUMNS):
        label, split = row.label_and_split()
        name = row.fields["video"]
        if not name:
            raise UserError(f"{row.where}: the path of a video was expected, found none")
        path = video_files.alike(name, row.where) or name
        start, end = row.start_and_end("start", "end")
        piece = "" if start is None and end is None else f"#t={_number(start)},{_number(end)}".rstrip(",")
        yield Listed(
            row.where, AnnotatedClip(name=name + piece, path=path, label=label, split=split, start=start, end=end)
        )


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.15g}"
