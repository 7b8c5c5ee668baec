"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from i3d_jax.system.errors import UserError

# What the system says of a path at which no file can be written, whatever the state of the disk.
_WRONG_PLACE = (errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


def make_folder(path: Path) -> None:
    """Makes a folder, and those that it is in, if it is not there; a `UserError` says why it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file stands there" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(f"the folder {path} cannot be made: {reason}") from error


def users_cache() -> Path | None:
    """Returns i3d_jax in the user's cache folder, $XDG_CACHE_HOME or ~/.cache; None for a user without a home."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    # The standard (XDG Base Directory Specification) leaves relative ones out.
    if os.path.isabs(named):
        return Path(named) / "i3d_jax"
    try:
        return Path.home() / ".cache" / "i3d_jax"
    except RuntimeError:
        return None


def read_object(path: Path) -> dict[str, Any]:
    """Reads a file that holds a JSON object; a `UserError` says that it cannot be read, or what it holds instead."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: a JSON object was expected, found {type(found).__name__}")
    return found


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a binary file for writing that takes the name `path` only once it is whole and on the disk.

    Until then it is PATH.tmp-NUMBER in the same folder, another number each time: two machines that write one file of a
    shared folder do not write into each other's. An exception removes it and leaves what stood at `path` as it was.

    Raises:
      UserError: no file can be written there: `path` is a folder, or its folder is not there or is not ours to write.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp-{secrets.randbits(63)}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _WRONG_PLACE and str(error.filename) == str(temporary):
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        raise
