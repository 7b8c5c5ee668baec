"""Where the records of each kind of source keep a video's name, its label and its images."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Mapping
from typing import ClassVar, NamedTuple

from i3d_jax.records import example, sequence_example
from i3d_jax.records.sequence_example import Span


class Contents(NamedTuple):
    """What a record holds of a video.

    Attributes:
      name: of the video, None where it has none.
      label: its index; its name, "" for none, where labels go by name and this one has no index; None for neither.
      images: for each stream, where its images stand, as the layout's `image` takes them.
    """

    name: str | None
    label: int | str | None
    images: Mapping[str, list[Span]]


class Layout(abc.ABC):
    """How a kind of record is to be read.

    Attributes:
      label_key: what the label is called there.
      image_keys: for each stream there can be, what its images are called.
    """

    label_key: ClassVar[str]
    image_keys: ClassVar[Mapping[str, str]]

    @abc.abstractmethod
    def find(self, record: bytes, streams: Collection[str]) -> Contents:
        """Returns what a record holds of a video; a `ValueError` says why it cannot be read."""

    @abc.abstractmethod
    def image(self, record: bytes, image: Span) -> bytes:
        """Returns the bytes of an image, b"" where there are none; a `ValueError` says why it cannot be read."""


@dataclasses.dataclass(frozen=True)
class MediaSequence(Layout):
    """A SequenceExample with the keys of MediaSequence, as this package, MediaPipe and DMVR write it.

    Attributes:
      label_indexes: by name. Where it is given, the record's name of the label counts before its index: DMVR's script
        numbers the labels anew every time it is run (in the order of a Python set), so that the splits of one dataset
        disagree.
      names_only: whether, besides, an index without a name counts for nothing.
    """

    label_indexes: Mapping[str, int] | None = None
    names_only: bool = False
    label_key: ClassVar[str] = example.LABEL_INDEX
    image_keys: ClassVar[Mapping[str, str]] = {
        "rgb": example.IMAGE_ENCODED,
        "flow": example.FLOW + example.IMAGE_ENCODED,
    }

    def find(self, record: bytes, streams: Collection[str]) -> Contents:
        """Implements `Layout`."""
        context, lists = sequence_example.split(record)
        images = {
            stream: sequence_example.features(record, lists.get(self.image_keys[stream], (0, 0))) for stream in streams
        }
        label: int | str | None = None
        if self.label_indexes is not None:
            name = label_name(record, context)
            label = None if name is None else self.label_indexes.get(name, name)
        if label is None and self.names_only:
            label = ""
        elif label is None:
            label = sequence_example.integer_value(record, context.get(example.LABEL_INDEX, (0, 0)))
        return Contents(_first_text(record, context, example.NAMES), label, images)

    def image(self, record: bytes, image: Span) -> bytes:
        """Implements `Layout`."""
        return sequence_example.bytes_value(record, image) or b""


@dataclasses.dataclass(frozen=True)
class FlatExample(Layout):
    """An Example with the frames' bytes in one list, as TensorFlow Datasets stores a `video` and its `label`."""

    label_key: ClassVar[str] = "label"
    image_keys: ClassVar[Mapping[str, str]] = {"rgb": "video"}

    def find(self, record: bytes, streams: Collection[str]) -> Contents:
        """Implements `Layout`."""
        features, _ = sequence_example.split(record)
        images = {
            stream: sequence_example.bytes_values(record, features.get(self.image_keys[stream], (0, 0)))
            for stream in streams
        }
        return Contents(None, sequence_example.integer_value(record, features.get(self.label_key, (0, 0))), images)

    def image(self, record: bytes, image: Span) -> bytes:
        """Implements `Layout`."""
        return record[slice(*image)]


def label_name(record: bytes, context: Mapping[str, Span]) -> str | None:
    """Returns the label's name in the context of a SequenceExample, under either program's key."""
    return _first_text(record, context, (example.LABEL_STRING, example.LABEL_TEXT))


def _first_text(record: bytes, context: Mapping[str, Span], keys: Collection[str]) -> str | None:
    values = (sequence_example.bytes_value(record, context.get(key, (0, 0))) for key in keys)
    return next((value.decode() for value in values if value), None)
