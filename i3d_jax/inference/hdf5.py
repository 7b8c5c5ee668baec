"""One HDF5 file of all videos' features, put together from the files of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i3d_jax.system.copies import on_this_machine
from i3d_jax.system.errors import UserError, install_hint
from i3d_jax.system.files import instead, is_file, opened, parse_json, remove_folder, written_whole
from i3d_jax.system.terminal import json_text


def _library() -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise UserError(f"--format h5 needs h5py, which is not installed; {install_hint('prepare')}") from error
    return h5py


def parts_of(path: Path) -> Path:
    """Returns the folder of what is done of an unfinished file."""
    return path.with_name(f".{path.name}.parts")


def is_assembled(path: Path, settings: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Says whether a file holds the features of all these videos.

    Raises:
      UserError: it was made with other settings, it is no such file, or h5py is not installed.
    """
    library = _library()
    if not is_file(path):
        if (found := instead(path)) != "nothing":
            raise UserError(f"an HDF5 file was to be written at {path}, where there is {found}")
        return False
    try:
        with on_this_machine(path) as here, library.File(here, "r") as file:
            stored = parse_json(str(file.attrs["settings"]), f"'settings' in {path}")
            there = set(file)
    except (OSError, KeyError) as error:
        raise UserError(f"{path} is no HDF5 file of features: choose another --output, or remove it") from error
    if stored != dict(settings):
        different = [key for key in {**stored, **settings} if stored.get(key) != settings.get(key)]
        raise UserError(f"{path} is of features with other settings: {', '.join(different)}; choose another --output")
    return set(names) <= there


def assemble(path: Path, parts: Path, settings: Mapping[str, Any], names: Sequence[str]) -> None:
    """Writes the file, whole or not at all, and removes the parts that it was made from.

    NAME/features, NAME/start_seconds and NAME/end_seconds are the arrays of a video; the attribute `settings` is JSON.

    Args:
      path: the file.
      parts: the folder of NAME.npz.
      settings: that they were made with.
      names: of the videos.
    """
    library = _library()
    with written_whole(path) as target, library.File(target, "w") as file:
        file.attrs["settings"] = json_text(dict(settings))
        for name in names:
            with opened(parts / f"{name}.npz") as part, np.load(part) as arrays:
                for key in arrays.files:
                    file.create_dataset(f"{name}/{key}", data=arrays[key])
    remove_folder(parts, ignore_errors=True)
