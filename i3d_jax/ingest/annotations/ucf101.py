"""The lists of UCF-101: `trainlist01.txt`, `testlist01.txt` and so on for its three splits.

A line is `CLASS/NAME.avi`, in training lists followed by the number of the class. The folder is the label;
`classInd.txt` (`1 ApplyEyeMakeup`), where it lies beside the list, has to agree with it and with the number. The split
is named after the list: `train01`, `test01`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from i3d_jax.data.labels import spelt
from i3d_jax.ingest.annotations.clip import AnnotatedClip, Listed, nearest, read_lines
from i3d_jax.ingest.annotations.video_files import EXTENSIONS, VideoFiles
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_file

LISTS = r"(train|test)list(\d\d)\.txt"
CLASSES = "classInd.txt"


def read_ucf101(file: Path, video_files: VideoFiles) -> Iterator[Listed]:
    """Reads a list."""
    lines = read_lines(file)
    named = re.fullmatch(LISTS, file.name)
    if not named:
        raise UserError(f"{file}: a name like trainlist01.txt or testlist01.txt was expected, which says the split")
    split = "".join(named.groups())
    classes = _read_classes(file.with_name(CLASSES))
    for where, line in lines:
        parts = re.fullmatch(r"([^/]+)/(.+\.\w+?)(?:\s+(\d+))?", line)
        if not parts:
            raise UserError(f"{where}: CLASS/NAME.avi, perhaps with the class's number, was expected, found {line!r}")
        folder, file_name, number = parts.groups()
        label = spelt(folder)
        if classes and label not in classes.values():
            raise UserError(
                f"{where}: {CLASSES} has no class {label!r}; the nearest is {nearest(label, classes.values())!r}"
            )
        if classes and number and (named_so := classes.get(int(number))) != label:
            meant = "no class" if named_so is None else repr(named_so)
            raise UserError(f"{where}: number {number} is {meant} in {CLASSES}, the video is in the folder {label!r}")
        yield Listed(where, found_clip(label, file_name, split, video_files, where))


def found_clip(label: str, file_name: str, split: str, video_files: VideoFiles, where: str) -> AnnotatedClip:
    """Returns the clip, its file in the folder of the class or else at the top, in any container and any case."""
    stem, extension = posixpath.splitext(file_name)
    extensions = dict.fromkeys((extension, *EXTENSIONS))
    name = f"{label}/{file_name}"
    # Lists and archives do not agree in case: UCF-101 has HandstandPushups/v_HandStandPushups_g08_c01.avi.
    spellings = (posixpath.join(folder, stem + one) for folder in (label, "") for one in extensions)
    path = video_files.find(stem, (label, ""), extensions)
    path = path or next(filter(None, (video_files.alike(one, where) for one in spellings)), name)
    return AnnotatedClip(name=name, path=path, label=label, split=split, splits=(split,))


def _read_classes(file: Path) -> dict[int, str]:
    """Reads the classes by their number; none where there is no such file."""
    classes: dict[int, str] = {}
    for where, line in read_lines(file) if is_file(file) else ():
        parts = re.fullmatch(r"(\d+)\s+(\S.*)", line)
        if not parts:
            raise UserError(f"{where}: a number and the name of a class were expected, found {line!r}")
        number, label = int(parts[1]), spelt(parts[2])
        if number in classes or label in classes.values():
            raise UserError(f"{where}: class {number} {label!r} is listed twice")
        classes[number] = label
    return classes
