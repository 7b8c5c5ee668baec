"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from i3d_jax.errors import UserError


def make_folder(path: Path) -> None:
    """Makes a folder, and those that it is in, if it is not there; a `UserError` says why it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {path} cannot be made: {error.strerror}") from error


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a binary file for writing that takes the name `path` only once it is whole and on the disk.

    Until then it is PATH.tmp-NUMBER in the same folder, another number each time: two machines that write one file of a
    shared folder do not write into each other's. An exception removes it and leaves what stood at `path` as it was.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp-{secrets.randbits(63)}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
