"""The official CSV files of Kinetics-400, -600 and -700: `label,youtube_id,time_start,time_end,split`, maybe `is_cc`.

The test lists of the ActivityNet challenges come without labels (`youtube_id,time_start,time_end,split`) and are
refused. The clips are looked for under the names that the usual downloaders give them, in the folders that they make:

- ActivityNet's crawler and its descendants: LABEL/ID_SSSSSS_EEEEEE.mp4; MMAction2 puts that into videos_SPLIT/ and
  writes the label with underscores; torchvision into SPLIT/ and leaves out quotes and brackets, too.
- CVDF's archives: SPLIT/ID_SSSSSS_EEEEEE.mp4, which its arrange_by_classes.py links into videos/SPLIT/LABEL/. The
  1,392 files of Kinetics-400 that are damaged there have replacements in a folder of their own, which are preferred.
- youtube-dl and yt-dlp: ID.mp4, the whole video, of which the clip is cut. (A file that has been cut already but is
  named ID.mp4, as Showmax's downloader does it, cannot be told from a whole one: it has to be renamed.)
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Iterator
from pathlib import Path

from i3d_jax.ingest.annotations.clip import AnnotatedClip, Listed
from i3d_jax.ingest.annotations.table import read_rows
from i3d_jax.ingest.annotations.video_files import VideoFiles
from i3d_jax.ingest.published_counts import VALIDATION_NAMES
from i3d_jax.system.errors import UserError

COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
REPLACEMENTS = "replacement/replacement_for_corrupted_k400"


def read_kinetics(file: Path, video_files: VideoFiles) -> Iterator[Listed]:
    """Reads an official CSV file."""

    @functools.cache
    def existing_folders(label: str, split: str) -> list[str]:
        return [folder for folder in _folders(label, split) if video_files.names(folder)]

    for row in read_rows(file, COLUMNS[1:]):
        if "label" not in row.fields:
            raise UserError(
                f"{file}: the column label is missing, as in the test lists of the challenges: leave the file out,"
                " or take one that has the labels"
            )
        label, split = row.label_and_split()
        identifier = row.fields["youtube_id"]
        start, end = row.start_and_end("time_start", "time_end")
        if not identifier or start is None or end is None:
            raise UserError(f"{row.where}: youtube_id, time_start and time_end were expected, found an empty one")
        name = f"{identifier}_{int(start):06d}_{int(end):06d}"
        folders = existing_folders(label, split)
        path = video_files.find(name, folders)
        if path or not (whole := video_files.find(identifier, folders)):
            # The downloader has cut it, or it is not there.
            clip = AnnotatedClip(name=name, path=path or f"{name}.mp4", label=label, split=split)
        else:
            clip = AnnotatedClip(name=name, path=whole, label=label, split=split, start=start, end=end)
        yield Listed(row.where, clip)


def youtube_id(clip: AnnotatedClip) -> str:
    """Returns the YouTube identifier of a clip of Kinetics."""
    return clip.name.rsplit("_", 2)[0]


def _folders(label: str, split: str) -> list[str]:
    """Returns the folders in which the usual downloaders put a clip, relative to the videos folder."""
    names = sorted(VALIDATION_NAMES, key=split.__ne__) if split in VALIDATION_NAMES else [split]
    in_front = ["", *(front + name for name in names for front in ("", "videos_", "videos/"))]
    underscored = label.replace(" ", "_")
    labels = dict.fromkeys(("", label, underscored, underscored.translate(str.maketrans("", "", "'()"))))
    return [REPLACEMENTS, *(posixpath.join(front, folder) for front in in_front for folder in labels)]
