"""Pieces of a file: the one way in which images are taken out of shards."""

from __future__ import annotations

import os
from collections.abc import Sequence

from i3d_jax.system import buckets

Span = tuple[int, int]  # offset and length, in bytes

# What stands between neighbouring images of a record is less (tags and lengths); images of a few hundred bytes are not
# read in vain.
NEAR = 64


def read(path: str | os.PathLike, spans: Sequence[Span]) -> list[bytes]:
    """Returns the bytes of spans of a file; those that are near each other are read at once.

    Args:
      path: of the file.
      spans: in any order; of one that leaves the file there is what the file has of it.

    Raises:
      OSError: the file cannot be opened or read.
    """
    blocks, block_of = joined(spans)
    place = buckets.parse(path)
    found = _read_local(path, blocks) if place is None else place.read_ranges(blocks)
    pieces = []
    for (offset, length), number in zip(spans, block_of, strict=True):
        start = offset - blocks[number][0]
        pieces.append(found[number][start : start + length])
    return pieces


def joined(spans: Sequence[Span]) -> tuple[list[Span], list[int]]:
    """Returns blocks, in the order of the file, that hold all spans, and for each span the number of its block.

    A block goes on while no more than `NEAR` bytes lie between two spans.
    """
    blocks: list[Span] = []
    block_of = [0] * len(spans)
    for number in sorted(range(len(spans)), key=spans.__getitem__):
        offset, length = spans[number]
        if blocks and offset <= sum(blocks[-1]) + NEAR:
            start, before = blocks[-1]
            blocks[-1] = start, max(before, offset + length - start)
        else:
            blocks.append((offset, length))
        block_of[number] = len(blocks) - 1
    return blocks, block_of


def _read_local(path: str | os.PathLike, blocks: Sequence[Span]) -> list[bytes]:
    """Returns the bytes of each block of a file of this machine."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return [_read_block(descriptor, *block) for block in blocks]
    finally:
        os.close(descriptor)


def _read_block(descriptor: int, offset: int, length: int) -> bytes:
    block = os.pread(descriptor, length, offset)
    # The kernel gives 2 GiB at most at a time, and some file systems less than was asked for.
    while len(block) < length and (more := os.pread(descriptor, length - len(block), offset + len(block))):
        block += more
    return block
