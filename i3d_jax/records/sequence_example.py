"""Finds the values of a serialized SequenceExample in place, so that only the frames which a clip needs are copied.

An Example, which TensorFlow Datasets writes, is to these functions a SequenceExample of a context alone: its features
have the number and the form of that.

A record of ten seconds is 7 MB and a clip needs a quarter of it; the protobuf library copies all of it (measured: three
times as long).

Reference: "Encoding" in the protocol buffers' documentation, `example.proto` and `feature.proto` in TensorFlow's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

Span = tuple[int, int]  # the first byte and the one after the last

# The wire types on the way to a value: numbers, strings or messages that begin with their length, and floats.
_VARINT, _LENGTH_DELIMITED, _FIXED_32 = 0, 2, 5


def split(record: bytes) -> tuple[dict[str, Span], dict[str, Span]]:
    """Returns where the `Feature` of each key of the context and the `FeatureList` of each key stand.

    Raises:
      ValueError: the bytes are neither a SequenceExample nor an Example.
    """
    context: dict[str, Span] = {}
    feature_lists: dict[str, Span] = {}
    for field, message in _fields(record, (0, len(record))):
        if field in (1, 2):
            found = context if field == 1 else feature_lists
            for _, entry in _fields(record, message):
                parts = dict(_fields(record, entry))
                if parts.keys() != {1, 2}:
                    raise ValueError(f"an entry of a map has the fields {sorted(parts)}, 1 and 2 were expected")
                found[str(record[slice(*parts[1])], "utf-8")] = parts[2]
    return context, feature_lists


def leading_context(beginning: bytes) -> dict[str, Span] | None:
    """Returns where the `Feature` of each key of the context stands, from the first bytes of a record alone.

    None where these do not hold all of it; the protobuf libraries write it before the frames.
    """
    try:
        tag, start = _varint(beginning, 0)
        length, start = _varint(beginning, start)
        if tag != 1 << 3 | _LENGTH_DELIMITED or start + length > len(beginning):
            return None
        return split(beginning[: start + length])[0]
    except ValueError:
        return None


def features(record: bytes, feature_list: Span) -> list[Span]:
    """Returns where each `Feature` of a `FeatureList` stands."""
    return [feature for _, feature in _fields(record, feature_list)]


def bytes_value(record: bytes, feature: Span) -> bytes | None:
    """Returns the first value of a `Feature` of bytes; None where it has none."""
    values = dict(_fields(record, feature)).get(1)
    value = next(_fields(record, values), None) if values else None
    return None if value is None else record[slice(*value[1])]


def bytes_values(record: bytes, feature: Span) -> list[Span]:
    """Returns where the values of a `Feature` of bytes stand; none where it has none."""
    values = dict(_fields(record, feature)).get(1)
    return [value for _, value in _fields(record, values)] if values else []


def float_value(record: bytes, feature: Span) -> float | None:
    """Returns the first value of a `Feature` of floats; None where it has none."""
    start, end = dict(_fields(record, feature)).get(2, (0, 0))
    if start < end:
        # As with integers: packed behind their common length, or each behind a tag of its own.
        tag, start = _varint(record, start)
        if tag & 7 == _LENGTH_DELIMITED:
            _, start = _varint(record, start)
        elif tag & 7 != _FIXED_32:
            raise ValueError(f"a float of wire type {tag & 7} at byte {start}, {_FIXED_32} was expected")
    return struct.unpack_from("<f", record, start)[0] if start + 4 <= end else None


def integer_value(record: bytes, feature: Span) -> int | None:
    """Returns the first value of a `Feature` of integers; None where it has none."""
    start, end = dict(_fields(record, feature)).get(3, (0, 0))
    if start < end:
        # The values stand either one by one, or, more often, packed behind their common length.
        tag, start = _varint(record, start)
        if tag & 7 == _LENGTH_DELIMITED:
            _, start = _varint(record, start)
        elif tag & 7 != _VARINT:
            raise ValueError(f"an integer of wire type {tag & 7} at byte {start}")
    if start >= end:
        return None
    number, _ = _varint(record, start)
    return number - (1 << 64) if number >= 1 << 63 else number


def _fields(record: bytes, message: Span) -> Iterator[tuple[int, Span]]:
    """Yields the number and the content of each field of a message that has only strings and messages for fields."""
    start, end = message
    while start < end:
        tag, start = _varint(record, start)
        if tag & 7 != _LENGTH_DELIMITED:
            raise ValueError(f"a field of wire type {tag & 7} at byte {start}, {_LENGTH_DELIMITED} was expected")
        length, start = _varint(record, start)
        if start + length > end:
            raise ValueError(f"a field of {length} bytes at byte {start} leaves the message that ends at {end}")
        yield tag >> 3, (start, start + length)
        start += length


def _varint(record: bytes, start: int) -> tuple[int, int]:
    """Returns the number whose seven-bit groups begin at `start`, lowest first, and the place after it."""
    number = shift = 0
    for place in range(start, min(start + 10, len(record))):
        number |= (record[place] & 0x7F) << shift
        if record[place] < 0x80:
            return number, place + 1
        shift += 7
    raise ValueError(f"a number without an end at byte {start}")
