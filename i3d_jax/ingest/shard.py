"""One shard of a dataset, from its clips to its two files: the same code wherever shards are made."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.ingest.annotations import AnnotatedClip
from i3d_jax.ingest.plan import Shard
from i3d_jax.ingest.process import Prepared, Skipped, process
from i3d_jax.records.example import encode
from i3d_jax.records.image_table import TableWriter
from i3d_jax.records.shards import ShardIndex, ShardWriter, table_path
from i3d_jax.system import workers
from i3d_jax.system.files import make_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What all shards of a dataset have in common; picklable, for the processes that make them.

    Attributes:
      videos: the folder of the video files.
      directory: the dataset folder.
      labels: the actions, in the dataset's order.
      preprocessing: how frames and flow are made.
    """

    videos: Path
    directory: Path
    labels: tuple[str, ...]
    preprocessing: Preprocessing

    def read(self, clip: AnnotatedClip) -> Prepared | Skipped:
        """Reads one clip, and tells how far it has come (`workers.tell`)."""
        return process(clip, self.videos, self.labels, self.preprocessing, tell=workers.tell)


def crashed(clip: AnnotatedClip) -> Skipped:
    """Returns the result of a clip that killed the process that read it."""
    return Skipped(clip.name, "the decoder crashed")


def size_in_bytes(result: Prepared | Skipped) -> int:
    """Returns about how much memory a result takes; a frame that repeats is in memory once, and counted each time."""
    return 0 if isinstance(result, Skipped) else sum(map(len, result.frames)) + sum(map(len, result.flow))


def make_shard(shard: Shard, directory: Path, results: Iterator[Prepared | Skipped]) -> ShardIndex:
    """Writes a shard from the next results, then its index: without one, a shard is made again by the next run."""
    path = shard.path(directory)
    shard.index_path(directory).unlink(missing_ok=True)
    names, frames, skipped, notes = [], [], [], []
    table = TableWriter()
    with ShardWriter(path) as writer:
        for result in itertools.islice(results, len(shard.clips)):
            if isinstance(result, Skipped):
                skipped.append((result.name, result.reason))
            else:
                record = encode(result)
                table.add(writer.write(record), record)
                names.append(result.name)
                frames.append(len(result.frames))
                notes += [(result.name, note) for note in result.notes]
    make_folder(table_path(path).parent)
    index = ShardIndex(
        fingerprint=shard.fingerprint,
        names=tuple(names),
        frames=tuple(frames),
        lengths=tuple(writer.lengths),
        skipped=tuple(skipped),
        notes=tuple(notes),
        table_crc32c=table.write(path),
    )
    index.write(shard.index_path(directory))
    return index
