"""Whether the shards of a dataset folder still are what was written: every byte of them is read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from i3d_jax.data.reader import DamagedRecord, read_record
from i3d_jax.ingest.plan import Shard
from i3d_jax.records.layout import MediaSequence
from i3d_jax.records.shards import ShardIndex, places
from i3d_jax.system import progress

_log = logging.getLogger(__name__)


def damaged(shards: Sequence[Shard], directory: Path) -> set[Path]:
    """Returns the paths of the finished shards in which a record is damaged or another video's, and tells of each.

    Of a shard the first such record is told. It takes as long as the disk takes to read them.
    """
    found = set()
    for shard in progress.over(shards, "verifying", total=len(shards), unit="shards"):
        index = shard.finished(directory)
        problem = None if index is None else _problem(shard.path(directory), index)
        if problem:
            found.add(shard.path(directory))
            _log.warning("%s; the shard is made again", problem)
    return found


def _problem(path: Path, index: ShardIndex) -> str | None:
    layout = MediaSequence()
    for place, expected in zip(places(path, index.lengths), index.names, strict=True):
        try:
            found, _, _ = layout.find(read_record(place), ())
        except DamagedRecord as error:
            return str(error)
        except ValueError as error:
            return f"{place}: it is no record of ours ({error})"
        if found != expected:
            return f"{place}: the video {expected!r} was expected, found {found!r}"
    return None
