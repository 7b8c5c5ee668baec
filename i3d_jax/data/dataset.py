"""A dataset folder: TFRecord shards and the `dataset.json` that describes them."""

from __future__ import annotations

import dataclasses
import os
import re
import reprlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from i3d_jax.data import contents
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.records import image_table
from i3d_jax.records.image_table import ImageTable
from i3d_jax.records.layout import Layout, MediaSequence
from i3d_jax.records.shards import RecordPlace, shard_name
from i3d_jax.system import files
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import instead, is_file, is_folder, read_object, written_whole
from i3d_jax.system.terminal import json_text

FORMAT_VERSION = 1
DESCRIPTION = "dataset.json"
# Stands in its place until all shards do.
UNFINISHED = "unfinished.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """How much a split holds.

    Attributes:
      videos: written.
      frames: of all of them; None where nobody has counted them, in what another program wrote.
      shards: files.
      skipped: videos that could not be read.
      shard_videos, shard_bytes: videos and bytes of each shard; None in what was prepared before they were noted, and
        in what another program wrote.
    """

    videos: int
    frames: int | None
    shards: int
    skipped: int
    shard_videos: tuple[int, ...] | None = None
    shard_bytes: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns it as `dataset.json` holds it, without what is None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


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

    # What puts damaged shards right.
    remedy: ClassVar[str] = "the same prepare command with --verify makes damaged shards again"
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
        """Returns where every record of a split stands, shard by shard in the order of the file.

        They are as many as the split is said to hold videos: those of videos that are not there, as a shard was cut
        short or exchanged, stand behind the end of its file.

        Raises:
          UserError: there are more.
        """
        return [place for part in self.parts(split) for place in self._records_of(part)]

    def _records_of(self, part: str) -> list[RecordPlace]:
        size, paths = self.splits[part], self._shards_of(part)
        if size.shard_videos is None or size.shard_bytes is None:
            return contents.counted(paths, size.videos, part) if paths else []
        return contents.listed(paths, size.shard_videos, size.shard_bytes)

    def image_table(self, shard: Path, streams: Collection[str]) -> ImageTable | None:
        """Returns where the images of a shard stand; None where its index does not say it: then records are read whole.

        Args:
          shard: its path.
          streams: of which images are asked for.
        """
        return image_table.read(shard, self.labels, streams)


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
        "splits": {split: size.to_json() for split, size in splits.items()},
        "preprocessing": preprocessing.to_json(),
    }
    if combined:
        description["combined"] = {split: list(parts) for split, parts in combined.items()}
    with written_whole(files.path(directory) / DESCRIPTION) as file:
        text = json_text(description, indent=2)
        # The counts of the shards on a line: there may be thousands.
        text = re.sub(r"\[\n\s+\d+(,\n\s+\d+)*\n\s+\]", lambda counts: " ".join(counts[0].split()), text)
        file.write(text.encode() + b"\n")


def open_dataset(directory: str | os.PathLike) -> Dataset:
    """Reads the description of a dataset folder.

    Raises:
      UserError: there is no such folder, it is not a dataset, its description cannot be read or is of another format
        version, or shards are missing.
    """
    directory = files.path(directory)
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
    fields = ("videos", "frames", "shards", "skipped")
    if not isinstance(size, dict):
        raise UserError(f"{where}: an object with {', '.join(fields)} was expected, found {reprlib.repr(size)}")
    for field in fields:
        if field not in size:
            raise UserError(f"{where} lacks {field}")
        if not _is_count(size[field]):
            raise UserError(f"{where}: {field} was expected to be a count, found {reprlib.repr(size[field])}")
    shard_videos, shard_bytes = (_counts(size, field, where) for field in ("shard_videos", "shard_bytes"))
    if shard_videos is not None and sum(shard_videos) != size["videos"]:
        raise UserError(f"{where}: shard_videos were expected to be {size['videos']} together, found another sum")
    return Split(**{field: size[field] for field in fields}, shard_videos=shard_videos, shard_bytes=shard_bytes)


def _counts(size: dict[str, Any], field: str, where: str) -> tuple[int, ...] | None:
    if field not in size:
        return None
    found = size[field]
    if not (isinstance(found, list) and all(map(_is_count, found)) and len(found) == size["shards"]):
        raise UserError(f"{where}: {field} was expected to list a count for each of {size['shards']} shards")
    return tuple(found)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _refuse_missing_shards(dataset: Dataset) -> None:
    # By the files that are there, which are few, however many shards a description may claim.
    there = set(files.files_in(dataset.directory))
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
