"""The features of a set, with what they are of; in files that others merge and compare, and that execute nothing.

The features themselves are kept, 1.6 kB a video, beside their mean and scatter: the exact distance of few videos, the
interval and the extrapolation need them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i3d_jax.evaluation.frechet import Moments
from i3d_jax.fvd.facts import Facts
from i3d_jax.fvd.protocols import named
from i3d_jax.system import files
from i3d_jax.system.archives import read_arrays
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import entries, is_file, is_folder, make_folder, opened, parse_json, written_whole
from i3d_jax.system.terminal import json_text

FORMAT_VERSION = 1
_ARRAYS = ("features", "place", "video", "mean", "scatter", "description")
# What two sets must have in common; a shard is of one set.
COMPARED = ("layer", "release", "crc32c", "protocol", "frames", "stride")
_OF_A_SHARD = (*COMPARED, "clips", "seed", "videos")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """The features of a set or of a shard of it.

    Attributes:
      features: float32 [N, D].
      place: int64 [N], at which each stands among those of the whole set.
      video: str [N], names.
      description: JSON values: what they are of (`COMPARED`, and "clips", "seed"), "videos" of the whole set, the
        "shard" [I, N] that this is, "facts" of the files.
    """

    features: np.ndarray
    place: np.ndarray
    video: np.ndarray
    description: Mapping[str, Any]

    @functools.cached_property
    def moments(self) -> Moments:
        """Their mean and scatter."""
        return Moments.of(self.features)

    @property
    def facts(self) -> Facts:
        """What is known of the files."""
        return Facts.from_json(self.description["facts"], where="these statistics")

    def of(self, rows: np.ndarray) -> Statistics:
        """Returns those of some of the videos, by their rows here, as a set of their own."""
        description = {**self.description, "videos": len(rows)}
        return Statistics(self.features[rows], np.arange(len(rows)), self.video[rows], description)

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz file with the arrays, `mean`, `scatter` and `description` (JSON), whole or not at all."""
        make_folder(files.path(path).parent)
        description = json_text({"format_version": FORMAT_VERSION, **self.description})
        with written_whole(path) as file:
            np.savez(
                file,
                features=self.features,
                place=self.place,
                video=self.video,
                mean=self.moments.mean,
                scatter=self.moments.scatter,
                description=np.array(description),
            )


def are_at(path: Path) -> bool:
    """Says whether statistics are at a path: an .npz file with a description, or a folder of such files alone."""
    if is_file(path):
        return path.suffix.lower() == ".npz" and "description" in _names(path)
    if not is_folder(path):
        return False
    files = [entry for entry in entries(path) if not entry.name.startswith(".")]
    return bool(files) and all(is_file(entry) and are_at(entry) for entry in files)


def read(path: Path) -> Statistics:
    """Reads what `save` wrote; of a folder, the shards of one set.

    Raises:
      UserError: a file is something else or damaged, or the shards are not those of one set, each once.
    """
    if not is_folder(path):
        return _read(path)
    return merged({str(entry): _read(entry) for entry in entries(path) if not entry.name.startswith(".")})


def merged(shards: Mapping[str, Statistics]) -> Statistics:
    """Returns the statistics of a set from those of its shards by their names, in the order of the whole set.

    Raises:
      UserError: they are not all of one set, or one is missing or there twice.
    """
    (first_name, first), *others = shards.items()
    for name, other in others:
        refuse_other(first.description, other.description, first_name, name, fields=_OF_A_SHARD)
    numbers = sorted(tuple(one.description["shard"]) for one in shards.values())
    parts = first.description["shard"][1]
    if numbers != [(number, parts) for number in range(parts)]:
        found = ", ".join(f"{number}/{of}" for number, of in numbers)
        raise UserError(f"the shards 0/{parts} to {parts - 1}/{parts} of a set were expected, each once, found {found}")
    place = np.concatenate([one.place for one in shards.values()])
    order = np.argsort(place, kind="stable")
    facts = functools.reduce(lambda total, one: total + one.facts, list(shards.values())[1:], first.facts)
    return Statistics(
        np.concatenate([one.features for one in shards.values()])[order],
        place[order],
        np.concatenate([one.video for one in shards.values()])[order],
        {**first.description, "shard": [0, 1], "facts": facts.to_json()},
    )


def refuse_other(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    our_name: str,
    their_name: str,
    *,
    fields: Sequence[str] = COMPARED,
) -> None:
    """Raises a `UserError` that names what two descriptions state differently, of both."""
    different = [field for field in fields if ours.get(field) != theirs.get(field)]
    if different:
        named = "; ".join(f"{field} {ours.get(field)!r} against {theirs.get(field)!r}" for field in different)
        raise UserError(f"{our_name} and {their_name} cannot be compared: {named}")


def _names(path: Path) -> list[str]:
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except UserError:
        raise
    # Whatever else the file is, zipfile says so by exceptions of many kinds; what reads it says what is wrong.
    except Exception:
        return []


def _read(path: Path) -> Statistics:
    arrays = read_arrays(path, "statistics")
    if missing := [name for name in _ARRAYS if name not in arrays]:
        raise UserError(f"{path} lacks the arrays {', '.join(missing)} of statistics")
    features, place, video = (arrays[name] for name in ("features", "place", "video"))
    fits = features.ndim == 2 and features.dtype.kind == "f" and place.dtype.kind == "i" and video.dtype.kind == "U"
    if not fits or not len(features) or place.shape != video.shape or place.shape != features.shape[:1]:
        raise UserError(
            f"{path}: features float [N, D], place int [N] and video str [N] were expected, found "
            + ", ".join(f"{one.dtype} {list(one.shape)}" for one in (features, place, video))
        )
    if not np.isfinite(features).all():
        raise UserError(f"{path}: finite features were expected, found others")
    mean = arrays["mean"]
    fits = mean.dtype.kind == "f" and mean.shape == features.shape[1:]
    if not fits or not np.allclose(mean, features.mean(0, np.float64)):
        raise UserError(f"{path}: its mean is not that of its features: the file was altered")
    description = parse_json(str(arrays["description"][()]), f"'description' in {path}")
    return Statistics(features, place, video, dict(_checked(description, f"'description' in {path}")))


def _checked(description: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(description, dict) or description.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{where}: statistics of format version {FORMAT_VERSION} were expected, found others")
    shard = description.get("shard")
    if missing := [field for field in (*_OF_A_SHARD, "facts") if field not in description]:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    whole = isinstance(shard, list) and len(shard) == 2 and all(type(number) is int for number in shard)
    if not isinstance(shard, list) or not whole or not 0 <= shard[0] < shard[1]:
        raise UserError(f"{where}: 'shard' was expected to be two whole numbers, found {shard!r}")
    if type(description["seed"]) is not int or description["seed"] < 0:
        raise UserError(f"{where}: 'seed' was expected to be a whole number, found {description['seed']!r}")
    named(str(description["protocol"]))
    Facts.from_json(description["facts"], where=where)
    yield from ((name, value) for name, value in description.items() if name != "format_version")
