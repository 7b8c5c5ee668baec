"""Gives a dataset that was prepared before the index said where every image stands (format version 2) that index.

The shards are read, every byte of them, and not touched.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.reader import DamagedRecord, read_record
from i3d_jax.ingest import output
from i3d_jax.records import image_table
from i3d_jax.records.image_table import TableWriter
from i3d_jax.records.shards import ShardIndex, framed, index_path, places, size
from i3d_jax.system import progress
from i3d_jax.system.workers import in_order

_log = logging.getLogger(__name__)


class Indexed(NamedTuple):
    """What was done with a shard.

    Attributes:
      written: whether its index was written.
      problems: a sentence for each record that cannot be used, or one on why the shard was left as it is.
    """

    written: bool
    problems: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexedDataset:
    """How many shards got an index, had theirs, and were left as they are."""

    written: int
    there: int
    left: int


def index_dataset(directory: Path, *, processes: int) -> IndexedDataset:
    """Writes the index of every shard of a dataset folder that has none of version 2; the rest is not touched.

    What cannot be used is told in the log: a damaged record, of which the index then says nothing, so that it is met as
    before; and a shard that has no index of version 1, or another's, which is left as it is.

    Args:
      directory: of a finished dataset.
      processes: that read shards, 1 or more.

    Raises:
      UserError: there is no finished dataset of ours, or another run is at work in the folder.
    """
    open_dataset(directory)
    with output.held(directory):
        output.remove_temporaries(directory)
        dataset = open_dataset(directory)
        paths = [path for split in dataset.splits for path in dataset.shard_paths(split)]
        found = _index_all(paths, processes)
    written = sum(one.written for one in found)
    left = sum(bool(one.problems) and not one.written for one in found)
    return IndexedDataset(written=written, there=len(found) - written - left, left=left)


def _index_all(paths: Sequence[Path], processes: int) -> list[Indexed]:
    found = []
    results = in_order(index_shard, paths, processes=processes, crashed=_crashed)
    for one in progress.over(results, "indexing", total=len(paths), unit="shards"):
        for problem in one.problems:
            _log.warning("%s", problem)
        found.append(one)
    return found


def _crashed(path: Path) -> Indexed:
    return Indexed(False, (f"{path.name} is left as it is: the process that read it died",))


def index_shard(path: Path) -> Indexed:
    """Writes the index of a shard of version 2, if it has none: the table of images first, as `shard.make_shard`."""
    index = ShardIndex.read(index_path(path))
    if index is None or framed(index.lengths) != size(path):
        return Indexed(False, (f"{path.name} is left as it is: it has no index, or that of another shard",))
    if image_table.stands(path, index):
        return Indexed(False)
    problems = []
    table = TableWriter()
    for place, expected in zip(places(path, index.lengths), index.names, strict=True):
        record = None
        try:
            record = read_record(place)
        except DamagedRecord as error:
            problems.append(str(error))
        name = table.add(place, record)
        if record is not None and name != expected:
            found = "no record of ours" if name is None else f"the video {name!r}"
            return Indexed(False, (f"{place}: the video {expected!r} was expected, found {found}; the shard is left",))
    dataclasses.replace(index, table_crc32c=table.write(path)).write(index_path(path))
    return Indexed(True, tuple(problems))
