"""Reading a split's records in any order, with an account of the damaged ones."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import google_crc32c

from i3d_jax.data.dataset import Dataset
from i3d_jax.records import image, sequence_example, shards, spans
from i3d_jax.records.image_table import ImagePlaces, ImageTable
from i3d_jax.records.layout import Layout, MediaSequence
from i3d_jax.records.shards import RecordPlace
from i3d_jax.system import files
from i3d_jax.system.errors import UserError

Chosen = TypeVar("Chosen")

_IMAGES = {"rgb": "frame", "flow": "flow field"}  # what an image of a stream is called
_OURS = MediaSequence()

_log = logging.getLogger(__name__)


class DamagedRecord(Exception):
    """A record that cannot be used; its text says which one, by shard file and number, and what is wrong with it."""

    def __init__(self, place: RecordPlace, problem: str):
        super().__init__(f"{place}: {problem}")
        self.place = place


class Stored(Protocol):
    """The images of a video, where they are stored."""

    def read(self, wanted: Sequence[tuple[str, int]]) -> list[bytes]:
        """Returns the bytes of images, each given by its stream and its number, from 0.

        Raises:
          DamagedRecord: one is not there as it was written.
        """


class EncodedVideo(NamedTuple):
    """A video whose frames and flow fields are still JPEG or PNG bytes, and mostly still on the disk.

    Attributes:
      place: where the record stands.
      name: of the video; the place where the record has none.
      label: the label's index.
      height: of the first image, in pixels.
      width: of the first image, in pixels.
      counts: for each stream that was asked for, how many frames or fields there are; at least one.
      stored: they themselves.
      undecodable: (stream, number) of the images that are known not to decode.
    """

    place: RecordPlace
    name: str
    label: int
    height: int
    width: int
    counts: Mapping[str, int]
    stored: Stored
    undecodable: Collection[tuple[str, int]] = ()

    @property
    def num_frames(self) -> int:
        """How many frames the video has, 1 or more: N frames have N - 1 flow fields."""
        return min(count + (stream == "flow") for stream, count in self.counts.items())

    def image(self, stream: str, number: int) -> bytes:
        """Returns the bytes of one frame or field, counted from 0, as `images` does."""
        return self.images([(stream, number)])[0]

    def images(self, wanted: Sequence[tuple[str, int]]) -> list[bytes]:
        """Returns the bytes of frames and fields, each given by its stream and its number, read together.

        Raises:
          DamagedRecord: one is not as it was written, no image, not of the first one's size, or known not to decode.
        """
        for image_of in wanted:
            if image_of in self.undecodable:
                raise DamagedRecord(self.place, f"{_called(*image_of)} is no whole image")
        found = self.stored.read(wanted)
        for image_of, encoded in zip(wanted, found, strict=True):
            height, width = _size(encoded, self.place, image_of)
            if (height, width) != (self.height, self.width):
                problem = f"{_called(*image_of)} is {width}x{height} pixels, the first {self.width}x{self.height}"
                raise DamagedRecord(self.place, problem)
        return found


class _InRecord(NamedTuple):
    """Images in a record that has been read whole.

    Attributes:
      place: of the record.
      record: the bytes.
      spans: for each stream, where each image stands in them, as
      layout: takes it.
    """

    place: RecordPlace
    record: bytes
    spans: Mapping[str, list[sequence_example.Span]]
    layout: Layout

    def read(self, wanted: Sequence[tuple[str, int]]) -> list[bytes]:
        """Implements `Stored`."""
        return [self._image(stream, number) for stream, number in wanted]

    def _image(self, stream: str, number: int) -> bytes:
        try:
            return self.layout.image(self.record, self.spans[stream][number])
        except ValueError as error:
            raise _no_image(self.place, (stream, number), error) from error


class _InShard(NamedTuple):
    """Images that are read out of the shard one by one, where its index says that they stand."""

    place: RecordPlace
    images: Mapping[str, ImagePlaces]

    def read(self, wanted: Sequence[tuple[str, int]]) -> list[bytes]:
        """Implements `Stored`."""
        places = [self._place(stream, number) for stream, number in wanted]
        try:
            found = spans.read(self.place.path, [(offset, length) for offset, length, _ in places])
        except OSError as error:
            raise DamagedRecord(self.place, f"cannot be read: {error.strerror}") from error
        for image_of, (offset, length, checksum), encoded in zip(wanted, places, found, strict=True):
            if len(encoded) < length:
                problem = f"{_called(*image_of)} is cut short, {len(encoded)} of {length} bytes are there"
                raise DamagedRecord(self.place, problem)
            if (own := google_crc32c.value(encoded)) != checksum:
                raise DamagedRecord(
                    self.place,
                    f"{_called(*image_of)} does not match its checksum: {length} bytes at byte {offset} of the CRC-32C "
                    f"{checksum:08x} were expected, found {own:08x}: the shard is damaged or younger than its index",
                )
        return found

    def _place(self, stream: str, number: int) -> tuple[int, int, int]:
        _, offsets, lengths, checksums = self.images[stream]
        return int(offsets[number]), int(lengths[number]), int(checksums[number])


def _called(stream: str, number: int) -> str:
    return f"its {_IMAGES[stream]} {number}"


def _size(encoded: bytes, place: RecordPlace, image_of: tuple[str, int]) -> tuple[int, int]:
    """Returns (height, width) of an image in pixels."""
    try:
        return image.size(encoded)
    except ValueError as error:
        raise _no_image(place, image_of, error) from error


def _no_image(place: RecordPlace, image_of: tuple[str, int], error: ValueError) -> DamagedRecord:
    return DamagedRecord(place, f"{_called(*image_of)} is no JPEG or PNG image ({error})")


def read_record(place: RecordPlace) -> bytes:
    """Reads one record and checks both of its checksums.

    Raises:
      DamagedRecord: the file is cut short, a checksum does not match, or the disk gives an error.
    """
    needed = shards.HEADER_BYTES + place.length + shards.FOOTER_BYTES
    try:
        found = spans.read(place.path, [(place.offset, needed)])[0]
    except OSError as error:
        raise DamagedRecord(place, f"cannot be read: {error.strerror}") from error
    if len(found) < needed:
        raise DamagedRecord(place, f"cut short, {len(found)} of {needed} bytes are there")
    header, footer = found[: shards.HEADER_BYTES], found[-shards.FOOTER_BYTES :]
    record = found[shards.HEADER_BYTES : -shards.FOOTER_BYTES]
    if header != shards.header(place.length):
        raise DamagedRecord(place, "the header is damaged (it does not match its checksum or its place)")
    if footer != shards.footer(record):
        raise DamagedRecord(place, "the bytes do not match their checksum")
    return record


def parse(
    record: bytes, place: RecordPlace, labels: int, streams: Collection[str] = ("rgb",), layout: Layout = _OURS
) -> EncodedVideo:
    """Reads a serialized record; its frames and flow fields stay bytes.

    Args:
      record: the bytes.
      place: where they stand, for the messages.
      labels: how many labels the dataset has; the record's index has to be one of theirs.
      streams: which of "rgb" and "flow" to look for.
      layout: of the dataset's records.

    Raises:
      DamagedRecord: it does not parse, lacks a stream, has fewer fields than its frames need, or lacks a label that the
        dataset has.
    """
    try:
        name, label, images = layout.find(record, streams)
    except ValueError as error:
        raise DamagedRecord(place, f"it is not a SequenceExample or an Example ({error})") from error
    if isinstance(label, str):
        raise DamagedRecord(place, f"its label {label!r} is none of the dataset's {labels}")
    if label is None or not 0 <= label < labels:
        raise DamagedRecord(place, f"its {layout.label_key} was expected to be 0 to {labels - 1}, found {label}")
    counts = {stream: len(own) for stream, own in images.items()}
    _refuse_incomplete(place, counts, layout)
    stored = _InRecord(place, record, images, layout)
    first = next(iter(images)), 0
    height, width = _size(stored.read([first])[0], place, first)
    return EncodedVideo(place, name or str(place), label, height, width, counts, stored)


def _refuse_incomplete(place: RecordPlace, counts: Mapping[str, int], layout: Layout) -> None:
    """Refuses a record that lacks a stream, or has fewer fields than its frames need."""
    for stream, count in counts.items():
        if not count:
            raise DamagedRecord(place, f"it has no {_IMAGES[stream]}s ({layout.image_keys[stream]})")
    if len(counts) > 1 and not 2 <= counts["rgb"] <= counts["flow"] + 1:
        found = f"{counts['flow']} flow fields for {counts['rgb']} frames"
        raise DamagedRecord(place, f"a flow field from each frame to the next was expected, found {found}")


class VideoOpener:
    """Opens the videos of a dataset's records: by their images' places where the shard's index has them, else whole.

    Args:
      dataset: whose videos.
      streams: which of "rgb" and "flow" are asked for.
    """

    def __init__(self, dataset: Dataset, streams: Collection[str]):
        self._dataset = dataset
        self._streams = tuple(streams)
        # Each is read, by one thread, when the first of its shard's videos is opened.
        self._tables: dict[Path, ImageTable | None] = {}
        self._locks: dict[Path, threading.Lock] = {}

    def open(self, place: RecordPlace) -> EncodedVideo:
        """Returns the video of a record, from any thread.

        Raises:
          DamagedRecord: as `parse` and `read_record`, or, where only images are read, once these are.
        """
        with self._locks.setdefault(place.path, threading.Lock()):
            if place.path not in self._tables:
                self._tables[place.path] = self._dataset.image_table(place.path, self._streams)
        table = self._tables[place.path]
        try:
            video = None if table is None else table.video(place)
        except OSError as error:
            raise DamagedRecord(place, f"its shard's index cannot be read: {error.strerror}") from error
        if video is None:
            labels, layout = len(self._dataset.labels), self._dataset.layout
            return parse(read_record(place), place, labels, self._streams, layout)
        images = {stream: video.images[stream] for stream in self._streams}
        counts = {stream: len(own.offsets) for stream, own in images.items()}
        _refuse_incomplete(place, counts, self._dataset.layout)
        height, width = images[self._streams[0]].size
        return EncodedVideo(place, video.name, video.label, height, width, counts, _InShard(place, images))


class SplitReader:
    """Reads the records of one split, from several threads if need be, and keeps account of the damaged ones.

    Attributes:
      places: of all records, shard by shard.
      shard_sizes: how many of them are in each shard.
      damaged: the damaged records met so far, and for each the text of its first `DamagedRecord`.
    """

    def __init__(self, dataset: Dataset, split: str, *, max_damaged_share: float, streams: Collection[str] = ("rgb",)):
        """Lists the records of a split.

        Raises:
          UserError: there is no such split, it is empty, or it has no flow and flow is one of `streams`; or a larger
            share of its videos than allowed is not there.
        """
        if "flow" in streams and dataset.preprocessing.flow is None:
            raise UserError(f"the stream 'flow' was asked of {dataset.directory}, {dataset.without_flow}")
        self.places = dataset.records(split)
        if not self.places:
            raise UserError(f"the split {split!r} of {dataset.directory} is empty")
        self.damaged: dict[RecordPlace, str] = {}
        self._undecodable: dict[RecordPlace, frozenset[tuple[str, int]]] = {}
        self._split = split
        self._remedy = dataset.remedy
        self._videos = VideoOpener(dataset, streams)
        self._max_damaged_share = max_damaged_share
        self._lock = threading.Lock()
        self._refuse_missing()

    def _refuse_missing(self) -> None:
        """Tells of the shards that end before their records do; refuses a split that lacks too many."""
        paths = list({place.path for place in self.places})
        sizes = dict(zip(paths, files.each(shards.size, paths), strict=True))
        videos = Counter(place.path for place in self.places)
        self.shard_sizes = tuple(videos.values())
        self._cut_short = dict.fromkeys(
            place for place in self.places if place.offset + shards.framed([place.length]) > sizes[place.path]
        )
        missing = Counter(place.path for place in self._cut_short)
        if not missing:
            return
        named = [f"{path.name} lacks {count} of {videos[path]} videos" for path, count in missing.items()]
        share = missing.total() / len(self.places)
        if share > self._max_damaged_share:
            more = f" and {len(named) - 3} more shards lack some" if len(named) > 3 else ""
            raise UserError(
                f"{missing.total()} of the {len(self.places)} records of split {self._split!r} are damaged, "
                f"{share:.1%} where {self._max_damaged_share:.1%} are allowed; {', '.join(named[:3])}{more}; "
                f"{self._remedy}"
            )
        for sentence in named:
            _log.warning("damaged: %s", sentence)

    def read(self, place: RecordPlace, choose: Callable[[EncodedVideo], Chosen]) -> Chosen | None:
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
            if place in self._cut_short:
                # Even where the images of a clip are there: it has been counted.
                read_record(place)
            video = self._videos.open(place)
            return choose(video._replace(undecodable=self._undecodable.get(place, ())))
        except DamagedRecord as error:
            self._count(error)
            return None

    def exclude_images(self, place: RecordPlace, images: Collection[tuple[str, int]]) -> None:
        """Notes (stream, number) of images that do not decode; from now on a clip that needs them finds it damaged."""
        with self._lock:
            self._undecodable[place] = self._undecodable.get(place, frozenset()) | frozenset(images)

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
                f"{self._max_damaged_share:.1%} are allowed; the last one is {error}; {self._remedy}"
            )
        if new:
            _log.warning("left out a damaged record: %s", error)
