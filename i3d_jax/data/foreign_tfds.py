"""Video sets of TensorFlow Datasets, as they were built into its folder; nothing is downloaded.

What TensorFlow Datasets builds describes itself (`features.json`, `dataset_info.json`), so that a user's own set is
read like a published one, without the code that built it.

Reference: https://www.tensorflow.org/datasets/external_tfrecord for the files of a built set.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from i3d_jax.data import cpu_tensorflow, foreign
from i3d_jax.data.dataset import Dataset
from i3d_jax.data.foreign import Stated
from i3d_jax.records.layout import FlatExample
from i3d_jax.system import copies, files
from i3d_jax.system.errors import UserError, did_you_mean
from i3d_jax.system.files import entries, is_folder

_NAME = re.compile(r"(?P<set>\w+)(/(?P<configuration>[\w+.-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_FEATURES = "features.json"
# What a built set has beside its shards: the names of the labels are a text.
_DESCRIPTION = ("*.json", "*.txt")


def open_set(name: str, directory: str | os.PathLike, *, stated: Stated) -> Dataset:
    """Opens a built set that has the features `video`, a sequence of images, and `label`, a class.

    Args:
      name: SET[/CONFIGURATION][:VERSION]; without a version the newest one that has been built. The configuration may
        be left out where only one has been built.
      directory: TensorFlow Datasets' data_dir, here or in a bucket.
      stated: what the user says of the frames.

    Raises:
      UserError: TensorFlow Datasets is not installed, the set is not known, not built or of another kind.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"data.tfds_name was expected to be SET[/CONFIGURATION][:VERSION], found {name!r}")
    data_dir = files.path(directory)
    built = _find(match, data_dir if files.is_in_bucket(data_dir) else data_dir.expanduser())
    library = _library()
    with copies.matching_on_this_machine(built, _DESCRIPTION) as described:
        try:
            builder = library.builder_from_directory(described)
        except Exception as error:  # its own, protobuf's, a JSON parser's, or of the import of a set's own feature
            raise UserError(f"TensorFlow Datasets cannot read {built}: {' '.join(str(error).split())[:300]}") from error
    if builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"{built} is stored as {builder.info.file_format.value}, records are read from tfrecord files: "
            "build it with --file_format=tfrecord"
        )
    labels = _check_features(builder.info.features, library.features, built)
    paths = {
        split: [built / Path(path).name for path in sorted(info.filepaths)]
        for split, info in builder.info.splits.items()
    }
    shards, layout = foreign.scan(paths, built), FlatExample()
    return foreign.describe(
        directory=built,
        name=builder.info.full_name,
        labels=labels,
        shards=shards,
        layout=layout,
        first=foreign.first_record(shards, layout, built),
        told={},
        stated=stated,
    )


def _library() -> ModuleType:
    cpu_tensorflow.load()
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            f"data.source 'tfds' needs TensorFlow Datasets (extra `tfds`), which cannot be imported: {error}"
        ) from None
    return tensorflow_datasets


class _Built(NamedTuple):
    """A built set: DATA_DIR/SET/VERSION, or DATA_DIR/SET/CONFIGURATION/VERSION."""

    configuration: str | None
    version: str
    path: Path

    @property
    def name(self) -> str:
        return f"{'' if self.configuration is None else self.configuration + ':'}{self.version}"


def _find(match: re.Match[str], directory: Path) -> Path:
    """Returns the folder of the set that a name asks for."""
    if not is_folder(directory):
        raise UserError(f"TensorFlow Datasets' data_dir was expected at {directory}")
    there = _built(directory / match["set"])
    if not there:
        raise _not_built(match, directory)
    fitting = [
        one
        for one in there
        if match["configuration"] in (None, one.configuration) and match["version"] in (None, one.version)
    ]
    names = ", ".join(one.name for one in there)
    if not fitting:
        raise UserError(f"of {match['set']}, {directory} holds {names}, but no {match[0]!r}")
    if len({one.configuration for one in fitting}) > 1:
        raise UserError(f"of {match['set']}, {directory} holds {names}: which one was expected in data.tfds_name")
    return max(fitting, key=lambda one: [int(number) for number in one.version.split(".")]).path


def _built(folder: Path) -> list[_Built]:
    paths = [path.parent for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/{_FEATURES}"))]
    parts = [(path.relative_to(folder).parts, path) for path in paths]
    found = [_Built(names[0] if len(names) == 2 else None, names[-1], path) for names, path in parts]
    return [one for one in found if _VERSION.fullmatch(one.version)]


def _not_built(match: re.Match[str], directory: Path) -> UserError:
    published = _library().list_builders(with_community_datasets=False)
    if match["set"] in published:
        name = match["set"] + (f"/{match['configuration']}" if match["configuration"] else "")
        return UserError(
            f"{match['set']} has not been built in {directory}, and nothing is downloaded here: "
            f"`tfds build {name} --data_dir={directory}` does both"
        )
    known = [*(folder.name for folder in entries(directory) if _built(folder)), *published]
    hint = did_you_mean(match["set"].lower(), known, cutoff=0.5)
    return UserError(f"{directory} holds no set {match['set']!r}, nor does TensorFlow Datasets know one{hint}")


def _check_features(features: Any, kinds: ModuleType, built: Path) -> list[str]:
    """Returns the names of the labels of a set with a video and a label; anything else is refused.

    Args:
      features: the set's.
      kinds: TensorFlow Datasets' module of features.
      built: the set's folder.
    """
    found = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in dict(features).items())
    for name, kind in (("video", kinds.Sequence), ("label", kinds.ClassLabel)):
        if name not in features or not isinstance(features[name], kind):
            raise UserError(
                f"{built} was expected to have the features video (a Video or a Sequence of Image) and label (a "
                f"ClassLabel), found {found}"
            )
    frame = features["video"].feature
    if not isinstance(frame, kinds.Image):
        raise UserError(f"the video of {built} was expected to be of Image, found one of {type(frame).__name__}")
    if np.dtype(frame.np_dtype) != np.uint8:
        raise UserError(f"the frames of {built} were expected to be uint8, found {np.dtype(frame.np_dtype)}")
    return features["label"].names
