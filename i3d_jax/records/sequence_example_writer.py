"""Writes serialized SequenceExamples piece by piece, so that the images in them are copied once.

The protobuf library holds a video of 1 GiB six to eight times over while it serializes it (measured).

Reference: "Encoding" in the protocol buffers' documentation, `example.proto` and `feature.proto` in TensorFlow's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

Value = bytes | int | float


def serialize(context: Mapping[str, Value], feature_lists: Mapping[str, Sequence[Value]]) -> bytes:
    """Returns what `tf.train.SequenceExample.SerializeToString(deterministic=True)` does for one value a feature.

    Args:
      context: by key; bytes, an int of 64 bits or a float (stored with 32 bits).
      feature_lists: by key, a value for each feature.
    """
    lists = {
        key: [piece for value in values for piece in _delimited(1, _feature(value))]
        for key, values in feature_lists.items()
    }
    features = {key: _feature(value) for key, value in context.items()}
    return b"".join([*_delimited(1, _map(features)), *_delimited(2, _map(lists))])


def _map(messages: Mapping[str, list[bytes]]) -> list[bytes]:
    """The pieces of a map from keys to messages, in the order of the keys."""
    pieces = []
    for key in sorted(messages):
        pieces += _delimited(1, [*_delimited(1, [key.encode()]), *_delimited(2, messages[key])])
    return pieces


def _feature(value: Value) -> list[bytes]:
    """The pieces of a Feature: a BytesList, FloatList or Int64List (fields 1, 2 and 3) of one value."""
    if isinstance(value, bytes):
        return _delimited(1, _delimited(1, [value]))
    if isinstance(value, float):
        return _delimited(2, _delimited(1, [struct.pack("<f", value)]))
    return _delimited(3, _delimited(1, [_varint(value % (1 << 64))]))


def _delimited(field: int, pieces: list[bytes]) -> list[bytes]:
    """The pieces of a field that begins with its length: a string, a message or packed numbers (wire type 2)."""
    return [_varint(field << 3 | 2) + _varint(sum(map(len, pieces))), *pieces]


def _varint(number: int) -> bytes:
    """A number of 0 and more in groups of seven bits, lowest first."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
