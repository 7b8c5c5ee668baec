"""Finds the frames of a serialized SequenceExample in place, so that only those which a clip needs are copied.

A record of ten seconds is 7 MB and a clip needs a quarter of it; the protobuf library copies all of it (measured: three
times as long).

Reference: "Encoding" in the protocol buffers' documentation, `example.proto` and `feature.proto` in TensorFlow's.
"""

from __future__ import annotations

from collections.abc import Iterator

Span = tuple[int, int]  # the first byte and the one after the last

_LENGTH_DELIMITED = 2  # the wire type of strings and messages, the only one on the way to a frame


def split(record: bytes) -> tuple[bytes, dict[str, Span]]:
    """Returns the serialized `Features` of the context, and where the `FeatureList` of each key stands.

    Raises:
      ValueError: the bytes are not a SequenceExample.
    """
    context = b""
    lists = {}
    for field, start, end in _fields(record, 0, len(record)):
        if field == 1:
            context += record[start:end]
        elif field == 2:
            for _, *entry in _fields(record, start, end):
                parts = {part: (first, last) for part, first, last in _fields(record, *entry)}
                if parts.keys() != {1, 2}:
                    raise ValueError(f"an entry of a map has the fields {sorted(parts)}, 1 and 2 were expected")
                lists[str(record[slice(*parts[1])], "utf-8")] = parts[2]
    return context, lists


def features(record: bytes, feature_list: Span) -> list[Span]:
    """Returns where each `Feature` of a `FeatureList` stands."""
    return [(start, end) for _, start, end in _fields(record, *feature_list)]


def bytes_value(record: bytes, feature: Span) -> bytes:
    """Returns the first bytes value of a `Feature`.

    Raises:
      ValueError: it has none.
    """
    for _ in ("its BytesList", "the first value"):
        inner = next(((start, end) for field, start, end in _fields(record, *feature) if field == 1), None)
        if inner is None:
            raise ValueError("a feature without a bytes value")
        feature = inner
    return record[slice(*feature)]


def _fields(record: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (field number, first byte, byte after the last) of each field of the message at `start`."""
    while start < end:
        tag, start = _varint(record, start)
        if tag & 7 != _LENGTH_DELIMITED:
            raise ValueError(f"a field of wire type {tag & 7} at byte {start}, {_LENGTH_DELIMITED} was expected")
        length, start = _varint(record, start)
        if start + length > end:
            raise ValueError(f"a field of {length} bytes at byte {start} leaves the message that ends at {end}")
        yield tag >> 3, start, start + length
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
