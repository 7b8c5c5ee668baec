"""Adds flow to a dataset folder that was prepared without it: what is there, and whether it may be gone on with.

The shards are made again one by one from the same videos with the folder's own options, so that the result is, byte for
byte, what preparing with flow at once gives. Decoding a second time costs little beside the flow.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i3d_jax.data.dataset import DESCRIPTION, open_dataset
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.data.records import ShardIndex
from i3d_jax.errors import UserError
from i3d_jax.ingest import output
from i3d_jax.ingest.annotations import Clip
from i3d_jax.ingest.plan import Shard

# `prepare` that makes again what has changed.
REMEDY = "prepare without --flow_only, which makes again what has changed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """The dataset that a folder is to become, by what it says of itself.

    Attributes:
      name: of the dataset.
      preprocessing: that of the folder, with flow.
      shards: of each split.
      complete: whether the folder is that dataset by now.
    """

    name: str
    preprocessing: Preprocessing
    shards: Mapping[str, int]
    complete: bool


def read_target(directory: Path, clips: Sequence[Clip], flow: Mapping[str, Any]) -> Target:
    """Reads what a folder holds: a dataset, or what a killed run that added flow to one has left.

    Args:
      directory: the dataset folder.
      clips: the annotations.
      flow: the description of the flow to be added.

    Raises:
      UserError: there is no dataset, or one that is not finished, has another flow or has other splits.
    """
    mark = _read_mark(directory / output.UNFINISHED)
    if mark is None or (directory / DESCRIPTION).is_file():
        dataset = open_dataset(directory)
        name, found = dataset.name, dataset.preprocessing
        shards = {split: size.shards for split, size in dataset.splits.items()}
        complete = found.flow is not None
    elif not mark["adds_flow"]:
        raise UserError(f"{directory} is not finished: start prepare again without --flow_only first")
    else:
        name, shards, complete = mark["name"], mark["shards"], False
        found = Preprocessing.from_json(mark["preprocessing"], where=str(directory / output.UNFINISHED))
    preprocessing = dataclasses.replace(found, flow=flow)
    if found.flow is not None:
        output.refuse_foreign(directory, preprocessing)
    splits = {clip.split for clip in clips}
    if splits != shards.keys():
        raise UserError(
            f"{directory} has the splits {', '.join(sorted(shards))}, the annotations have"
            f" {', '.join(sorted(splits))}: {REMEDY}"
        )
    return Target(name=name, preprocessing=preprocessing, shards=shards, complete=complete)


def refuse_other_options(directory: Path, target: Target, asked: Mapping[str, Any]) -> None:
    """Refuses options that are not the folder's own.

    Args:
      directory: the dataset folder.
      target: what it is to become.
      asked: by name; None where the user says nothing.

    Raises:
      UserError: names the option and both values.
    """
    counts = set(target.shards.values())
    own = {
        **target.preprocessing.to_json(),
        "name": target.name,
        "shards": counts.pop() if len(counts) == 1 else sorted(counts),
    }
    for name, value in asked.items():
        if value not in (None, own[name]):
            raise UserError(f"--flow_only keeps the --{name} {own[name]!r} of {directory}, found --{name} {value!r}")


def refuse_other_clips(directory: Path, planned: Sequence[Shard], planned_without: Sequence[Shard]) -> None:
    """Refuses a folder whose shards are not what the annotations and videos give.

    Args:
      directory: the dataset folder.
      planned: its shards, in the order of
      planned_without: the same without flow.

    Raises:
      UserError: names the first shard that is another.
    """
    # A killed run may have taken a shard's index away, and not more than that.
    begun = not (directory / DESCRIPTION).is_file()
    for shard, without in zip(planned, planned_without, strict=True):
        if shard.finished(directory) or without.finished(directory):
            continue
        if not (begun and ShardIndex.read(shard.index_path(directory)) is None):
            raise UserError(
                f"{directory} was made from other annotations or videos than there are now, its shard"
                f" {shard.path(directory).name} for one: {REMEDY}"
            )


def _read_mark(path: Path) -> dict[str, Any] | None:
    try:
        mark = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        mark = None
    if not isinstance(mark, dict):
        raise UserError(f"{path}: the mark of an unfinished dataset, a JSON object, was expected, found something else")
    # What was written before flow could be added does not speak of it.
    return {"adds_flow": False, **mark}
