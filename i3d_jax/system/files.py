"""Files that appear whole or not at all, on this machine and in buckets."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import re
import reprlib
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from i3d_jax.system import buckets
from i3d_jax.system.buckets import BucketPath
from i3d_jax.system.errors import UserError

Result = TypeVar("Result")

# Of what is asked of a server at a time.
_AT_ONCE = 32
# What the system says of a path at which no file can be written, whatever the state of the disk.
_WRONG_PLACE = (errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)

# Of JSON: far more than the index of a shard or the description of a dataset takes.
_MOST_BYTES = 64 << 20
_MOST_LEVELS = 30
# Halves of a character without the other half, but for those that stand for the bytes of a name (`terminal`).
_NO_TEXT = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")


def path(text: str | os.PathLike) -> Path:
    """Returns the path that a text stands for: of this machine, or the place in a bucket of gs:// and s3://.

    Raises:
      UserError: it is an address of another kind.
    """
    # It has pathlib's words, as far as any are used here.
    return cast(Path, found) if (found := buckets.parse(text)) is not None else Path(text)


def is_in_bucket(path: str | os.PathLike) -> bool:
    """Says whether a path leads into a bucket, where nothing can be renamed, appended to or locked."""
    return buckets.parse(path) is not None


def is_file(path: str | os.PathLike) -> bool:
    """Says whether a file stands at a path; a `UserError` says that the system does not let us know."""
    if (place := buckets.parse(path)) is not None:
        return place.is_file()
    return (mode := _mode(path)) is not None and stat.S_ISREG(mode)


def is_folder(path: str | os.PathLike) -> bool:
    """Says whether a folder stands at a path; a `UserError` says that the system does not let us know."""
    if (place := buckets.parse(path)) is not None:
        return place.is_dir()
    return (mode := _mode(path)) is not None and stat.S_ISDIR(mode)


def instead(path: str | os.PathLike) -> str:
    """Returns "a file", "a folder", "a device or pipe" or "nothing": what stands at a path, for a sentence."""
    if (mode := _mode(path)) is None:
        return "nothing"
    return {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder"}.get(stat.S_IFMT(mode), "a device or pipe")


def _mode(path: str | os.PathLike) -> int | None:
    if (place := buckets.parse(path)) is not None:
        return stat.S_IFREG if place.is_file() else stat.S_IFDIR if place.is_dir() else None
    try:
        return os.stat(path).st_mode
    except PermissionError as error:
        raise UserError(f"{path} cannot be looked at: {error.strerror}") from error
    # The second for a name that none can have.
    except (OSError, ValueError):
        return None


def entries(folder: str | os.PathLike) -> list[Path]:
    """Returns the paths of what a folder holds, sorted; a `UserError` says why it cannot be listed."""
    if (place := buckets.parse(folder)) is not None:
        return cast(list[Path], list(place.iterdir()))
    try:
        return sorted(Path(folder, name) for name in os.listdir(folder))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror}") from error


def files_in(folder: Path) -> list[Path]:
    """Returns the paths of the files in a folder, sorted: of a bucket's in one request; none where it is not there."""
    if (place := buckets.parse(folder)) is not None:
        return cast(list[Path], place.files())
    return [entry for entry in sorted(folder.glob("*")) if entry.is_file()]


def names(folder: str | os.PathLike) -> list[str]:
    """Returns the names in a folder; an `OSError` says why it cannot be listed."""
    if (place := buckets.parse(folder)) is None:
        return os.listdir(folder)
    return [path.name for path in place.iterdir()]


def refuse_unreadable_below(folder: str | os.PathLike) -> None:
    """Raises a `UserError` for the first file or folder in a folder, at any depth, that may not be read."""

    def refuse(error: OSError) -> None:
        raise UserError(f"the folder {error.filename} cannot be read: {error.strerror}") from error

    if buckets.parse(folder) is not None:
        return  # What may not be read there is told when it is read.
    for parent, _, names in os.walk(Path(folder), onerror=refuse):
        for name in names:
            refuse_unreadable(Path(parent, name))


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file for reading its bytes; a `UserError` says why it cannot be opened or read."""
    place = buckets.parse(path)
    try:
        with open(path, "rb") if place is None else place.open() as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def refuse_unreadable(path: str | os.PathLike) -> None:
    """Raises a `UserError` for a file that cannot be opened, for the libraries that call it missing."""
    with opened(path):
        pass


def refuse_no_folder(path: Path, what: str = "") -> None:
    """Raises a `UserError` unless the folder is there that something is to be written into; a bucket has all folders.

    Args:
      path: of what is to be written.
      what: it is, such as " of --output", for the sentence.
    """
    if (place := buckets.parse(path)) is not None:
        place.parent.mkdir()
    elif not is_folder(path.parent):
        raise UserError(f"the folder {path.parent}{what} does not exist")


def make_folder(path: Path) -> None:
    """Makes a folder, and those that it is in, if it is not there; a `UserError` says why it cannot be made."""
    try:
        (buckets.parse(path) or path).mkdir(parents=True, exist_ok=True)
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


def read_json(path: str | os.PathLike) -> Any:
    """Reads a file of JSON that anybody may have written; a `UserError` says what is wrong with it (`parse_json`)."""
    with opened(path) as file:
        content = file.read(_MOST_BYTES + 1)
    return parse_json(content, str(path))


def read_object(path: Path) -> dict[str, Any]:
    """Reads a file that holds a JSON object; a `UserError` says that it cannot be read, or what it holds instead."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: a JSON object was expected, found {type(found).__name__}")
    return found


def parse_json(content: str | bytes, where: str) -> Any:
    """Returns the value of JSON that anybody may have written.

    Args:
      content: at most 64 MiB, in UTF-8.
      where: it stands, for the message.

    Raises:
      UserError: it is no JSON, or more than any of our files holds: objects within objects at more than 30 levels,
        numbers that are not finite or have no room in 64 bits, strings that are no text.
    """
    try:
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES >> 20} MiB")
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse_constant)
        _check_values(value)
    except (ValueError, RecursionError) as error:
        reason = "it has levels without end" if isinstance(error, RecursionError) else error
        raise UserError(f"{where} cannot be read as JSON: {reason}") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _check_values(value: Any) -> None:
    level = [value]
    for _ in range(_MOST_LEVELS):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += [*one, *one.values()]
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, str):
                if found := _NO_TEXT.search(one):
                    raise ValueError(f"a string holds {found[0]!a}, which is no character")
            elif isinstance(one, float) and not math.isfinite(one):
                raise ValueError("a number is too large")
            elif isinstance(one, int) and abs(one) >= 1 << 63:
                raise ValueError(f"the number {reprlib.repr(one)} is too large")
        if not inner:
            return
        level = inner
    raise ValueError(f"it has more than {_MOST_LEVELS} levels")


def replaceable(path: str | os.PathLike) -> Path:
    """Returns the path of the regular file that is there, or is to be, at the end of a path's symbolic links.

    Raises:
      UserError: something else stands there (a folder, a device, a pipe), which no file is to take the place of.
    """
    found = instead(path)
    if (place := buckets.parse(path)) is not None:
        if found not in ("nothing", "a file"):
            raise UserError(f"{path} cannot be written: a file was expected there, or nothing, found {found}")
        return cast(Path, place)
    if found == "nothing" and Path(path).name in ("", ".."):
        found = "a folder"
    if found not in ("nothing", "a file"):
        raise UserError(f"{path} cannot be written: a file was expected there, or nothing, found {found}")
    return Path(os.path.realpath(path))


def is_standard_output(path: str | os.PathLike) -> bool:
    """Says whether a path, such as /dev/stdout, leads to where this process's output or its messages go."""
    return _standard_stream(path) is not None


def _standard_stream(path: str | os.PathLike) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        found = os.stat(path)
        # /dev/null is many things besides.
        if not os.path.samestat(found, os.stat(os.devnull)):
            return next((stream for stream in (1, 2) if os.path.samestat(found, os.fstat(stream))), None)
    return None


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a binary file for writing that takes the name `path` only once it is whole and on the disk.

    Until then it is PATH.tmp-NUMBER in the same folder, another number each time: two machines that write one file of a
    shared folder do not write into each other's. An exception removes it and leaves what stood at `path` as it was.
    Of a symbolic link, the file that it leads to is replaced. In a bucket an object appears when it is whole: it is
    written to a temporary file on this machine first. A device, a pipe and standard output are no files that
    another may replace: they are written to.

    Raises:
      UserError: no file can be written there: `path` is a folder, or its folder is not there or is not ours to write.
    """
    if (place := buckets.parse(path)) is not None:
        with _uploaded(place) as file:
            yield file
        return
    if is_standard_output(path) or instead(path) == "a device or pipe":
        with _written_through(Path(path)) as file:
            yield file
        return
    target = replaceable(path)
    temporary = target.with_name(f"{target.name}.tmp-{secrets.randbits(63)}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _WRONG_PLACE and str(error.filename) == str(temporary):
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        raise


@contextlib.contextmanager
def _uploaded(place: BucketPath) -> Iterator[BinaryIO]:
    """Opens a temporary file for writing that becomes an object."""
    if not place.key or place.is_dir():
        raise UserError(f"{place} cannot be written: a file was expected there, or nothing, found a folder")
    with tempfile.NamedTemporaryFile(prefix="i3d_jax-") as file:
        yield cast(BinaryIO, file)
        file.flush()
        place.upload(Path(file.name))


def size(path: str | os.PathLike) -> int:
    """Returns the bytes of a file; an `OSError` says that it is not there."""
    return os.path.getsize(path) if (place := buckets.parse(path)) is None else place.stat().st_size


def each(function: Callable[[Path], Result], paths: Sequence[Path]) -> list[Result]:
    """Returns what a function gives for each path: of a bucket's by threads, since each waits for a server."""
    if not paths or not is_in_bucket(paths[0]):
        return [function(path) for path in paths]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(function, paths))


def matching(pattern: str) -> list[str]:
    """Returns the objects of a bucket that fit a pattern, such as "gs://BUCKET/videos/**/*.mp4", sorted.

    Raises:
      UserError: it is a pattern of buckets, or of none.
    """
    place = buckets.parse(pattern)
    if place is None or any(sign in place.bucket for sign in "*?["):
        raise UserError(f"a pattern of objects below a bucket was expected, found {pattern!r}")
    return sorted(map(str, place.parents[-1].matching(place.key)))


def sizes_below(folder: Path) -> dict[str, int] | None:
    """Returns the bytes of all objects below a folder of a bucket by their paths in it; None of a folder elsewhere."""
    return None if (place := buckets.parse(folder)) is None else place.sizes()


def append(path: Path, content: bytes) -> None:
    """Adds bytes to the end of a file, which is made; in a bucket it is written anew, since no object can grow."""
    if (place := buckets.parse(path)) is not None:
        before = b""
        with contextlib.suppress(FileNotFoundError):
            before = place.read_bytes()
        place.write_bytes(before + content)
        return
    with open(path, "ab") as file:
        file.write(content)


def remove_folder(path: Path, *, ignore_errors: bool = False) -> None:
    """Removes a folder and all that is in it."""
    if (place := buckets.parse(path)) is not None:
        place.remove_below()
    else:
        shutil.rmtree(path, ignore_errors=ignore_errors)


@contextlib.contextmanager
def _written_through(path: Path) -> Iterator[BinaryIO]:
    """Opens what is no file of its own for writing; what was printed comes before."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    number = _standard_stream(path)
    try:
        # The same open file, which may be one on the disk: what is printed later comes after.
        descriptor = os.open(path, os.O_WRONLY) if number is None else os.dup(number)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    # Not seekable: devices say that they are, and do not move.
    with io.BufferedWriter(_Through(descriptor)) as file:
        yield cast(BinaryIO, file)


class _Through(io.RawIOBase):
    """Writes to a file descriptor, one byte after the other, and closes it at the end."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def write(self, content) -> int:
        return os.write(self._descriptor, content)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
