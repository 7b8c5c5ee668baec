"""Shards: TFRecord files, where the records in them stand, and an index of each.

Reference: TensorFlow's `record_writer.cc` for the framing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c

from i3d_jax.system import files
from i3d_jax.system.files import is_file, make_folder, opened, read_object, refuse_unreadable, written_whole
from i3d_jax.system.terminal import json_text

HEADER_BYTES = 12  # the payload's length (uint64) and its masked checksum (uint32)
FOOTER_BYTES = 4  # the payload's masked checksum (uint32)


def masked_checksum(data: bytes) -> int:
    """Returns the CRC-32C of `data` as TFRecord files store it (rotated and offset), 0 to 2**32 - 1."""
    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def header(length: int) -> bytes:
    """Returns the 12 bytes that stand before a record of `length` bytes."""
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", masked_checksum(packed))


def footer(record: bytes) -> bytes:
    """Returns the 4 bytes that stand after a record."""
    return struct.pack("<I", masked_checksum(record))


class RecordPlace(NamedTuple):
    """Where a record stands.

    Attributes:
      path: of the shard file.
      number: of the record in the shard, from 0.
      offset: of its header, in bytes.
      length: of its payload, in bytes.
    """

    path: Path
    number: int
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.path.name}, record {self.number}"


def framed(lengths: Iterable[int]) -> int:
    """Returns the bytes of a file that holds records of these lengths."""
    return sum(HEADER_BYTES + length + FOOTER_BYTES for length in lengths)


def places(path: Path, lengths: Iterable[int]) -> Iterator[RecordPlace]:
    """Yields where the records of a shard stand, from the bytes of each."""
    offset = 0
    for number, length in enumerate(lengths):
        yield RecordPlace(path, number, offset, length)
        offset += HEADER_BYTES + length + FOOTER_BYTES


def size(path: str | os.PathLike) -> int:
    """Returns the bytes of a shard; 0 for one that has been removed since its folder was listed."""
    try:
        return files.size(path)
    except FileNotFoundError:
        return 0


def scan_lengths(path: Path) -> tuple[int, ...]:
    """Returns the length in bytes of every record of a TFRecord file, from its headers alone.

    Where a header is damaged nothing after it can be found: a record of length 0 stands for the rest of the file.
    """
    lengths = []
    with opened(path) as file:
        end = file.seek(0, os.SEEK_END)
        offset = 0
        while offset < end:
            file.seek(offset)
            found = file.read(HEADER_BYTES)
            length = struct.unpack("<Q", found[:8])[0] if len(found) == HEADER_BYTES else 0
            if found != header(length):
                lengths.append(0)
                break
            lengths.append(length)
            offset += HEADER_BYTES + length + FOOTER_BYTES
    return tuple(lengths)


class ShardWriter:
    """Writes one TFRecord shard: a context manager that leaves the whole file at `path`, or, on an exception, nothing.

    Attributes:
      lengths: bytes of each record written so far.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = path
        self._stack = contextlib.ExitStack()
        self.lengths: list[int] = []

    def __enter__(self) -> ShardWriter:
        self._file = self._stack.enter_context(written_whole(self._path))
        return self

    def __exit__(self, *exception) -> bool | None:
        return self._stack.__exit__(*exception)

    def write(self, record: bytes) -> RecordPlace:
        """Appends one record; returns where it stands."""
        place = RecordPlace(files.path(self._path), len(self.lengths), framed(self.lengths), len(record))
        self._file.writelines((header(len(record)), record, footer(record)))
        self.lengths.append(len(record))
        return place


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """What a shard holds, so that nobody has to read it to know; a JSON file of its own for every shard.

    Of format version 2 there is a second file, where every image of the shard stands (`image_table`).

    Attributes:
      fingerprint: of everything that the shard was made from; another one means that it has to be made again.
      names: of the videos, in the order of the records.
      frames: of each video.
      lengths: bytes of each record.
      skipped: (name, reason) of the videos that belong to this shard and could not be read.
      notes: (name, sentence) on what was mended in a video.
      table_crc32c: CRC-32C of the second file, which is written before this one; None: there is none, as in version 1.
    """

    fingerprint: str
    names: tuple[str, ...]
    frames: tuple[int, ...]
    lengths: tuple[int, ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...] = ()
    table_crc32c: int | None = None

    def write(self, path: str | os.PathLike) -> None:
        """Writes the index whole, making its folder where there is none."""
        make_folder(files.path(path).parent)
        fields = dataclasses.asdict(self)
        if not self.notes:
            # Few have any; without them an index has the bytes that it had before there were notes.
            del fields["notes"]
        if self.table_crc32c is None:
            del fields["table_crc32c"]
        else:
            fields = {"format_version": 2, **fields}
        with written_whole(path) as file:
            file.write(json_text(fields, indent=1).encode())

    @classmethod
    def read(cls, path: str | os.PathLike) -> ShardIndex | None:
        """Reads an index; None where there is none or it is not a whole one."""
        # In a bucket each look is a request.
        if not files.is_in_bucket(path):
            if not is_file(path):
                return None
            refuse_unreadable(path)
        try:
            fields = read_object(files.path(path))
            index = cls(
                fingerprint=str(fields["fingerprint"]),
                names=tuple(map(str, fields["names"])),
                frames=_counts(fields["frames"]),
                lengths=_counts(fields["lengths"]),
                skipped=tuple((str(name), str(reason)) for name, reason in fields["skipped"]),
                notes=tuple((str(name), str(note)) for name, note in fields.get("notes", ())),
            )
            if "format_version" in fields:
                if fields["format_version"] != 2:
                    raise ValueError(f"format version {fields['format_version']!r}")
                [checksum] = _counts([fields["table_crc32c"]])
                index = dataclasses.replace(index, table_crc32c=checksum)
        except (ValueError, KeyError, TypeError):
            return None
        return index if len(index.names) == len(index.frames) == len(index.lengths) else None


def _counts(values: Iterable[int]) -> tuple[int, ...]:
    """Returns the values as whole numbers of 0 and more; anything else is a `ValueError`."""
    counts = tuple(values)
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError(f"other values than counts in {counts}")
    return counts


def shard_name(split: str, shard: int, shards: int) -> str:
    """Returns a shard's file name: `shard_name("train", 0, 4)` is "train-00000-of-00004.tfrecord"."""
    return f"{split}-{shard:05d}-of-{shards:05d}.tfrecord"


def index_path(shard: Path) -> Path:
    """Returns where a shard's index stands: "DIR/train-00000-of-00004.tfrecord" has "DIR/index/train-….json"."""
    return (shard.parent / "index" / shard.name).with_suffix(".json")


def table_path(shard: Path) -> Path:
    """Returns where the second file of a shard's index stands: "DIR/index/train-….npz"."""
    return index_path(shard).with_suffix(".npz")
