"""Reading a split's records in any order, with an account of the damaged ones."""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from i3d_jax.data import cpu_tensorflow, records
from i3d_jax.data.dataset import Dataset
from i3d_jax.errors import UserError

Chosen = TypeVar("Chosen")

_log = logging.getLogger(__name__)


class DamagedRecord(Exception):
    """A record that cannot be used; the text says which one, by shard file and number, and what is wrong with it."""


class Place(NamedTuple):
    """Where a record stands: its shard file, its number in it (from 0), the offset of its header and its length in bytes."""

    path: Path
    number: int
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.path.name}, record {self.number}"


class EncodedVideo(NamedTuple):
    """A parsed record whose frames are still JPEG bytes.

    Attributes:
      place: where the record stands.
      name: of the video; the place where the record has none.
      label: the label's index.
      height: of the first frame, in pixels.
      width: of the first frame, in pixels.
      features: the record's own list of frames, at least one.
    """

    place: Place
    name: str
    label: int
    height: int
    width: int
    features: Sequence

    @property
    def num_frames(self) -> int:
        """How many frames the record holds, 1 or more."""
        return len(self.features)

    def frame(self, number: int) -> bytes:
        """Returns the JPEG bytes of one frame, counted from 0; nothing else copies them out of the record."""
        values = self.features[number].bytes_list.value
        if not values:
            raise DamagedRecord(f"{self.place}: frame {number} has no bytes")
        return values[0]


def list_records(dataset: Dataset, split: str) -> list[Place]:
    """Returns where every record of a split stands, shard by shard in the order of the file.

    A shard's index tells it where there is one; else (datasets that other programs wrote) the record headers do.
    """
    places = []
    shards = dataset.splits[split].shards
    for shard in range(shards):
        path = dataset.shard_path(split, shard)
        index = records.ShardIndex.read(records.index_path(dataset.directory, split, shard, shards))
        lengths = scan_lengths(path) if index is None else index.lengths
        offset = 0
        for number, length in enumerate(lengths):
            places.append(Place(path, number, offset, length))
            offset += records.HEADER_BYTES + length + records.FOOTER_BYTES
    return places


def scan_lengths(path: Path) -> Iterator[int]:
    """Yields the length in bytes of every record of a TFRecord file, from its headers alone.

    Where a header is damaged nothing after it can be found: a record of length 0 stands for the rest of the file.
    """
    with open(path, "rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < end:
            file.seek(offset)
            header = file.read(records.HEADER_BYTES)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == records.HEADER_BYTES else 0
            if header != records.header(length):
                yield 0
                return
            yield length
            offset += records.HEADER_BYTES + length + records.FOOTER_BYTES


def read_record(place: Place) -> bytes:
    """Reads one record and checks both of its checksums.

    Raises:
      DamagedRecord: the file is cut short, a checksum does not match, or the disk gives an error.
    """
    try:
        with open(place.path, "rb", buffering=0) as file:
            needed = records.HEADER_BYTES + place.length + records.FOOTER_BYTES
            found = os.fstat(file.fileno()).st_size - place.offset
            if found < needed:
                raise DamagedRecord(f"{place}: cut short, {max(found, 0)} of {needed} bytes are there")
            file.seek(place.offset)
            header, record, footer = (
                file.read(size) for size in (records.HEADER_BYTES, place.length, records.FOOTER_BYTES)
            )
    except OSError as error:
        raise DamagedRecord(f"{place}: cannot be read: {error.strerror}") from error
    if header != records.header(place.length):
        raise DamagedRecord(f"{place}: the header is damaged (it does not match its checksum or its place)")
    if footer != records.footer(record):
        raise DamagedRecord(f"{place}: the bytes do not match their checksum")
    return record


def parse(record: bytes, place: Place, labels: int) -> EncodedVideo:
    """Reads a serialized SequenceExample; its frames stay bytes.

    Args:
      record: the bytes.
      place: where they stand, for the messages.
      labels: how many labels the dataset has; the record's index has to be one of theirs.

    Raises:
      DamagedRecord: it does not parse, or lacks frames, or a label that the dataset has.
    """
    tf = cpu_tensorflow.load()
    from google.protobuf.message import DecodeError

    try:
        example = tf.train.SequenceExample.FromString(record)
    except DecodeError as error:
        raise DamagedRecord(f"{place}: not a SequenceExample") from error
    # Asked for first: looking up a key that a protobuf map lacks would add it.
    context, lists = example.context.feature, example.feature_lists.feature_list
    indices = list(context[records.LABEL_INDEX].int64_list.value) if records.LABEL_INDEX in context else []
    if not indices or not 0 <= indices[0] < labels:
        raise DamagedRecord(f"{place}: {records.LABEL_INDEX} was expected to be 0 to {labels - 1}, found {indices}")
    features = lists[records.IMAGE_ENCODED].feature if records.IMAGE_ENCODED in lists else []
    if not features:
        raise DamagedRecord(f"{place}: it has no frames ({records.IMAGE_ENCODED})")
    names = [context[key].bytes_list.value for key in (records.NAME, records.DATA_PATH) if key in context]
    name = next((values[0].decode(errors="replace") for values in names if values), str(place))
    video = EncodedVideo(place, name, indices[0], height=0, width=0, features=features)
    try:
        height, width, _ = tf.io.extract_jpeg_shape(video.frame(0)).numpy().tolist()
    except tf.errors.InvalidArgumentError as error:
        raise DamagedRecord(f"{place}: its frames are not JPEG images") from error
    return video._replace(height=height, width=width)


class SplitReader:
    """Reads the records of one split, from several threads if need be, and keeps account of the damaged ones.

    Attributes:
      places: of all records.
      damaged: for each damaged record met so far, by its number in the split, what is wrong with it.
    """

    def __init__(self, dataset: Dataset, split: str, *, max_damaged_share: float):
        """Lists the records of a split.

        Raises:
          UserError: there is no such split, or it is empty.
        """
        if split not in dataset.splits:
            raise UserError(f"{dataset.directory} has no split {split!r}; it has {', '.join(dataset.splits) or 'none'}")
        self.places = list_records(dataset, split)
        if not self.places:
            raise UserError(f"the split {split!r} of {dataset.directory} is empty")
        self.damaged: dict[int, str] = {}
        self._split = split
        self._labels = len(dataset.labels)
        self._max_damaged_share = max_damaged_share
        self._lock = threading.Lock()

    def read(self, record: int, choose: Callable[[EncodedVideo], Chosen]) -> Chosen | None:
        """Returns what `choose` takes from a record, or None where the record is damaged.

        Args:
          record: its number in the split, from 0.
          choose: raises `DamagedRecord` where the video does not serve.

        Raises:
          UserError: a larger share of the split's records is damaged than allowed.
        """
        if record in self.damaged:
            return None
        place = self.places[record]
        try:
            return choose(parse(read_record(place), place, self._labels))
        except DamagedRecord as error:
            self.report(record, error)
            return None

    def report(self, record: int, error: DamagedRecord) -> None:
        """Counts a damaged record, once, and tells of it.

        Raises:
          UserError: a larger share of the split's records is damaged than allowed.
        """
        with self._lock:
            if record in self.damaged:
                return
            self.damaged[record] = str(error)
            share = len(self.damaged) / len(self.places)
            if share > self._max_damaged_share:
                raise UserError(
                    f"{len(self.damaged)} of the {len(self.places)} records of split {self._split!r} are damaged "
                    f"({share:.1%}, at most {self._max_damaged_share:.1%} are allowed), the last one {error}"
                )
        _log.warning("skipping a damaged record: %s", error)
