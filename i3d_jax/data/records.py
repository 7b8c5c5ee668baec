"""The files of a dataset: SequenceExamples with MediaSequence keys in TFRecord shards, and an index of each shard.

References: MediaPipe's `media_sequence.h` for the keys, TensorFlow's `record_writer.cc` for the framing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import google_crc32c

from i3d_jax.data import sequence_example_writer
from i3d_jax.data.sequence_example_writer import Value
from i3d_jax.files import make_folder, written_whole
from i3d_jax.flow import codec

NAME = "example/id"
DATA_PATH = "clip/data_path"
# What a video is called, the most telling first; MediaPipe's script writes the first three at most, DMVR's the last.
NAMES = (NAME, DATA_PATH, "clip/media_id", "video/filename")
START = "clip/start/timestamp"
END = "clip/end/timestamp"
LABEL_STRING = "clip/label/string"  # MediaSequence's name
LABEL_TEXT = "clip/label/text"  # DMVR's name for the same
LABEL_INDEX = "clip/label/index"
IMAGE_FORMAT = "image/format"
IMAGE_CHANNELS = "image/channels"
IMAGE_HEIGHT = "image/height"
IMAGE_WIDTH = "image/width"
IMAGE_FRAME_RATE = "image/frame_rate"
IMAGE_ENCODED = "image/encoded"
IMAGE_TIMESTAMP = "image/timestamp"
FLOW = "FORWARD_FLOW/"  # the prefix under which flow has the same keys as the frames
FLOW_SATURATION = "FORWARD_FLOW/image/saturation"  # pixels of displacement that the largest byte stands for

HEADER_BYTES = 12  # the payload's length (uint64) and its masked checksum (uint32)
FOOTER_BYTES = 4  # the payload's masked checksum (uint32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredVideo:
    """One video as a record holds it; picklable, so that a worker process can hand it to the writer.

    Attributes:
      name: unique in the dataset.
      data_path: the source file as the annotations name it.
      label: the action.
      label_index: the label's place in the dataset's list of labels, from 0.
      start_microseconds: where the piece starts in the source file.
      end_microseconds: where it ends.
      frame_rate: frames a second.
      height: pixels.
      width: pixels.
      frames: one RGB JPEG a frame.
      timestamps: microseconds of each frame from the start of the piece.
      flow: one PNG of the frames' size for the field from each frame to the next, one fewer than there are frames, its
        channels u, v and 0 as `flow.codec` codes them; () for a video without flow.
    """

    name: str
    data_path: str
    label: str
    label_index: int
    start_microseconds: int
    end_microseconds: int
    frame_rate: float
    height: int
    width: int
    frames: tuple[bytes, ...]
    timestamps: tuple[int, ...]
    flow: tuple[bytes, ...] = ()


def encode(video: StoredVideo) -> bytes:
    """Returns the video as a serialized `tf.train.SequenceExample`; the same video always gives the same bytes."""

    def images(format_name: bytes) -> dict[str, Value]:
        return {
            IMAGE_FORMAT: format_name,
            IMAGE_CHANNELS: 3,
            IMAGE_HEIGHT: video.height,
            IMAGE_WIDTH: video.width,
        }

    def image_lists(encoded: tuple[bytes, ...]) -> dict[str, tuple[Value, ...]]:
        return {IMAGE_ENCODED: encoded, IMAGE_TIMESTAMP: video.timestamps[: len(encoded)]}

    context = {
        NAME: video.name.encode(),
        DATA_PATH: video.data_path.encode(),
        START: video.start_microseconds,
        END: video.end_microseconds,
        LABEL_STRING: video.label.encode(),
        LABEL_TEXT: video.label.encode(),
        LABEL_INDEX: video.label_index,
        IMAGE_FRAME_RATE: float(video.frame_rate),
        **images(b"JPEG"),
    }
    feature_lists = image_lists(video.frames)
    if video.flow:
        context |= {FLOW + key: value for key, value in images(b"PNG").items()}
        context[FLOW_SATURATION] = codec.BOUND
        feature_lists |= {FLOW + key: values for key, values in image_lists(video.flow).items()}
    return sequence_example_writer.serialize(context, feature_lists)


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

    def write(self, record: bytes) -> None:
        """Appends one record."""
        self._file.writelines((header(len(record)), record, footer(record)))
        self.lengths.append(len(record))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """What a shard holds, so that nobody has to read it to know; a JSON file of its own for every shard.

    Attributes:
      fingerprint: of everything that the shard was made from; another one means that it has to be made again.
      names: of the videos, in the order of the records.
      frames: of each video.
      lengths: bytes of each record.
      skipped: (name, reason) of the videos that belong to this shard and could not be read.
    """

    fingerprint: str
    names: tuple[str, ...]
    frames: tuple[int, ...]
    lengths: tuple[int, ...]
    skipped: tuple[tuple[str, str], ...]

    def write(self, path: str | os.PathLike) -> None:
        """Writes the index whole, making its folder where there is none."""
        make_folder(Path(path).parent)
        with written_whole(path) as file:
            file.write(json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1).encode())

    @classmethod
    def read(cls, path: str | os.PathLike) -> ShardIndex | None:
        """Reads an index; None where there is none or it is not a whole one."""
        try:
            fields = json.loads(Path(path).read_bytes())
            index = cls(
                fingerprint=str(fields["fingerprint"]),
                names=tuple(map(str, fields["names"])),
                frames=_counts(fields["frames"]),
                lengths=_counts(fields["lengths"]),
                skipped=tuple((str(name), str(reason)) for name, reason in fields["skipped"]),
            )
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
        return index if len(index.names) == len(index.frames) == len(index.lengths) else None


def _counts(values: Iterable[int]) -> tuple[int, ...]:
    """Returns the values as whole numbers of 0 and more; anything else is a `ValueError`."""
    counts = tuple(map(int, values))
    if any(count < 0 for count in counts):
        raise ValueError(f"a negative count in {counts}")
    return counts


def shard_name(split: str, shard: int, shards: int) -> str:
    """Returns a shard's file name: `shard_name("train", 0, 4)` is "train-00000-of-00004.tfrecord"."""
    return f"{split}-{shard:05d}-of-{shards:05d}.tfrecord"


def index_path(shard: Path) -> Path:
    """Returns where a shard's index stands: "DIR/train-00000-of-00004.tfrecord" has "DIR/index/train-….json"."""
    return (shard.parent / "index" / shard.name).with_suffix(".json")
