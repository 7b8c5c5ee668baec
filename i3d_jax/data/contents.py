"""Where the records of a split stand, compared with what `dataset.json` says that the split and its shards hold.

A shard that was cut short, emptied or exchanged, and an index that is another shard's, must not make a dataset smaller
than it is said to be: of what is not there, a place behind the end of its file is given, which no one can read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from i3d_jax.records import shards
from i3d_jax.records.shards import RecordPlace, ShardIndex, framed, index_path, places, scan_lengths
from i3d_jax.system import files
from i3d_jax.system.errors import UserError

_log = logging.getLogger(__name__)


def listed(paths: Sequence[Path], videos: Sequence[int], sizes: Sequence[int]) -> list[RecordPlace]:
    """Returns as many places as there are said to be videos, shard by shard in the order of the file.

    Args:
      paths: of the shards.
      videos: of each.
      sizes: of each, in bytes.
    """
    said = {path: (count, size) for path, count, size in zip(paths, videos, sizes, strict=True)}
    found = files.each(lambda path: _lengths(path, *said[path]), paths)
    return [place for path, own in zip(paths, found, strict=True) for place in _filled(path, own, said[path][0])]


def counted(paths: Sequence[Path], videos: int, split: str) -> list[RecordPlace]:
    """Does what `listed` does for a dataset that says how many videos a split holds, but not how many each shard does.

    Raises:
      UserError: there are more records.
    """
    indexes = files.each(lambda path: ShardIndex.read(index_path(path)), paths)
    lengths = [
        scan_lengths(path) if index is None else index.lengths for path, index in zip(paths, indexes, strict=True)
    ]
    if sum(map(len, lengths)) < videos:
        for number, (path, index) in enumerate(zip(paths, indexes, strict=True)):
            if index is not None and framed(index.lengths) < shards.size(path):
                _log.warning("the index of %s lists less than the shard holds: it is left out", path.name)
                lengths[number] = scan_lengths(path)
    found = [len(own) for own in lengths]
    named = ", ".join(f"{path.name} {count}" for path, count in zip(paths[:8], found, strict=False))
    if sum(found) > videos:
        raise UserError(
            f"{videos} videos of split {split!r} were expected in {paths[0].parent}, as its dataset.json says, found "
            f"{sum(found)} ({named}): shards or indexes are those of another dataset"
        )
    if sum(found) < videos:
        _log.warning("%d videos of split %r were expected, found %d: %s", videos, split, sum(found), named)
        # Nobody knows which shard they are missing from; the emptiest is the likeliest.
        found[found.index(min(found))] += videos - sum(found)
    return [
        place for path, own, count in zip(paths, lengths, found, strict=True) for place in _filled(path, own, count)
    ]


def _lengths(path: Path, videos: int, size: int) -> Sequence[int]:
    """Returns the bytes of each record of a shard, as far as it is the one that is said to be there."""
    index = ShardIndex.read(index_path(path))
    if index is not None and (len(index.lengths), framed(index.lengths)) == (videos, size):
        # Whether the records are those of the index, the header of each tells when it is read.
        return index.lengths
    if index is not None:
        _log.warning(
            "the index of %s is another one's or damaged: %d videos in %d bytes were expected, found %d in %d; it is "
            "left out",
            *(path.name, videos, size, len(index.lengths), framed(index.lengths)),
        )
    found = shards.size(path)
    if found == size:
        return scan_lengths(path)
    _log.warning(
        "%s is another shard or damaged: %d bytes were expected, found %d; none of its %d videos is used",
        *(path.name, size, found, videos),
    )
    return ()


def _filled(path: Path, lengths: Sequence[int], videos: int) -> list[RecordPlace]:
    """Returns the places of a shard's records, and after them some for those that are missing."""
    found = list(places(path, lengths))
    if len(found) >= videos:
        return found
    end = max(framed(lengths), shards.size(path))
    return found + [RecordPlace(path, number, end, 0) for number in range(len(found), videos)]
