"""Reading a split's records in any order, with an account of the damaged ones."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeVar

from i3d_jax.data.dataset import Dataset
from i3d_jax.records import image, sequence_example, shards
from i3d_jax.records.layout import Layout, MediaSequence
from i3d_jax.records.shards import RecordPlace
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


class EncodedVideo(NamedTuple):
    """A parsed record whose frames and flow fields are still JPEG or PNG bytes.

    Attributes:
      place: where the record stands.
      name: of the video; the place where the record has none.
      label: the label's index.
      height: of the first image, in pixels.
      width: of the first image, in pixels.
      record: the bytes.
      images: for each stream that was asked for, where each frame or field stands in them; at least one.
      layout: how they are to be read there.
      undecodable: (stream, number) of the images that are known not to decode.
    """

    place: RecordPlace
    name: str
    label: int
    height: int
    width: int
    record: bytes
    images: Mapping[str, list[sequence_example.Span]]
    layout: Layout
    undecodable: Collection[tuple[str, int]] = ()

    @property
    def num_frames(self) -> int:
        """How many frames the video has, 1 or more: N frames have N - 1 flow fields."""
        return min(len(spans) + (stream == "flow") for stream, spans in self.images.items())

    def image(self, stream: str, number: int) -> bytes:
        """Returns the bytes of one frame or field, counted from 0.

        Raises:
          DamagedRecord: it is no image, not of the first one's size, or known not to decode.
        """
        what = f"its {_IMAGES[stream]} {number}"
        if (stream, number) in self.undecodable:
            raise DamagedRecord(self.place, f"{what} is no whole image")
        encoded, (height, width) = _image_and_size(
            self.layout, self.record, self.place, self.images[stream][number], what
        )
        if (height, width) != (self.height, self.width):
            raise DamagedRecord(self.place, f"{what} is {width}x{height} pixels, the first {self.width}x{self.height}")
        return encoded


def _image_and_size(
    layout: Layout, record: bytes, place: RecordPlace, span: sequence_example.Span, what: str
) -> tuple[bytes, tuple[int, int]]:
    try:
        encoded = layout.image(record, span)
        return encoded, image.size(encoded)
    except ValueError as error:
        raise DamagedRecord(place, f"{what} is no JPEG or PNG image ({error})") from error


def read_record(place: RecordPlace) -> bytes:
    """Reads one record and checks both of its checksums.

    Raises:
      DamagedRecord: the file is cut short, a checksum does not match, or the disk gives an error.
    """
    try:
        with open(place.path, "rb", buffering=0) as file:
            needed = shards.HEADER_BYTES + place.length + shards.FOOTER_BYTES
            found = os.fstat(file.fileno()).st_size - place.offset
            if found < needed:
                raise DamagedRecord(place, f"cut short, {max(found, 0)} of {needed} bytes are there")
            file.seek(place.offset)
            header, record, footer = (
                file.read(size) for size in (shards.HEADER_BYTES, place.length, shards.FOOTER_BYTES)
            )
    except OSError as error:
        raise DamagedRecord(place, f"cannot be read: {error.strerror}") from error
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
    for stream, spans in images.items():
        if not spans:
            raise DamagedRecord(place, f"it has no {_IMAGES[stream]}s ({layout.image_keys[stream]})")
    if len(images) > 1 and not 2 <= len(images["rgb"]) <= len(images["flow"]) + 1:
        counts = f"{len(images['flow'])} flow fields for {len(images['rgb'])} frames"
        raise DamagedRecord(place, f"a flow field from each frame to the next was expected, found {counts}")
    first = next(iter(images))
    _, (height, width) = _image_and_size(layout, record, place, images[first][0], f"its {_IMAGES[first]} 0")
    return EncodedVideo(place, name or str(place), label, height, width, record, images, layout)


class SplitReader:
    """Reads the records of one split, from several threads if need be, and keeps account of the damaged ones.

    Attributes:
      places: of all records.
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
        self._streams = tuple(streams)
        self._labels = len(dataset.labels)
        self._layout = dataset.layout
        self._max_damaged_share = max_damaged_share
        self._lock = threading.Lock()
        self._refuse_missing()

    def _refuse_missing(self) -> None:
        """Tells of the shards that end before their records do; refuses a split that lacks too many."""
        sizes = {path: shards.size(path) for path in {place.path for place in self.places}}
        videos = Counter(place.path for place in self.places)
        missing = Counter(
            place.path for place in self.places if place.offset + shards.framed([place.length]) > sizes[place.path]
        )
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
            video = parse(read_record(place), place, self._labels, self._streams, self._layout)
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
