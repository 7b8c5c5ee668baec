"""Reading a split's records in any order, with an account of the damaged ones."""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from i3d_jax.data import jpeg, records, sequence_example
from i3d_jax.data.dataset import Dataset
from i3d_jax.errors import UserError

Chosen = TypeVar("Chosen")

_NAMES = (records.NAME, records.DATA_PATH)  # what a video is called; other programs may write only the second

_log = logging.getLogger(__name__)


class Place(NamedTuple):
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


class DamagedRecord(Exception):
    """A record that cannot be used; its text says which one, by shard file and number, and what is wrong with it."""

    def __init__(self, place: Place, problem: str):
        super().__init__(f"{place}: {problem}")
        self.place = place


class EncodedVideo(NamedTuple):
    """A parsed record whose frames are still JPEG bytes.

    Attributes:
      place: where the record stands.
      name: of the video; the place where the record has none.
      label: the label's index.
      height: of the first frame, in pixels.
      width: of the first frame, in pixels.
      record: the bytes.
      frames: where each frame's feature stands in them; at least one.
      undecodable: numbers of the frames that are known not to decode.
    """

    place: Place
    name: str
    label: int
    height: int
    width: int
    record: bytes
    frames: list[sequence_example.Span]
    undecodable: Collection[int] = ()

    def jpeg(self, frame: int) -> bytes:
        """Returns the bytes of one frame, counted from 0.

        Raises:
          DamagedRecord: it is no JPEG image, not of the first one's size, or known not to decode.
        """
        if frame in self.undecodable:
            raise DamagedRecord(self.place, f"its frame {frame} is no whole JPEG image")
        try:
            encoded = sequence_example.bytes_value(self.record, self.frames[frame]) or b""
            height, width = jpeg.size(encoded)
        except ValueError as error:
            raise DamagedRecord(self.place, f"its frame {frame} is no JPEG image ({error})") from error
        if (height, width) != (self.height, self.width):
            raise DamagedRecord(
                self.place, f"its frame {frame} is {width}x{height} pixels, the first {self.width}x{self.height}"
            )
        return encoded


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
                raise DamagedRecord(place, f"cut short, {max(found, 0)} of {needed} bytes are there")
            file.seek(place.offset)
            header, record, footer = (
                file.read(size) for size in (records.HEADER_BYTES, place.length, records.FOOTER_BYTES)
            )
    except OSError as error:
        raise DamagedRecord(place, f"cannot be read: {error.strerror}") from error
    if header != records.header(place.length):
        raise DamagedRecord(place, "the header is damaged (it does not match its checksum or its place)")
    if footer != records.footer(record):
        raise DamagedRecord(place, "the bytes do not match their checksum")
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
    try:
        context, lists = sequence_example.split(record)
        frames = sequence_example.features(record, lists.get(records.IMAGE_ENCODED, (0, 0)))
        label = sequence_example.integer_value(record, context.get(records.LABEL_INDEX, (0, 0)))
        names = [sequence_example.bytes_value(record, context.get(key, (0, 0))) for key in _NAMES]
        name = next((name.decode() for name in names if name), str(place))
    except ValueError as error:
        raise DamagedRecord(place, f"it is not a SequenceExample ({error})") from error
    if label is None or not 0 <= label < labels:
        raise DamagedRecord(place, f"its {records.LABEL_INDEX} was expected to be 0 to {labels - 1}, found {label}")
    if not frames:
        raise DamagedRecord(place, f"it has no frames ({records.IMAGE_ENCODED})")
    try:
        height, width = jpeg.size(sequence_example.bytes_value(record, frames[0]) or b"")
    except ValueError as error:
        raise DamagedRecord(place, f"its frame 0 is no JPEG image ({error})") from error
    return EncodedVideo(place, name, label, height, width, record, frames)


class SplitReader:
    """Reads the records of one split, from several threads if need be, and keeps account of the damaged ones.

    Attributes:
      places: of all records.
      damaged: the damaged records met so far, and for each the text of its first `DamagedRecord`.
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
        self.damaged: dict[Place, str] = {}
        self._undecodable: dict[Place, frozenset[int]] = {}
        self._split = split
        self._labels = len(dataset.labels)
        self._max_damaged_share = max_damaged_share
        self._lock = threading.Lock()

    def read(self, place: Place, choose: Callable[[EncodedVideo], Chosen]) -> Chosen | None:
        """Returns what `choose` takes from the video of a record, or None, counting it, where the record is damaged.

        A damaged record is tried again each time, since other frames of it may serve: what comes back may not depend
        on what was read before.

        Args:
          place: one of `places`.
          choose: raises `DamagedRecord` where the video does not serve.

        Raises:
          UserError: a larger share of the split's records is damaged than allowed.
        """
        try:
            video = parse(read_record(place), place, self._labels)
            return choose(video._replace(undecodable=self._undecodable.get(place, ())))
        except DamagedRecord as error:
            self._count(error)
            return None

    def exclude_frames(self, place: Place, frames: Collection[int]) -> None:
        """Notes that some frames of a record do not decode; from now on a clip that needs them finds it damaged."""
        with self._lock:
            self._undecodable[place] = self._undecodable.get(place, frozenset()) | frozenset(frames)

    def _count(self, error: DamagedRecord) -> None:
        """Counts a damaged record, once, and tells of it; refuses to go on above the allowed share."""
        with self._lock:
            new = error.place not in self.damaged
            if new:
                self.damaged[error.place] = str(error)
            damaged = len(self.damaged)
        share = damaged / len(self.places)
        if share > self._max_damaged_share:
            raise UserError(
                f"{damaged} of the {len(self.places)} records of split {self._split!r} are damaged, {share:.1%} where "
                f"{self._max_damaged_share:.1%} are allowed; the last one is {error}"
            )
        if new:
            _log.warning("left out a damaged record: %s", error)
