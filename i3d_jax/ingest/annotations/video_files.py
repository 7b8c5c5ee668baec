"""Which video files there are, and under which of several names one of them is found."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from pathlib import Path

EXTENSIONS = (".mp4", ".mkv", ".webm", ".avi", ".mov")


class VideoFiles:
    """The files in the videos folder; each folder is listed once, however often it is asked: Kinetics has 650,000."""

    def __init__(self, videos: Path):
        self._videos = videos
        self._names: dict[str, frozenset[str]] = {}

    def names(self, folder: str) -> frozenset[str]:
        """Returns the names in a folder, relative to the videos folder; none where there is no such folder."""
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(self._videos / folder))
            except OSError:  # It is not there, no folder, or its name is longer than a name can be.
                self._names[folder] = frozenset()
        return self._names[folder]

    def find(self, stem: str, folders: Iterable[str], extensions: Iterable[str] = EXTENSIONS) -> str | None:
        """Returns the path of the first file of this name, relative to the videos folder; None where there is none."""
        for folder in folders:
            names = self.names(folder)
            for extension in extensions:
                if stem + extension in names:
                    return posixpath.join(folder, stem + extension)
        return None
