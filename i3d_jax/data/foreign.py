"""Datasets that other programs wrote, as far as they are alike: how they come to be a `Dataset` that the reader takes.

Their records are found by reading the header of each, once, and the first one tells how the frames were made.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from i3d_jax.data.dataset import Dataset, Split
from i3d_jax.data.preprocessing import Preprocessing, unknown
from i3d_jax.data.reader import DamagedRecord, read_record
from i3d_jax.records import image
from i3d_jax.records.layout import Layout
from i3d_jax.records.shards import RecordPlace, places, scan_lengths
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_file

# Where so many of the first records cannot be read, it is not for a few damaged ones.
_TRIED = 20

Shards = Mapping[str, Mapping[Path, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignDataset(Dataset):
    """A dataset that another program wrote.

    Attributes:
      shards: for each split its shards, and for each of these the bytes of every record, as `scan` gives them.
    """

    shards: Shards

    remedy = "what wrote them has to write the damaged shards again"
    without_flow = "whose records hold none"

    def _shards_of(self, part: str) -> list[Path]:
        return list(self.shards[part])

    def _records_of(self, part: str) -> list[RecordPlace]:
        return [place for path, lengths in self.shards[part].items() for place in places(path, lengths)]

    def image_table(self, shard: Path, streams: Collection[str]) -> None:
        """Implements `Dataset`: other programs write no index."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stated:
    """What the user says of the frames, where the records do not: fields of `Preprocessing`, None for nothing said."""

    frame_rate: float | None = None
    interpolation: str | None = None
    jpeg_quality: int | None = None


class FirstRecord(NamedTuple):
    """A record that stands for all of a dataset's: its bytes, where it stands, the shorter side of its first frame."""

    record: bytes
    place: RecordPlace
    short_side: int


def scan(paths: Mapping[str, Sequence[Path]], directory: Path) -> Shards:
    """Reads the headers of all records: for each split its shards, and for each of these the bytes of every record.

    Raises:
      UserError: a shard is missing.
    """
    missing = [path for shards in paths.values() for path in shards if not is_file(path)]
    if missing:
        total = sum(map(len, paths.values()))
        raise UserError(f"{directory} lacks {len(missing)} of its {total} shards, the first {missing[0].name}")
    return {split: {path: scan_lengths(path) for path in shards} for split, shards in paths.items()}


def all_places(shards: Shards) -> Iterable[RecordPlace]:
    """Yields where the records of all splits stand."""
    for split in shards.values():
        for path, lengths in split.items():
            yield from places(path, lengths)


def first_record(shards: Shards, layout: Layout, directory: Path) -> FirstRecord:
    """Returns the first record that can be read and has a frame.

    Raises:
      UserError: there is none among the first.
    """
    problems = []
    for place in itertools.islice(all_places(shards), _TRIED):
        try:
            record = read_record(place)
            frames = layout.find(record, ("rgb",)).images["rgb"]
            if not frames:
                raise ValueError(f"it has no frames ({layout.image_keys['rgb']})")
            return FirstRecord(record, place, min(image.size(layout.image(record, frames[0]))))
        except DamagedRecord as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if not problems:
        raise UserError(f"the shards in {directory} hold no records")
    raise UserError(f"none of the first {len(problems)} records of {directory} can be read: {problems[0]}")


def describe(
    *,
    directory: Path,
    name: str,
    labels: Sequence[str],
    shards: Shards,
    layout: Layout,
    first: FirstRecord,
    told: Mapping[str, Any],
    stated: Stated,
) -> ForeignDataset:
    """Makes a dataset of the shards that another program wrote.

    Args:
      directory: their folder.
      name: of the dataset; also of what is unknown of it.
      labels: the actions.
      shards: as `scan` gives them.
      layout: of the records.
      first: their first record.
      told: the fields of `Preprocessing` that it tells, other than the short side.
      stated: what the user says of them.

    Raises:
      UserError: the user and the record disagree, or what they say is out of range.
    """
    fields: dict[str, Any] = {}
    for field, value in dataclasses.asdict(stated).items():
        if value is not None and field in told and told[field] != value:
            raise UserError(f"data.stated.{field} is {value}, but {first.place} says {told[field]}")
        fields[field] = unknown(name) if value is None else value
    try:
        preprocessing = Preprocessing(short_side=first.short_side, **{**fields, **told})
    except UserError as error:
        raise UserError(f"{directory}, {first.place.path.name}: {error}") from error
    return ForeignDataset(
        directory=directory,
        name=name,
        labels=tuple(labels),
        splits={
            split: Split(videos=sum(map(len, files.values())), frames=None, shards=len(files), skipped=0)
            for split, files in shards.items()
        },
        preprocessing=preprocessing,
        shards=shards,
        layout=layout,
    )
