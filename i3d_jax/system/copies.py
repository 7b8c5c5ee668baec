"""Copies on this machine of what is in buckets, for libraries that open files themselves, and back.

What is on this machine already is used where it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from i3d_jax.system import buckets
from i3d_jax.system.buckets import BucketPath
from i3d_jax.system.errors import UserError


def upload(source: Path, target: Path) -> None:
    """Copies what is in a folder of this machine into a folder of a bucket; each object appears when it is whole."""
    place = buckets.parse(target)
    if place is None:
        raise ValueError(f"a folder of a bucket was expected, found {target}")
    place.upload(source)


@contextlib.contextmanager
def on_this_machine(path: str | os.PathLike) -> Iterator[Path]:
    """Yields where a file or folder is found on this machine: where it is, or in a temporary copy of a bucket's.

    For libraries that open files themselves.

    Raises:
      UserError: in a bucket there is nothing of that name.
    """
    if (place := buckets.parse(path)) is None:
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="i3d_jax-") as folder:
        # A name tells libraries what a file holds.
        target = Path(folder, place.name)
        _download(place, target)
        yield target


@contextlib.contextmanager
def matching_on_this_machine(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """Yields a folder of this machine that has those files of a folder whose names match a pattern.

    It is the folder itself, or a temporary copy of those of a bucket.
    """
    if (place := buckets.parse(folder)) is None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="i3d_jax-") as made:
        target = Path(made, place.name)
        target.mkdir()
        for one in {one for pattern in patterns for one in place.glob(pattern)}:
            _download(one, target / one.name)
        yield target


def _download(place: BucketPath, target: Path) -> None:
    try:
        place.download(target)
    except FileNotFoundError as error:
        raise UserError(f"{place} does not exist") from error


def copied_like(path: Path, folder: Path, *, beside: str) -> Path:
    """Copies what a bucket holds of a name to a folder, and returns the path of it there.

    Args:
      path: a file or folder of a bucket, or what the names of several files have before a dot.
      folder: of this machine.
      beside: a pattern of what is copied besides.

    Raises:
      UserError: there is none.
    """
    place = cast(BucketPath, buckets.parse(path))
    wanted = [one for one in place.parent.iterdir() if f"{one.name}.".startswith(f"{place.name}.")]
    if not wanted:
        raise UserError(f"{path} does not exist")
    for one in {*wanted, *place.parent.glob(beside)}:
        _download(one, folder / one.name)
    return folder / path.name


def copied_for(owner: object, path: str | os.PathLike) -> str | os.PathLike:
    """Returns where a file is found on this machine: a temporary copy of a bucket's stays as long as an object."""
    if (place := buckets.parse(path)) is None:
        return path
    folder = tempfile.mkdtemp(prefix="i3d_jax-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    target = Path(folder, place.name)
    _download(place, target)
    return target


@contextlib.contextmanager
def made_on_this_machine(path: str | os.PathLike) -> Iterator[Path]:
    """Yields where a library is to write a file or a folder: there, or in a temporary place that goes to the bucket.

    Where the library fails, nothing is in the bucket; where the upload does, some of a folder's objects may be, each
    of them whole.
    """
    if (place := buckets.parse(path)) is None:
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="i3d_jax-") as folder:
        target = Path(folder, place.name)
        yield target
        place.upload(target)
