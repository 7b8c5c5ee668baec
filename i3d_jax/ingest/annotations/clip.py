"""What the dialects have in common: clips, each with the line that lists it, and the reading of text."""

from __future__ import annotations

import dataclasses
import difflib
import posixpath
from collections.abc import Iterable
from pathlib import Path

from i3d_jax.system.errors import UserError
from i3d_jax.system.files import instead, is_file, opened


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatedClip:
    """One annotated video, or one piece of a longer one.

    Attributes:
      name: unique in the dataset. `csv`: the path, and for a piece "PATH#t=START,END" (as W3C's Media Fragments write
        it); `kinetics`: ID_SSSSSS_EEEEEE; `ucf101` and `hmdb51`: CLASS/NAME.avi.
      path: of the file, relative to the videos folder.
      label: the action.
      split: where it is stored: "train" for example. A clip of several overlapping splits is stored once, in a split
        of its own, which their sorted names make up: "test02_train01_train03".
      start: seconds from the first frame; None for the start of the file.
      end: seconds from the first frame; None for the end of the file.
      splits: of a dataset whose splits overlap, those that list the clip; of any other, none.
    """

    name: str
    path: str
    label: str
    split: str
    start: float | None = None
    end: float | None = None
    splits: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Listed:
    """A clip, and for messages where it is listed."""

    where: str
    clip: AnnotatedClip

    def refuse_outside(self) -> None:
        """Refuses a path that leaves the videos folder; a symbolic link in it may point wherever its owner likes."""
        path = self.clip.path
        if posixpath.isabs(path) or posixpath.normpath(path).split("/")[0] in ("..", "."):
            raise UserError(f"{self.where}: a path of a file inside the videos folder was expected, found {path!r}")


def read_text(file: Path) -> str:
    """Reads a file of annotations, UTF-8 with or without a byte order mark; line ends are kept as they are.

    Raises:
      UserError: it is not there, may not be read, or is no text in UTF-8.
    """
    if not is_file(file):
        raise UserError(f"an annotations file was expected at {file}, found {instead(file)}")
    try:
        with opened(file) as found:
            text = found.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: text in UTF-8 was expected, found another encoding at byte {error.start}") from error
    if "\0" in text:
        raise UserError(f"{file}: text was expected, found a binary file")
    return text


def read_lines(file: Path) -> list[tuple[str, str]]:
    """Reads the lines that are not empty, as (where it stands, the line without blanks around it).

    Raises:
      UserError: as `read_text`, or there are none.
    """
    numbered = enumerate(read_text(file).splitlines(), 1)
    lines = [(f"{file}, line {number}", line.strip()) for number, line in numbered if line.strip()]
    if not lines:
        raise UserError(f"{file}: lines of text were expected, found none")
    return lines


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns that of `names` which is spelt most like `name`."""
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0)[0]
