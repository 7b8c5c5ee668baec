"""A dataset folder: TFRecord shards and the `dataset.json` that describes them."""

from __future__ import annotations

import dataclasses
import os
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.records.layout import Layout, MediaSequence
from i3d_jax.records.shards import RecordPlace, ShardIndex, index_path, places, scan_lengths, shard_name
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import entries, instead, is_file, is_folder, read_object, written_whole
from i3d_jax.system.terminal import json_text

FORMAT_VERSION = 1
DESCRIPTION = "dataset.json"
# Stands in its place until all shards do.
UNFINISHED = "unfinished.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """How much a split holds: videos written, frames of all of them, shards, and videos skipped.

    The frames are None where nobody has counted them: in what another program wrote.
    """

    videos: int
    frames: int | None
    shards: int
    skipped: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset whose description has been read and whose shards are all there.

    Attributes:
      directory: its folder.
      name: of the dataset.
      labels: the actions; a record's label index counts from 0 in them.
      splits: by name. A video of several overlapping splits (train01, test02 and train03 of UCF-101) is stored once,
        in a split of its own (test02_train01_train03); `combined` puts such splits together.
      preprocessing: how the stored frames were made.
      combined: by name, the splits of `splits` whose videos make it up, such as train01.
      layout: where its records keep what a clip needs.
    """

    directory: Path
    name: str
    labels: tuple[str, ...]
    splits: Mapping[str, Split]
    preprocessing: Preprocessing
    combined: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    layout: Layout = dataclasses.field(default_factory=MediaSequence)

    # Why one without flow has none.
    without_flow: ClassVar[str] = "which was prepared without flow: add it with prepare --flow tvl1 --flow_only"

    @property
    def split_names(self) -> tuple[str, ...]:
        """The names under which videos can be asked for: the combined splits, then those that are stored."""
        return (*self.combined, *(split for split in self.splits if split not in self.combined))

    def parts(self, split: str) -> tuple[str, ...]:
        """Returns the stored splits that make up a split.

        Raises:
          UserError: there is no such split; those there are are named.
        """
        if split not in self.split_names:
            raise UserError(f"{self.directory} has no split {split!r}; it has {', '.join(self.split_names) or 'none'}")
        return self.combined.get(split, (split,))

    def videos(self, split: str) -> int:
        """Returns how many videos a split holds."""
        return sum(self.splits[part].videos for part in self.parts(split))

    def shard_paths(self, split: str) -> list[Path]:
        """Returns the paths of a split's shards, in order."""
        return [path for part in self.parts(split) for path in self._shards_of(part)]

    def _shards_of(self, part: str) -> list[Path]:
        shards = self.splits[part].shards
        return [self.directory / shard_name(part, shard, shards) for shard in range(shards)]

    def records(self, split: str) -> list[RecordPlace]:
        """Returns where every record of a split stands, shard by shard in the order of the file."""
        return [place for path in self.shard_paths(split) for place in places(path, self._record_lengths(path))]

    def _record_lengths(self, path: Path) -> Iterable[int]:
        """The bytes of each record of a shard: as its index tells them, where there is one, else the record headers."""
        index = ShardIndex.read(index_path(path))
        return scan_lengths(path) if index is None else index.lengths


def write_description(
    directory: str | os.PathLike,
    *,
    name: str,
    labels: Sequence[str],
    splits: Mapping[str, Split],
    preprocessing: Preprocessing,
    combined: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Writes `dataset.json` whole; it comes last, when all shards stand, since it makes the folder a dataset."""
    description = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "labels": list(labels),
        "splits": {split: dataclasses.asdict(size) for split, size in splits.items()},
        "preprocessing": preprocessing.to_json(),
    }
    if combined:
        description["combined"] = {split: list(parts) for split, parts in combined.items()}
    with written_whole(Path(directory, DESCRIPTION)) as file:
        file.write(json_text(description, indent=2).encode() + b"\n")


def open_dataset(directory: str | os.PathLike) -> Dataset:
    """Reads the description of a dataset folder.

    Raises:
      UserError: there is no such folder, it is not a dataset, its description cannot be read or is of another format
        version, or shards are missing.
    """
    directory = Path(directory)
    if not is_folder(directory):
        raise UserError(f"a dataset folder was expected at {directory}, found {instead(directory)}")
    path = directory / DESCRIPTION
    if not is_file(path):
        if is_file(directory / UNFINISHED):
            raise UserError(f"{directory} is a dataset that is not finished: start the same `prepare` command again")
        raise UserError(f"{directory} is not a dataset folder: it has no {DESCRIPTION}")
    description = read_object(path)
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format version {FORMAT_VERSION} was expected, found {version!r}")
    dataset = _from_description(description, path)
    _refuse_missing_shards(dataset)
    return dataset


def _from_description(description: dict[str, Any], path: Path) -> Dataset:
    kinds = {"name": str, "labels": list, "splits": dict, "preprocessing": dict}
    missing = [key for key in kinds if key not in description]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}")
    for key, kind in kinds.items():
        if not isinstance(description[key], kind):
            found = reprlib.repr(description[key])
            raise UserError(f"{path}: {key!r} was expected to be a {kind.__name__}, found {found}")
    for label in description["labels"]:
        if not isinstance(label, str) or not _is_text(label):
            raise UserError(f"{path}: 'labels' was expected to hold texts, found {reprlib.repr(label)}")
    for split in description["splits"]:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
            raise UserError(f"{path}: a split is named with letters, digits, '_' and '-', found {reprlib.repr(split)}")
    splits = {split: _split(size, f"{path}: split {split!r}") for split, size in description["splits"].items()}
    return Dataset(
        directory=path.parent,
        name=description["name"],
        labels=tuple(description["labels"]),
        splits=splits,
        preprocessing=Preprocessing.from_json(description["preprocessing"], where=str(path)),
        combined=_combined(description.get("combined", {}), splits, path),
    )


def _combined(combined: Any, splits: Mapping[str, Split], path: Path) -> dict[str, tuple[str, ...]]:
    if not isinstance(combined, dict):
        raise UserError(f"{path}: 'combined' was expected to be a dict, found {reprlib.repr(combined)}")
    for split, parts in combined.items():
        if not isinstance(parts, list) or not parts or any(part not in list(splits) for part in parts):
            raise UserError(f"{path}: 'combined' of {split!r} was expected to list splits, found {reprlib.repr(parts)}")
    return {split: tuple(parts) for split, parts in combined.items()}


def _split(size: Any, where: str) -> Split:
    fields = [field.name for field in dataclasses.fields(Split)]
    if not isinstance(size, dict):
        raise UserError(f"{where}: an object with {', '.join(fields)} was expected, found {reprlib.repr(size)}")
    for field in fields:
        if field not in size:
            raise UserError(f"{where} lacks {field}")
        if type(size[field]) is not int or size[field] < 0:
            raise UserError(f"{where}: {field} was expected to be a count, found {reprlib.repr(size[field])}")
    return Split(**{field: size[field] for field in fields})


def _refuse_missing_shards(dataset: Dataset) -> None:
    # By the files that are there, which are few, however many shards a description may claim.
    there = {path for path in entries(dataset.directory) if is_file(path)}
    shards = sum(split.shards for split in dataset.splits.values())
    every = (
        dataset.directory / shard_name(split, shard, size.shards)
        for split, size in dataset.splits.items()
        for shard in range(size.shards)
    )
    missing = next((path for path in every if path not in there), None)
    if missing is not None:
        names = "|".join(f"{re.escape(name)}-[0-9]+-of-{size.shards:05d}" for name, size in dataset.splits.items())
        found = sum(re.fullmatch(rf"({names})\.tfrecord", path.name) is not None for path in there)
        raise UserError(f"{dataset.directory} lacks {shards - found} of its {shards} shards, the first {missing.name}")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
