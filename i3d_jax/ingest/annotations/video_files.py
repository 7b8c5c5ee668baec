"""Which video files there are, and under which of several names one of them is found."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from i3d_jax.system import files
from i3d_jax.system.errors import UserError

_USUAL = (".mp4", ".mkv", ".webm", ".avi", ".mov")
# Cameras write them in capitals.
EXTENSIONS = (*_USUAL, *map(str.upper, _USUAL))


class VideoFiles:
    """The files in the videos folder; each folder is listed once, however often it is asked: Kinetics has 650,000."""

    def __init__(self, videos: Path):
        self._videos = videos
        self._names: dict[str, frozenset[str]] = {}
        self._by_caseless: dict[str, dict[str, list[str]]] = {}

    def names(self, folder: str) -> frozenset[str]:
        """Returns the names in a folder, relative to the videos folder; none where there is no such folder.

        Raises:
          UserError: it may not be read: its videos are not to be called missing.
        """
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(files.names(self._videos / folder))
            except PermissionError as error:
                raise UserError(
                    f"the folder of videos {self._videos / folder} cannot be read: {error.strerror}"
                ) from error
            # It is not there, no folder, its name is longer than a name can be, or of letters that none can have here.
            except (OSError, ValueError):
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

    def alike(self, path: str, where: str) -> str | None:
        """Returns the path of the one file whose names differ from those of `path` in case or Unicode form alone.

        Another Unicode form is nearer than another case, and the same name is nearest.

        Args:
          path: relative to the videos folder.
          where: it is listed, for the message.

        Returns:
          The path; None where there is no such file.

        Raises:
          UserError: there are several, which are named.
        """
        found = ""
        for name in posixpath.normpath(path).split("/"):
            nearest = self._nearest(found, name)
            if len(nearest) > 1:
                names = " and ".join(sorted(nearest))
                raise UserError(
                    f"{where}: there is no {path}, but {names} in {self._videos / found}, which differ from it in case"
                    " or Unicode form alone: one was expected"
                )
            if not nearest:
                return None
            found = posixpath.join(found, nearest[0])
        return path if found == posixpath.normpath(path) else found

    def _nearest(self, folder: str, name: str) -> list[str]:
        """Returns the names in a folder that are nearest to a name: several where they are equally near."""
        if name in self.names(folder):
            return [name]
        if folder not in self._by_caseless:
            names = self._by_caseless[folder] = {}
            for one in self.names(folder):
                names.setdefault(_caseless(one), []).append(one)
        there = self._by_caseless[folder].get(_caseless(name), [])
        same = [one for one in there if _composed(one) == _composed(name)]
        return same or there


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _caseless(name: str) -> str:
    """Returns what names have in common that differ in case or Unicode form alone (Unicode 15, D145)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
