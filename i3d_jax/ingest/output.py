"""The folder that `prepare` writes into: whose it is, that it is being written, and what is left of earlier runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from i3d_jax.data.dataset import DESCRIPTION, FORMAT_VERSION, UNFINISHED
from i3d_jax.data.preprocessing import Preprocessing, comparable
from i3d_jax.ingest import alive
from i3d_jax.ingest.plan import Shard
from i3d_jax.records.shards import index_path, table_path
from i3d_jax.system import buckets, lease, lock
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import (
    entries,
    files_in,
    instead,
    is_file,
    is_folder,
    make_folder,
    read_object,
    refuse_unreadable,
    written_whole,
)
from i3d_jax.system.terminal import json_text

# Stands in the folder from a run's first write until its `dataset.json` does: the mark of a killed run.
SKIPPED = "skipped.csv"
NOTES = "notes.csv"

_SHARD = r"[A-Za-z0-9_-]+-\d{5}-of-\d{5}\.(tfrecord|json|npz)"
_TEMPORARY = (
    rf"({_SHARD}|{re.escape(DESCRIPTION)}|{re.escape(UNFINISHED)}|{re.escape(SKIPPED)}|{re.escape(NOTES)})\.tmp-\d+"
)


def refuse_foreign(directory: Path, preprocessing: Preprocessing) -> None:
    """Refuses a folder that holds anything but a dataset, whole or unfinished, of this very preprocessing.

    Raises:
      UserError: what was expected and what was found.
    """
    if not is_folder(directory):
        if (found := instead(directory)) != "nothing":
            raise UserError(f"a folder was expected for the output, found {found.replace('a ', 'the ', 1)} {directory}")
        return
    descriptions = [directory / name for name in (DESCRIPTION, UNFINISHED) if is_file(directory / name)]
    for path in descriptions:
        _refuse_other_preprocessing(path, preprocessing)
    if not descriptions:
        strangers = [path.name for path in entries(directory) if not _is_harmless(path.name)]
        if strangers:
            raise UserError(
                f"an empty folder or a dataset of ours was expected at {directory}, found {strangers[0]!r} in it:"
                " choose another --output"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """What an unfinished folder says of the dataset that it is to be.

    Attributes:
      name: of the dataset.
      labels: the actions, in order.
      preprocessing: how its frames and flow are made.
      shards: of each split.
      adds_flow: whether it held the same dataset without flow when this was begun.
    """

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    shards: Mapping[str, int]
    adds_flow: bool

    @classmethod
    def read(cls, directory: Path) -> Mark | None:
        """Reads the mark of a folder; None where there is none, or one that does not say all this.

        The marks of the time before flow could be added hold the preprocessing alone.
        """
        path = directory / UNFINISHED
        if not is_file(path):
            return None
        refuse_unreadable(path)
        try:
            fields = read_object(path)
            return cls(
                name=str(fields["name"]),
                labels=tuple(map(str, fields["labels"])),
                preprocessing=Preprocessing.from_json(fields["preprocessing"], where=str(path)),
                shards={str(split): int(count) for split, count in fields["shards"].items()},
                adds_flow=bool(fields["adds_flow"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def shard_counts(directory: Path) -> dict[str, int]:
    """Returns the shards of each split of the dataset that a folder holds, whole or unfinished; {} if it holds none."""
    if mark := Mark.read(directory):
        return dict(mark.shards)
    path = directory / DESCRIPTION
    if not is_file(path):
        return {}
    refuse_unreadable(path)
    try:
        return {split: int(fields["shards"]) for split, fields in read_object(path)["splits"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keeps other runs out of the folder, which is made, and removed again if nothing is put into it.

    The lock is the kernel's, on the folder itself, so that no file tells of it and it ends with the process. Where the
    file system has none for folders, as some network file systems, nobody is kept out. In a bucket it is a `lease`.

    Raises:
      UserError: another run is at work in it, or it cannot be made.
    """
    in_use = f"another prepare is at work in {directory}: wait for it, or stop it"
    if (place := buckets.parse(directory / ".lock")) is not None:
        with lease.held(place, in_use):
            yield
        return
    made = not is_folder(directory)
    make_folder(directory)
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"the folder {directory} cannot be read: {error.strerror}") from error
    try:
        if lock.taken(descriptor):
            raise UserError(in_use)
        yield
    finally:
        if made and not any(directory.iterdir()):
            directory.rmdir()
        os.close(descriptor)


def begin(directory: Path, mark: Mark) -> None:
    """Marks the folder as unfinished: until `end` nobody can take it for a dataset."""
    fields = {
        "format_version": FORMAT_VERSION,
        **dataclasses.asdict(mark),
        "preprocessing": mark.preprocessing.to_json(),
    }
    with written_whole(directory / UNFINISHED) as file:
        file.write(json_text(fields, indent=2).encode() + b"\n")
    (directory / DESCRIPTION).unlink(missing_ok=True)


def end(directory: Path) -> None:
    """Takes the mark away; `dataset.json` stands by now."""
    (directory / UNFINISHED).unlink(missing_ok=True)


def remove_temporaries(directory: Path) -> None:
    """Removes what killed runs were writing; only files of our own naming."""
    for path in _files(directory):
        if re.fullmatch(_TEMPORARY, path.name):
            path.unlink()
    alive.remove(directory)


def remove_stale(directory: Path, shards: Iterable[Shard]) -> None:
    """Removes shards and indexes that are not among `shards`: of another shard count or of splits that are gone."""
    paths = [shard.path(directory) for shard in shards]
    current = {path for shard in paths for path in (shard, index_path(shard), table_path(shard))}
    for path in _files(directory):
        if re.fullmatch(_SHARD, path.name) and path not in current:
            path.unlink()


def _files(directory: Path) -> list[Path]:
    """Returns the files of the folder and of its folder of indexes."""
    return [*files_in(directory), *files_in(directory / "index")]


def _is_harmless(name: str) -> bool:
    return name.startswith(".") or re.fullmatch(_TEMPORARY, name) is not None


def _refuse_other_preprocessing(path: Path, preprocessing: Preprocessing) -> None:
    refuse_unreadable(path)
    try:
        description = read_object(path)
        version, found = description["format_version"], dict(description["preprocessing"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a description of a dataset: choose another --output") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {FORMAT_VERSION} was expected, found {version!r}: choose another --output"
        )
    # A dataset without flow must not be taken for one with it, nor the other way round.
    found, expected = ({"flow": "none", **comparable(fields)} for fields in (found, preprocessing.to_json()))
    # Where one side has no flow, its parameters are not worth naming.
    names = [name for name in expected if name in found or not name.startswith("flow.")]
    different = [
        f"{name} {found.get(name)!r} instead of {expected[name]!r}"
        for name in names
        if found.get(name) != expected[name]
    ]
    if different:
        made_with = f"{path.parent} holds a dataset made with {', '.join(different)}"
        remedy = "; --flow_only adds flow to it" if found["flow"] == "none" and preprocessing.flow is not None else ""
        raise UserError(f"{made_with}: choose another --output or the same options{remedy}")
