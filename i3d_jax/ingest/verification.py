"""Whether the shards of a dataset folder and their indexes still are what was written: every byte of them is read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from i3d_jax.data.reader import DamagedRecord, read_record
from i3d_jax.ingest.plan import Shard
from i3d_jax.records import image_table
from i3d_jax.records.image_table import TableWriter
from i3d_jax.records.layout import MediaSequence
from i3d_jax.records.shards import ShardIndex, places, table_path
from i3d_jax.system import progress

_log = logging.getLogger(__name__)


def damaged(shards: Sequence[Shard], directory: Path) -> set[Path]:
    """Returns the paths of the finished shards of which a record, or the table of images, is damaged or another's.

    Of each the first such thing is told. It takes as long as the disk takes to read them.
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
    layout, table = MediaSequence(), TableWriter()
    for place, expected in zip(places(path, index.lengths), index.names, strict=True):
        try:
            record = read_record(place)
            found, _, _ = layout.find(record, ())
        except DamagedRecord as error:
            return str(error)
        except ValueError as error:
            return f"{place}: it is no record of ours ({error})"
        if found != expected:
            return f"{place}: the video {expected!r} was expected, found {found!r}"
        table.add(place, record)
    if not image_table.agrees(path, index, table):
        return f"{path.name}: its index does not say where its images are ({table_path(path).name})"
    return None
