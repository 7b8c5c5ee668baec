"""Adds flow to a dataset folder that was prepared without it: what is there, and whether it may be gone on with.

The shards are made again one by one from the same videos with the folder's own options, so that the result is, byte for
byte, what preparing with flow at once gives. Decoding a second time costs little beside the flow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i3d_jax.data.dataset import DESCRIPTION, Dataset, open_dataset
from i3d_jax.ingest import output
from i3d_jax.ingest.annotations import AnnotatedClip
from i3d_jax.ingest.options import DatasetOptions
from i3d_jax.ingest.plan import Shard, plan
from i3d_jax.records.shards import ShardIndex
from i3d_jax.system import files
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_file

# `prepare` that makes again what has changed.
REMEDY = "prepare without --flow_only, which makes again what has changed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """The dataset that a folder is to become, by what it says of itself.

    Attributes:
      made: how `prepare_dataset` makes it, with flow; all options are set.
      shards: of each split.
      complete: whether the folder is that dataset by now.
    """

    made: DatasetOptions
    shards: Mapping[str, int]
    complete: bool


def read_target(directory: Path, clips: Sequence[AnnotatedClip], flow: Mapping[str, Any]) -> Target:
    """Reads what a folder holds: a dataset, or what a killed run that added flow to one has left.

    Args:
      directory: the dataset folder.
      clips: the annotations.
      flow: the description of the flow to be added.

    Raises:
      UserError: there is no dataset, or one that is not finished, has another flow, or has other splits or labels.
    """
    unfinished = not is_file(directory / DESCRIPTION) and is_file(directory / output.UNFINISHED)
    holds: output.Mark | Dataset
    shards: Mapping[str, int]
    if unfinished:
        mark = output.Mark.read(directory)
        if mark is None or not mark.adds_flow:
            raise UserError(f"{directory} is not finished: start prepare again without --flow_only first")
        holds, shards = mark, mark.shards
    else:
        holds = open_dataset(directory)
        shards = {split: size.shards for split, size in holds.splits.items()}
    preprocessing = dataclasses.replace(holds.preprocessing, flow=flow)
    if holds.preprocessing.flow is not None:
        output.refuse_foreign(directory, preprocessing)
    splits, labels = {clip.split for clip in clips}, {clip.label for clip in clips}
    if splits != shards.keys():
        raise UserError(
            f"{directory} has the splits {', '.join(sorted(shards))}, the annotations have"
            f" {', '.join(sorted(splits))}: {REMEDY}"
        )
    # The other way round, a list of classes may have named some that no clip shows.
    if unknown := labels.difference(holds.labels):
        raise UserError(f"{directory} has no label {min(unknown)!r}, the annotations have: {REMEDY}")
    made = DatasetOptions(name=holds.name, labels=holds.labels, preprocessing=preprocessing, shards=shards)
    return Target(made=made, shards=shards, complete=not unfinished and holds.preprocessing.flow is not None)


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
        **target.made.preprocessing.to_json(),
        "name": target.made.name,
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
    begun = not is_file(directory / DESCRIPTION)
    for shard, without in zip(planned, planned_without, strict=True):
        if shard.finished(directory) or without.finished(directory):
            continue
        if not (begun and ShardIndex.read(shard.index_path(directory)) is None):
            raise UserError(
                f"{directory} was made from other annotations or videos than there are now, its shard"
                f" {shard.path(directory).name} for one: {REMEDY}"
            )


def refuse_changed(directory: Path, clips: Sequence[AnnotatedClip], videos: str, target: Target) -> None:
    """Refuses a complete folder whose shards are not what the annotations and videos give (`refuse_other_clips`)."""
    how = {name: getattr(target.made, name) for name in ("labels", "preprocessing", "shards")}
    planned = plan(clips, files.path(videos), **how)
    refuse_other_clips(directory, planned, planned)
