"""A list of classes, one a line: which of the annotated clips are wanted, and in which order the labels are numbered.

Blank lines and lines that begin with `#` are skipped. A class may be written with underscores for blanks, as
downloaders name folders; the label stays as the annotations spell it. For Kinetics a line may be a YouTube identifier
instead, as in the published lists of Mini-Kinetics-200: those clips alone are wanted.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence

from i3d_jax.data.labels import spelt
from i3d_jax.ingest.annotations.clip import AnnotatedClip, Listed, nearest, read_lines
from i3d_jax.ingest.annotations.kinetics import youtube_id
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import path


@dataclasses.dataclass(frozen=True)
class ClassList:
    """The lines of one or several files, in their order: where each stands, by what it says.

    Its keys are spelt with blanks for underscores.
    """

    where: Mapping[str, str]

    @classmethod
    def read(cls, files: Iterable[str | os.PathLike]) -> ClassList:
        """Reads the files; a `UserError` says that one cannot be read or has nothing, or what is listed twice."""
        where: dict[str, str] = {}
        for file in map(path, files):
            lines = [(place, _spelt(line)) for place, line in read_lines(file) if not line.startswith("#")]
            if not lines:
                raise UserError(f"{file}: a class on each line was expected, found none")
            for place, entry in lines:
                if entry in where:
                    raise UserError(f"{place}: {entry!r} is listed twice, first in {where[entry]}")
                where[entry] = place
        return cls(where)

    def wanted(self, listed: Sequence[Listed], *, subset: bool) -> list[Listed]:
        """Returns the clips of the listed classes (or, of a subset, with the listed YouTube identifiers).

        Args:
          listed: every annotated clip.
          subset: whether clips of other classes are left out; otherwise they are a mistake.

        Raises:
          UserError: a label is not in the list, or the list has a class that no clip has; the nearest is named.
        """
        labels = {_spelt(one.clip.label): one.clip.label for one in listed}
        if subset and not self.where.keys() & labels.keys():
            return self._with_identifiers(listed)
        if not subset:
            self._refuse_others(listed)
        for entry, place in self.where.items():
            if entry not in labels:
                raise UserError(
                    f"{place}: no clip shows the class {entry!r}; the nearest label is"
                    f" {nearest(entry, labels.values())!r}"
                )
        return [one for one in listed if _spelt(one.clip.label) in self.where]

    def order(self, clips: Iterable[AnnotatedClip]) -> list[str]:
        """Returns the labels of clips in the order of the list; alphabetically if it lists YouTube identifiers."""
        position = {entry: number for number, entry in enumerate(self.where)}
        labels = sorted({clip.label for clip in clips})
        return sorted(labels, key=lambda label: position.get(_spelt(label), 0))

    def _with_identifiers(self, listed: Sequence[Listed]) -> list[Listed]:
        chosen = [one for one in listed if _spelt(youtube_id(one.clip)) in self.where]
        if not chosen:
            entry, place = next(iter(self.where.items()))
            label = nearest(entry, {one.clip.label for one in listed})
            raise UserError(
                f"{place}: a class or a YouTube identifier of the annotations was expected, found {entry!r} (and none"
                f" on any other line); the nearest class is {label!r}"
            )
        return chosen

    def _refuse_others(self, listed: Sequence[Listed]) -> None:
        for one in listed:
            label = one.clip.label
            if _spelt(label) not in self.where:
                raise UserError(
                    f"{one.where}: the label {label!r} is not in the list of classes; the nearest class is"
                    f" {nearest(_spelt(label), self.where)!r}"
                )


def _spelt(name: str) -> str:
    return spelt(name).replace("_", " ")
