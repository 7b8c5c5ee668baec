"""A dataset folder: TFRecord shards and the `dataset.json` that describes them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.data.records import shard_name
from i3d_jax.errors import UserError
from i3d_jax.files import written_whole

FORMAT_VERSION = 1
DESCRIPTION = "dataset.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """How much a split holds: videos written, frames of all of them, shards, and videos skipped."""

    videos: int
    frames: int
    shards: int
    skipped: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset folder whose description has been read and whose shards are all there.

    Attributes:
      directory: the folder.
      name: of the dataset.
      labels: the actions; a record's label index counts from 0 in them.
      splits: by name.
      preprocessing: how the stored frames were made.
    """

    directory: Path
    name: str
    labels: tuple[str, ...]
    splits: Mapping[str, Split]
    preprocessing: Preprocessing

    def shard_path(self, split: str, shard: int) -> Path:
        """Returns the path of a split's shard, counted from 0."""
        return self.directory / shard_name(split, shard, self.splits[split].shards)


def write_description(
    directory: str | os.PathLike,
    *,
    name: str,
    labels: Sequence[str],
    splits: Mapping[str, Split],
    preprocessing: Preprocessing,
) -> None:
    """Writes `dataset.json` whole; it comes last, when all shards stand, since it makes the folder a dataset."""
    description = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "labels": list(labels),
        "splits": {split: dataclasses.asdict(size) for split, size in splits.items()},
        "preprocessing": preprocessing.to_json(),
    }
    with written_whole(Path(directory, DESCRIPTION)) as file:
        file.write(json.dumps(description, ensure_ascii=False, indent=2).encode() + b"\n")


def open_dataset(directory: str | os.PathLike) -> Dataset:
    """Reads the description of a dataset folder.

    Raises:
      UserError: there is no such folder, it is not a dataset, its description cannot be read or is of another format
        version, or shards are missing.
    """
    directory = Path(directory)
    if not directory.is_dir():
        found = "a file" if directory.exists() else "nothing"
        raise UserError(f"a dataset folder was expected at {directory}, found {found}")
    path = directory / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{directory} is not a dataset folder: it has no {DESCRIPTION}")
    description = _read_object(path)
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format version {FORMAT_VERSION} was expected, found {version!r}")
    dataset = _from_description(description, path)
    _refuse_missing_shards(dataset)
    return dataset


def _read_object(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: JSON was expected, found something else: {error}") from error
    if not isinstance(description, dict):
        raise UserError(f"{path}: a JSON object was expected, found {type(description).__name__}")
    return description


def _from_description(description: dict[str, Any], path: Path) -> Dataset:
    kinds = {"name": str, "labels": list, "splits": dict, "preprocessing": dict}
    missing = [key for key in kinds if key not in description]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}")
    for key, kind in kinds.items():
        if not isinstance(description[key], kind):
            raise UserError(f"{path}: {key!r} was expected to be a {kind.__name__}, found {description[key]!r}")
    return Dataset(
        directory=path.parent,
        name=description["name"],
        labels=tuple(map(str, description["labels"])),
        splits={split: _split(size, f"{path}: split {split!r}") for split, size in description["splits"].items()},
        preprocessing=Preprocessing.from_json(description["preprocessing"], where=str(path)),
    )


def _split(size: Any, where: str) -> Split:
    fields = [field.name for field in dataclasses.fields(Split)]
    if not isinstance(size, dict):
        raise UserError(f"{where}: an object with {', '.join(fields)} was expected, found {size!r}")
    for field in fields:
        if field not in size:
            raise UserError(f"{where} lacks {field}")
        if not isinstance(size[field], int) or size[field] < 0:
            raise UserError(f"{where}: {field} was expected to be a count, found {size[field]!r}")
    return Split(**{field: size[field] for field in fields})


def _refuse_missing_shards(dataset: Dataset) -> None:
    paths = [dataset.shard_path(name, shard) for name, split in dataset.splits.items() for shard in range(split.shards)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"{dataset.directory} lacks {len(missing)} of its {len(paths)} shards, the first {missing[0]}")
