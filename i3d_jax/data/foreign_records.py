"""Folders of SequenceExamples that MediaPipe's or DMVR's scripts wrote.

References: MediaPipe's `kinetics_dataset.py`, `tvl1_flow_and_rgb_from_file.pbtxt` and `media_sequence.cc`; DMVR's
`generate_from_file.py`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from i3d_jax.data import foreign
from i3d_jax.data.dataset import DESCRIPTION, Dataset
from i3d_jax.data.foreign import Stated
from i3d_jax.data.reader import DamagedRecord, read_record
from i3d_jax.flow import codec
from i3d_jax.records import example, sequence_example
from i3d_jax.records.layout import MediaSequence, label_name
from i3d_jax.records.shards import HEADER_BYTES, RecordPlace, places
from i3d_jax.system import files
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import entries, is_file, is_folder, opened

# Both scripts write no suffix.
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5,})-of-(?P<shards>\d{5,})(\.tfrecords?)?")
# Enough for the context of a record, which holds a few names and numbers.
_BEGINNING = 1 << 13


def open_records(directory: str | os.PathLike, *, labels: str | None, stated: Stated) -> Dataset:
    """Opens a folder of shards `SPLIT-00000-of-00010`; what stands before the numbers is the split's whole name.

    Args:
      directory: the folder.
      labels: a file with the names of the labels, one a line, in the order of their indexes. A record's label is found
        by its name or, where it holds none, by its index. None: the names are those that the records hold, in
        alphabetical order, and the indexes, which are those of an order that nobody has told, do not count.
      stated: what the user says of the frames.

    Raises:
      UserError: it is no such folder, shards are missing, the labels have no names, or no record can be read.
    """
    directory = files.path(directory)
    if not is_folder(directory):
        raise UserError(f"a folder of TFRecord shards was expected at {directory}")
    if is_file(directory / DESCRIPTION):
        raise UserError(f"{directory} is a dataset that `prepare` wrote: it is read with --config.data.source=prepared")
    shards = foreign.scan(_find_shards(directory), directory)
    first = foreign.first_record(shards, MediaSequence(), directory)
    names = _collect_labels(shards, directory) if labels is None else _read_labels(files.path(labels))
    return foreign.describe(
        directory=directory,
        name=directory.resolve().name,
        labels=names,
        shards=shards,
        layout=MediaSequence({name: index for index, name in enumerate(names)}, names_only=labels is None),
        first=first,
        told=_told(first.record),
        stated=stated,
    )


def _find_shards(directory: Path) -> dict[str, list[Path]]:
    """Returns the paths of the shards of each split, those that are missing too."""
    found: dict[str, set[tuple[int, str]]] = {}
    for path in entries(directory):
        match = _SHARD.fullmatch(path.name)
        if match:
            suffix = match[4] or ""
            found.setdefault(match["split"], set()).add((int(match["shards"]), suffix))
    if not found:
        raise UserError(f"{directory} has no shards: files were expected with names such as train-00000-of-00010")
    paths = {}
    for split, kinds in found.items():
        if len(kinds) > 1:
            named = " and ".join(f"{split}-…-of-{shards:05d}{suffix}" for shards, suffix in sorted(kinds))
            raise UserError(f"{directory} holds the split {split!r} twice, as {named}")
        shards, suffix = kinds.pop()
        paths[split] = [directory / f"{split}-{number:05d}-of-{shards:05d}{suffix}" for number in range(shards)]
    return paths


def _told(record: bytes) -> Mapping[str, Any]:
    """Returns what a record tells of how its frames and flow were made.

    The only program known to write flow is MediaPipe's script; unless the saturation says otherwise its bound is the
    graph's 20 pixels.
    """
    context, lists = sequence_example.split(record)
    told: dict[str, Any] = {}
    rate = sequence_example.float_value(record, context.get(example.IMAGE_FRAME_RATE, (0, 0)))
    if rate is not None and 0 < rate < math.inf:
        told["frame_rate"] = round(rate, 2)  # MediaPipe computes it from two times in whole microseconds
    flow = lists.get(MediaSequence.image_keys["flow"], (0, 0))
    if sequence_example.features(record, flow):
        saturation = sequence_example.float_value(record, context.get(example.FLOW_SATURATION, (0, 0)))
        told["flow"] = codec.mediapipe_description(bound=saturation)
    return told


def _read_labels(path: Path) -> list[str]:
    try:
        with opened(path) as file:
            lines = file.read().decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"the labels {path}: text in UTF-8 was expected, found none at byte {error.start}") from None
    seen: dict[str, int] = {}
    for number, name in enumerate(map(str.strip, lines), start=1):
        if not name or name in seen:
            problem = f"repeats line {seen[name]}, {name!r}" if name else "is empty"
            raise UserError(f"{path}: line {number} {problem}, expected the name of another label")
        seen[name] = number
    return list(seen)


def _collect_labels(shards: foreign.Shards, directory: Path) -> list[str]:
    """Returns the names of the labels that the records hold, sorted, as MediaPipe's script numbers them."""
    names: set[str] = set()
    for split in shards.values():
        for path, lengths in split.items():
            with opened(path) as file:
                found = (_label_name(file, place) for place in places(path, lengths))
                names |= {name for name in found if name is not None}
    if not names:
        raise UserError(
            f"the records of {directory} do not name their labels ({example.LABEL_STRING} or {example.LABEL_TEXT}): "
            "a file of the names, one a line in the order of the indexes, was expected as --config.data.labels=FILE"
        )
    return sorted(names)


def _label_name(file: BinaryIO, place: RecordPlace) -> str | None:
    """Returns the name of a record's label without reading its frames, None where it has none or is damaged."""
    file.seek(place.offset + HEADER_BYTES)
    beginning = file.read(min(place.length, _BEGINNING))
    context = sequence_example.leading_context(beginning)
    try:
        if context is not None:
            return label_name(beginning, context)
        record = read_record(place)
        return label_name(record, sequence_example.split(record)[0])
    except (DamagedRecord, ValueError):
        return None
