"""The split files of HMDB-51: one for each class and split, `brush_hair_test_split1.txt`, which says the label.

A line is the name of a video and a mark: 1 for training, 2 for testing, 0 for neither. The splits are named `train01`,
`test01` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from i3d_jax.data.labels import spelt
from i3d_jax.ingest.annotations.clip import Listed, read_lines
from i3d_jax.ingest.annotations.ucf101 import found_clip
from i3d_jax.ingest.annotations.video_files import VideoFiles
from i3d_jax.system.errors import UserError

SPLIT_FILES = r"(.+)_test_split(\d)\.txt"
SPLITS_OF_MARKS = {"0": None, "1": "train", "2": "test"}


def read_hmdb51(file: Path, video_files: VideoFiles) -> Iterator[Listed]:
    """Reads a split file."""
    lines = read_lines(file)
    named = re.fullmatch(SPLIT_FILES, file.name)
    if not named:
        raise UserError(f"{file}: a name like brush_hair_test_split1.txt was expected, which says class and split")
    label, number = spelt(named[1]), named[2]
    for where, line in lines:
        # Names of videos may have blanks in them.
        file_name, mark = [*line.rsplit(maxsplit=1), ""][:2]
        if mark not in SPLITS_OF_MARKS:
            raise UserError(f"{where}: the name of a video and a mark of 0, 1 or 2 were expected, found {line!r}")
        if split := SPLITS_OF_MARKS[mark]:
            yield Listed(where, found_clip(label, file_name, f"{split}0{number}", video_files, where))
