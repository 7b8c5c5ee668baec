"""Where every image of a shard stands, and what else a clip needs of its videos, so that it reads nothing more of them.

It is the second file of a shard's index (format version 2), an .npz with, for N videos in the order of the records:

  "name" [N] str, "label" [N] int64 and "label_name" [N] str: what the record says
  "record" [N, 2] int64: the record's offset in the shard and its length, in bytes
  and for each stream S, "rgb" and "flow":
  "S/count" [N] int64: its images; of a record that cannot be used 0, in both streams
  "S/size" [N, 2] int64: height and width of the first, in pixels
  "S/offset" int64, "S/length" uint32 and "S/crc32c" uint32 [sum of the counts]: of each image in the shard, in bytes

That is 16 bytes an image. The shard's `ShardIndex` has the file's checksum.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from i3d_jax.records import image, layout, sequence_example
from i3d_jax.records.shards import HEADER_BYTES, RecordPlace, ShardIndex, index_path, table_path
from i3d_jax.system.archives import ends_of_arrays, parse_arrays
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_in_bucket, opened, written_whole

STREAMS = ("rgb", "flow")
# Arrays of each stream, and of which kind they are.
_OF_AN_IMAGE = {"offset": "i", "length": "u", "crc32c": "u"}
_LAYOUT = layout.MediaSequence()

_log = logging.getLogger(__name__)


class ImagePlaces(NamedTuple):
    """The images of one stream of a video.

    Attributes:
      size: (height, width) of the first in pixels; (0, 0) where there is none.
      offsets: of each in the shard, in bytes.
      lengths: of each, in bytes.
      checksums: CRC-32C of each.
    """

    size: tuple[int, int]
    offsets: np.ndarray
    lengths: np.ndarray
    checksums: np.ndarray


class TabledVideo(NamedTuple):
    """What the table has of a video: its name, its label's index, and its images by stream."""

    name: str
    label: int
    images: Mapping[str, ImagePlaces]


class ImageTable:
    """The table of a shard.

    Args:
      arrays: by name, as the file holds them.
      streams: of which images are asked for; the others' are let go.

    Raises:
      ValueError: the arrays are no such table.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], streams: Collection[str] = STREAMS):
        self._names = _array(arrays, "name", "U", ())
        videos = len(self._names)
        self._labels = _array(arrays, "label", "i", (), videos)
        self._label_names = _array(arrays, "label_name", "U", (), videos)
        self._records = _array(arrays, "record", "i", (2,), videos)
        counts = {stream: _array(arrays, f"{stream}/count", "i", (), videos) for stream in STREAMS}
        self._usable = np.any([count > 0 for count in counts.values()], axis=0)
        self._ends = {stream: np.cumsum(count) for stream, count in counts.items() if stream in streams}
        self._sizes: dict[str, np.ndarray] = {}
        self._images: dict[str, list[Any]] = {}
        for stream, ends in self._ends.items():
            images = int(ends[-1]) if videos else 0
            self._sizes[stream] = _array(arrays, f"{stream}/size", "i", (2,), videos)
            kinds = _OF_AN_IMAGE.items()
            self._images[stream] = [_array(arrays, f"{stream}/{key}", kind, (), images) for key, kind in kinds]
            if (counts[stream] < 0).any() or not self._within_records(stream, counts[stream]):
                raise ValueError(f"images of {stream} that leave their records")

    def leave_on_disk(self, path: Path, content: bytes) -> None:
        """Lets the images' places go, which are by far the most: each video's are read from the file when it is asked.

        Args:
          path: of the file, on this machine.
          content: its bytes.
        """
        ends = ends_of_arrays(content)
        for stream, arrays in self._images.items():
            names = [f"{stream}/{key}" for key in _OF_AN_IMAGE]
            if ends.keys() >= set(names):
                own = zip(names, arrays, strict=True)
                self._images[stream] = [_OnDisk(path, ends[name] - array.nbytes, array.dtype) for name, array in own]

    def _within_records(self, stream: str, counts: np.ndarray) -> bool:
        offsets, lengths, _ = self._images[stream]
        starts, record_lengths = np.repeat(self._records, counts, axis=0).T
        room = starts + HEADER_BYTES + record_lengths - offsets
        return bool(((offsets >= starts) & (lengths <= room)).all())

    def is_of(self, labels: Sequence[str]) -> bool:
        """Says whether the videos' labels are those of a dataset, by index and name: an older one counts otherwise."""
        pairs = set(zip(self._labels[self._usable].tolist(), self._label_names[self._usable].tolist(), strict=True))
        return all(0 <= label < len(labels) and labels[label] == name for label, name in pairs)

    def video(self, place: RecordPlace) -> TabledVideo | None:
        """Returns what the table has of the video of a record; None where it has no such record, or no images of it.

        Raises:
          OSError: the places were left on the disk, and cannot be read any more.
        """
        number = place.number
        if not number < len(self._names) or not self._usable[number]:
            return None
        if tuple(self._records[number]) != (place.offset, place.length):
            return None
        images = {}
        for stream, ends in self._ends.items():
            own = slice(int(ends[number - 1]) if number else 0, int(ends[number]))
            height, width = self._sizes[stream][number].tolist()
            images[stream] = ImagePlaces((height, width), *(values[own] for values in self._images[stream]))
        return TabledVideo(str(self._names[number]), int(self._labels[number]), images)


@dataclasses.dataclass(frozen=True)
class _OnDisk:
    """An array of a file, of which slices are read: the system keeps in memory what there is room for."""

    path: Path
    offset: int
    dtype: np.dtype

    def __getitem__(self, part: slice) -> np.ndarray:
        count = part.stop - part.start
        found = np.fromfile(self.path, self.dtype, count, offset=self.offset + part.start * self.dtype.itemsize)
        if len(found) < count:
            raise OSError(errno.EIO, f"{self.path.name} has been cut short")
        return found


class TableWriter:
    """Gathers the table of a shard from its records, one after the other."""

    def __init__(self) -> None:
        self._videos: list[tuple[str, int, str]] = []
        self._records: list[tuple[int, int]] = []
        self._images: dict[str, list[ImagePlaces]] = {stream: [] for stream in STREAMS}

    def add(self, place: RecordPlace, record: bytes | None) -> str | None:
        """Adds a record; of one that cannot be used, or None for a damaged one, the table has no images.

        Returns:
          The video's name, None where it cannot be used.
        """
        try:
            if record is None:
                raise ValueError("it is damaged")
            video, images = _facts(place, record)
        except ValueError:
            nothing = [np.zeros(0, np.int64)] * 3
            video, images = ("", -1, ""), {stream: ImagePlaces((0, 0), *nothing) for stream in STREAMS}
        self._videos.append(video)
        self._records.append((place.offset, place.length))
        for stream, own in self._images.items():
            own.append(images[stream])
        return video[0] or None

    def write(self, shard: Path) -> int:
        """Writes the file of a shard whole, in a folder that is there; returns its CRC-32C.

        The same records always give the same bytes.
        """
        content = io.BytesIO()
        np.savez(content, **self.arrays())
        with written_whole(table_path(shard)) as file:
            file.write(content.getvalue())
        return google_crc32c.value(content.getvalue())

    def arrays(self) -> dict[str, Any]:
        """Returns the arrays of the file by name."""
        names, labels, label_names = zip(*self._videos, strict=True) if self._videos else ((), (), ())
        arrays: dict[str, Any] = {
            "name": np.array(names, np.str_),
            "label": np.array(labels, np.int64),
            "label_name": np.array(label_names, np.str_),
            "record": np.array(self._records, np.int64).reshape(-1, 2),
        }
        for stream, videos in self._images.items():
            arrays[f"{stream}/count"] = np.array([len(video.offsets) for video in videos], np.int64)
            arrays[f"{stream}/size"] = np.array([video.size for video in videos], np.int64).reshape(-1, 2)
            for key, kind, values in (
                ("offset", np.int64, [video.offsets for video in videos]),
                ("length", np.uint32, [video.lengths for video in videos]),
                ("crc32c", np.uint32, [video.checksums for video in videos]),
            ):
                arrays[f"{stream}/{key}"] = np.concatenate([np.zeros(0, np.int64), *values]).astype(kind)
        return arrays


def stands(shard: Path, index: ShardIndex) -> bool:
    """Says whether the table that a shard's index tells of is there and whole."""
    try:
        return index.table_crc32c is not None and _checked(shard, index.table_crc32c) is not None
    except (UserError, ValueError):
        return False


def agrees(shard: Path, index: ShardIndex, gathered: TableWriter) -> bool:
    """Says whether a shard's table is there, whole, and what was gathered from the records; true in version 1."""
    if index.table_crc32c is None:
        return True
    try:
        found = parse_arrays(_checked(shard, index.table_crc32c), table_path(shard), "images' places")
    except (UserError, ValueError):
        return False
    expected = gathered.arrays()
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


def read(shard: Path, labels: Sequence[str], streams: Collection[str]) -> ImageTable | None:
    """Reads the table of a shard; None, in version 1 or where it is not that of its index and labels, which is told.

    Args:
      shard: whose table.
      labels: of the dataset.
      streams: of which images are asked for.
    """
    try:
        index = ShardIndex.read(index_path(shard))
        if index is None or index.table_crc32c is None:
            return None
        content = _checked(shard, index.table_crc32c)
        table = ImageTable(parse_arrays(content, table_path(shard), "images' places"), streams)
        if not table.is_of(labels):
            raise ValueError("its labels are not those of dataset.json")
        # In a bucket it would be a request for every video.
        if not is_in_bucket(shard):
            table.leave_on_disk(table_path(shard), content)
    except (UserError, ValueError) as error:
        _log.warning(
            "%s is left out, and the records of %s are read whole: %s; prepare --index_only writes it again",
            *(table_path(shard).name, shard.name, error),
        )
        return None
    return table


def _checked(shard: Path, expected: int) -> bytes:
    """Returns the bytes of a shard's table; a `ValueError` says that they have another checksum."""
    with opened(table_path(shard)) as file:
        content = file.read()
    if (found := google_crc32c.value(content)) != expected:
        raise ValueError(f"the CRC-32C {expected:08x} was expected of its {len(content)} bytes, found {found:08x}")
    return content


def _facts(place: RecordPlace, record: bytes) -> tuple[tuple[str, int, str], dict[str, ImagePlaces]]:
    """Returns (name, label, label's name) of a record of ours and its images; a `ValueError` says what it lacks."""
    name, label, found = _LAYOUT.find(record, STREAMS)
    label_name = layout.label_name(record, sequence_example.split(record)[0])
    if not name or not isinstance(label, int) or not label_name or not found["rgb"]:
        raise ValueError("a record of ours has a name, a label and frames")
    images = {}
    for stream, features in found.items():
        spans = [(sequence_example.bytes_values(record, feature) or [(0, 0)])[0] for feature in features]
        images[stream] = ImagePlaces(
            image.size(record[slice(*spans[0])]) if spans else (0, 0),
            np.array([place.offset + HEADER_BYTES + start for start, _ in spans], np.int64),
            np.array([end - start for start, end in spans], np.int64),
            np.array([google_crc32c.value(record[slice(*span)]) for span in spans], np.int64),
        )
    return (name, label, label_name), images


def _array(
    arrays: Mapping[str, np.ndarray], name: str, kind: str, axes: tuple[int, ...], length: int | None = None
) -> np.ndarray:
    """Returns an array of a file; a `ValueError` says that it is not there, or of another kind or shape."""
    array = arrays.get(name)
    if array is None or array.dtype.kind != kind or array.ndim != 1 + len(axes) or array.shape[1:] != axes:
        raise ValueError(f"{name} was expected as an array of {kind} [N{', 2' * len(axes)}]")
    if length is not None and len(array) != length:
        raise ValueError(f"{name} was expected to be {length} long, found {len(array)}")
    return array
