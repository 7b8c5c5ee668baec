"""Which clip goes into which shard, and what a shard is made from: the same on every machine and in every run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

from i3d_jax.data.dataset import FORMAT_VERSION
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.ingest.annotations import AnnotatedClip
from i3d_jax.records.shards import ShardIndex, framed, index_path, shard_name
from i3d_jax.system import files

CLIPS_PER_SHARD = 64  # Some 500 MB of ten-second videos at the default preprocessing.
# Some 230 MB. Their flow takes hours of a core, and a run that is killed loses the shards that it was making.
CLIPS_PER_SHARD_WITH_FLOW = 16
# A dataset keeps its number of shards, and with it those that are made, until they hold so many times as many clips.
MOST_GROWTH = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard as it is to be.

    Attributes:
      split: whose shard it is.
      number: from 0.
      shards: of the split.
      clips: in the order of the records.
      fingerprint: of everything that decides about the shard's bytes.
    """

    split: str
    number: int
    shards: int
    clips: tuple[AnnotatedClip, ...]
    fingerprint: str

    def path(self, directory: Path) -> Path:
        """Returns the path of the TFRecord file."""
        return directory / shard_name(self.split, self.number, self.shards)

    def index_path(self, directory: Path) -> Path:
        """Returns the path of the index, which is written after the TFRecord file."""
        return index_path(self.path(directory))

    def finished(self, directory: Path) -> ShardIndex | None:
        """Returns the index if the shard stands in the folder, whole and made from the very same things; else None."""
        index = ShardIndex.read(self.index_path(directory))
        if index is None or index.fingerprint != self.fingerprint:
            return None
        try:
            size = files.size(self.path(directory))
        except FileNotFoundError:
            return None
        return index if size == framed(index.lengths) else None


def plan(
    clips: Sequence[AnnotatedClip],
    videos: Path,
    *,
    labels: Sequence[str],
    preprocessing: Preprocessing,
    shards: int | Mapping[str, int] | None = None,
    before: Mapping[str, int] | None = None,
) -> list[Shard]:
    """Places clips into shards by a hash of their names, so that a clip's shard does not depend on the other clips.

    Args:
      clips: all clips of the dataset, with different names.
      videos: the folder of the video files; their sizes are part of the fingerprints, so that a file that has appeared
        or changed since is picked up.
      labels: the actions, in the dataset's order.
      preprocessing: how frames are made.
      shards: of each split, or by split; None for one for every 64 clips, with flow for every 16, or as many as before.
      before: the shards of each split that an earlier run has made or begun.

    Returns:
      The shards of every split, the splits in the order in which they first appear.
    """
    sizes = _Sizes(videos)
    label_indexes = {label: index for index, label in enumerate(labels)}
    placed = []
    for split in dict.fromkeys(clip.split for clip in clips):
        members = [clip for clip in clips if clip.split == split]
        if shards is None:
            most = CLIPS_PER_SHARD if preprocessing.flow is None else CLIPS_PER_SHARD_WITH_FLOW
            count = (before or {}).get(split, 0)
            if len(members) > MOST_GROWTH * most * count:
                count = math.ceil(len(members) / most)
        else:
            count = shards if isinstance(shards, int) else shards[split]
        contents: list[list[AnnotatedClip]] = [[] for _ in range(count)]
        for clip in sorted(members, key=_hash):
            contents[_hash(clip) % count].append(clip)
        for number, content in enumerate(contents):
            fingerprint = _fingerprint(content, sizes, label_indexes, preprocessing)
            placed.append(
                Shard(split=split, number=number, shards=count, clips=tuple(content), fingerprint=fingerprint)
            )
    return placed


def _hash(clip: AnnotatedClip) -> int:
    return int.from_bytes(hashlib.sha256(clip.name.encode()).digest())


def _fingerprint(
    clips: Sequence[AnnotatedClip], sizes: _Sizes, label_indexes: Mapping[str, int], preprocessing: Preprocessing
) -> str:
    """Returns a hash of everything that decides about a shard's bytes."""
    made_from = {
        "format_version": FORMAT_VERSION,
        "preprocessing": preprocessing.to_json(),
        "clips": [
            [
                # Not `splits`, which says no more than `split`.
                (clip.name, clip.path, clip.label, clip.split, clip.start, clip.end),
                label_indexes[clip.label],
                sizes.of(clip.path),
            ]
            for clip in clips
        ],
    }
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


class _Sizes:
    """The sizes of the video files, in bytes; those of a bucket are listed at once."""

    def __init__(self, videos: Path):
        self._videos = videos
        self._listed = files.sizes_below(videos)

    def of(self, path: str) -> int | None:
        """Returns the size of a file by its path in the folder, None where there is none."""
        if self._listed is not None:
            return self._listed.get(posixpath.normpath(path))
        try:
            return os.path.getsize(self._videos / path)
        # The second where file names have an encoding that lacks a letter of this one.
        except (OSError, ValueError):
            return None
