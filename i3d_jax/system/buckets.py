"""Objects of Google Cloud Storage (`gs://`) and S3 (`s3://`), with pathlib's words for what our code does with files.

A class of our own over fsspec's gcsfs and s3fs, and neither etils.epath nor universal_pathlib. By itself epath goes by
TensorFlow's file system wherever TensorFlow is installed, which has no S3 and no way to an emulator, and its paths turn
into local ones in `pathlib.Path(path)`: silently, `gs://bucket` would be a folder called `gs:`. universal_pathlib calls
a folder without objects missing, and leaves retries and the words of every error to its callers. Here a library that
knows no buckets gets a sentence in place of a path (`__fspath__`), and each request is tried again in one place.

In a bucket there are no folders: one is there as long as an object's name begins with its own, and need not be made.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath, PurePosixPath
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

from i3d_jax.system.bucket_requests import (
    PACKAGES,
    Found,
    asked,
    found_object,
    has_objects_below,
    read_ranges,
    read_version,
    refuse_missing_bucket,
)
from i3d_jax.system.errors import UserError

SCHEMES = tuple(PACKAGES)
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//?)(.*)", re.DOTALL)

# Requests of so many bytes: a server answers in tens of milliseconds, in which as many bytes come.
_BUFFER_BYTES = 4 << 20
_AT_ONCE = 16


def parse(path: Any) -> BucketPath | None:
    """Returns the place in a bucket that a path stands for; None for a path on this machine.

    Raises:
      UserError: it is an address of another kind, or has no bucket; it must not become a folder called `gs:`.
    """
    if isinstance(path, BucketPath):
        return path
    # pathlib makes gs:/BUCKET of an address.
    text = str(path) if isinstance(path, str | PurePath) else ""
    if not (found := _ADDRESS.fullmatch(text)):
        return None
    scheme, slashes, place = found.groups()
    if scheme not in SCHEMES or slashes != "//":
        if slashes == "//" or scheme in SCHEMES:
            expected = " or ".join(f"{known}://BUCKET/..." for known in SCHEMES)
            raise UserError(f"a path on this machine, {expected} was expected, found {text!r}")
        return None
    bucket, _, key = place.partition("/")
    if bucket in ("", ".", ".."):
        raise UserError(f"a bucket was expected after {scheme}://, found {text!r}")
    return BucketPath(scheme, _within(bucket, key))


def _within(bucket: str, key: str) -> PurePosixPath:
    """Returns a place in a bucket: as in the root of a disk, ".." leads no further up."""
    return PurePosixPath(bucket, os.path.normpath(f"/{key}").lstrip("/"))


@functools.total_ordering
class BucketPath:
    """An object of a bucket, or the folder that the names of objects make."""

    def __init__(self, scheme: str, place: str | PurePosixPath):
        """Names a place.

        Args:
          scheme: one of `SCHEMES`.
          place: the bucket and, after a slash, the object's name; slashes at the end do not count.
        """
        self.scheme = scheme
        self._place = PurePosixPath(place)

    def __str__(self) -> str:
        return f"{self.scheme}://{self._place}"

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __fspath__(self) -> str:
        raise UserError(f"{self} lies in a bucket, and this can be read and written on this machine's disks alone")

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __lt__(self, other: BucketPath) -> bool:
        return str(self) < str(other)

    def _with(self, place: PurePosixPath) -> BucketPath:
        return BucketPath(self.scheme, place)

    def __truediv__(self, name: str | PurePath) -> BucketPath:
        return self._with(_within(self.bucket, f"{self.key}/{name}"))

    def joinpath(self, *names: str) -> BucketPath:
        """Returns the path of what has these names below."""
        return functools.reduce(BucketPath.__truediv__, names, self)

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._place.parts[0]

    @property
    def place(self) -> str:
        """The bucket and the object's name, as fsspec takes them."""
        return str(self._place)

    @property
    def key(self) -> str:
        """The object's name in the bucket, "" for the bucket itself."""
        return "/".join(self._place.parts[1:])

    name = property(lambda self: self._place.name)
    stem = property(lambda self: self._place.stem)
    suffix = property(lambda self: self._place.suffix)
    parts = property(lambda self: (f"{self.scheme}://", *self._place.parts))

    @property
    def parent(self) -> BucketPath:
        """The folder that it is in; of a bucket itself."""
        return self._with(self._place.parent) if self.key else self

    @property
    def parents(self) -> list[BucketPath]:
        """The folders that it is in, the nearest first and the bucket last."""
        return [self._with(place) for place in self._place.parents if place.parts]

    def with_name(self, name: str) -> BucketPath:
        """Returns the path of a neighbour."""
        return self._with(self._place.with_name(name))

    def with_suffix(self, suffix: str) -> BucketPath:
        """Returns the path with another suffix."""
        return self._with(self._place.with_suffix(suffix))

    def relative_to(self, other: BucketPath) -> PurePosixPath:
        """Returns the path below a folder; a `ValueError` says that it is not below."""
        if other.scheme != self.scheme:
            raise ValueError(f"{self} is not below {other}")
        return self._place.relative_to(other._place)

    def is_relative_to(self, other: Any) -> bool:
        """Says whether it is a folder or below it."""
        same = isinstance(other, BucketPath) and other.scheme == self.scheme
        return same and self._place.is_relative_to(other._place)

    def resolve(self) -> BucketPath:
        """Returns the path itself: there are no links."""
        return self

    absolute = expanduser = resolve

    # What is there.

    def object(self) -> Found | None:
        """Returns what is known of the object; None where there is none, though there may be a folder."""
        if not self.key:
            refuse_missing_bucket(self)
            return None
        return found_object(self)

    def exists(self) -> bool:
        """Says whether an object or a folder is there."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Says whether an object is there."""
        return self.object() is not None

    def is_dir(self) -> bool:
        """Says whether objects are below; the bucket itself is always a folder."""
        refuse_missing_bucket(self)
        return not self.key or has_objects_below(self)

    def is_symlink(self) -> bool:
        """Says no: there are none."""
        return False

    def stat(self) -> SimpleNamespace:
        """Returns its `st_size`, in bytes, and `st_mtime`; a `FileNotFoundError` says that nothing is there."""
        if (found := self.object()) is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(self))
        return SimpleNamespace(st_size=found.size, st_mtime=found.written)

    def iterdir(self) -> Iterator[BucketPath]:
        """Yields the objects and folders in it, none where there is nothing."""
        return iter([path for path, _ in self.listed()])

    def listed(self) -> list[tuple[BucketPath, bool]]:
        """Returns the objects and folders in it, sorted, and of each whether it is an object."""
        try:
            found = asked(self, "be listed", lambda files: files.ls(self.place, detail=True))
        except FileNotFoundError:
            return []
        every = {self._listed(one["name"]): one["type"] == "file" for one in found}
        # The folder itself is named where a tool has made an object of its name and a slash.
        return sorted((path, is_object) for path, is_object in every.items() if path != self)

    def _listed(self, name: str) -> BucketPath:
        """Returns the path of a name that the server lists; a `UserError` refuses one that would lead elsewhere."""
        place = PurePosixPath(name)
        if str(place) != name.rstrip("/") or ".." in place.parts:
            raise UserError(
                f"{self} holds {self.scheme}://{name}: objects whose names have no empty part and no . or .. between "
                "their slashes were expected"
            )
        return self._with(place)

    def below(self) -> list[BucketPath]:
        """Returns all objects below it, sorted."""
        return sorted(self / name for name in self.sizes())

    def files(self) -> list[BucketPath]:
        """Returns the objects in it, without those in folders of it, sorted."""
        return [path for path, is_object in self.listed() if is_object]

    def sizes(self) -> dict[str, int]:
        """Returns the bytes of all objects below it, by their paths in it."""
        try:
            found = asked(self, "be listed", lambda files: files.find(self.place, detail=True))
        except FileNotFoundError:
            return {}
        # A name that ends in a slash is what tools make for a folder, and the folder's own is of an object beside it.
        sizes = {self._listed(name): one["size"] for name, one in found.items() if not name.endswith("/")}
        return {str(path.relative_to(self)): size for path, size in sizes.items() if path != self}

    def glob(self, pattern: str) -> list[BucketPath]:
        """Returns what is in it and fits a pattern, such as "*.json" or "index/*"."""
        first, _, rest = pattern.partition("/")
        if rest and not any(sign in first for sign in "*?["):
            return (self / first).glob(rest)
        found = [path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, first)]
        return [path for one in found for path in one.glob(rest)] if rest else found

    def matching(self, pattern: str) -> list[BucketPath]:
        """Returns the objects below it that `glob.glob` would find as files: ** is any depth, * no dot in front."""
        first, _, rest = pattern.partition("/")
        if rest and not any(sign in first for sign in "*?["):
            return (self / first).matching(rest)
        if "**" in pattern.split("/"):
            return [path for path in self.below() if _fits(path.relative_to(self).parts, pattern.split("/"))]
        found = [(path, is_object) for path, is_object in self.listed() if _fits([path.name], [first])]
        if rest:
            return [one for path, _ in found for one in path.matching(rest)]
        return [path for path, is_object in found if is_object]

    def rglob(self, pattern: str) -> list[BucketPath]:
        """Returns the objects below it whose names fit a pattern."""
        return [path for path in self.below() if fnmatch.fnmatchcase(path.name, pattern)]

    # Reading.

    def open(self, mode: str = "rb") -> BinaryIO:
        """Opens the object for reading its bytes, in any order; a `FileNotFoundError` says that there is none."""
        if mode != "rb":
            raise ValueError(f"objects are opened with 'rb' alone, found {mode!r}")
        return cast(BinaryIO, io.BufferedReader(_Reader(self), _BUFFER_BYTES))

    def read_bytes(self) -> bytes:
        """Returns the object's bytes; a `FileNotFoundError` says that there is none."""
        return asked(self, "be read", lambda files: files.cat_file(self.place))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Returns the object's text."""
        return self.read_bytes().decode(encoding)

    def read_ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Returns the bytes of spans (offset, length), a request for each, many of them in flight at a time.

        Of a span that leaves the object there is what the object has of it; a `FileNotFoundError` says there is none.
        """
        return read_ranges(self, spans, at_once=_AT_ONCE)

    def download(self, target: Path) -> None:
        """Copies the object, or all objects below, to a file or a folder on this machine.

        Raises:
          FileNotFoundError: there is none.
        """
        try:
            opened = self.open()
        except FileNotFoundError:
            opened = None
        if opened is not None:
            with opened, open(target, "wb") as file:
                shutil.copyfileobj(opened, file, _BUFFER_BYTES)
            return
        objects = self.below()
        if not objects:
            raise FileNotFoundError(errno.ENOENT, "there is nothing", str(self))
        for folder in {target, *(target.joinpath(path.relative_to(self)).parent for path in objects)}:
            folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda path: path.download(target.joinpath(path.relative_to(self))), objects))

    # Writing.

    def upload(self, source: Path) -> None:
        """Makes the object of a file on this machine, or objects below of a folder's: each appears when it is whole."""
        if not source.is_dir():
            # Else it would be the bucket that is told to be missing.
            source.stat()
            asked(self, "be written", lambda files: files.put_file(str(source), self.place), writes=True)
            return
        every = [path for path in sorted(source.rglob("*")) if path.is_file()]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda path: (self / path.relative_to(source)).upload(path), every))

    def write_bytes(self, content: bytes) -> None:
        """Makes the object of bytes."""
        with tempfile.NamedTemporaryFile(prefix="i3d_jax-") as file:
            file.write(content)
            file.flush()
            self.upload(Path(file.name))

    def write_text(self, text: str) -> None:
        """Makes the object of a text, in UTF-8."""
        self.write_bytes(text.encode())

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        if not missing_ok:
            self.stat()
        # A request whose answer was lost is made again, and finds nothing.
        with contextlib.suppress(FileNotFoundError):
            asked(self, "be removed", lambda files: files.rm_file(self.place))

    def remove_below(self) -> None:
        """Removes all objects below it."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda path: path.unlink(missing_ok=True), self.below()))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing, as folders need not be made, but for a look at the bucket and at what stands there."""
        refuse_missing_bucket(self)
        if self.is_file():
            raise FileExistsError(errno.EEXIST, "an object of this name is there", str(self))

    def rmdir(self) -> None:
        """Does nothing: a folder without objects is none."""


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Says whether the parts of a path fit those of a pattern, as `glob.glob` has it."""
    if not names or not patterns:
        return not names and not patterns
    hidden = names[0].startswith(".")
    if patterns == ["**"]:
        return not any(name.startswith(".") for name in names)
    if patterns[0] == "**":
        return _fits(names, patterns[1:]) or (not hidden and _fits(names[1:], patterns))
    if hidden and not patterns[0].startswith("."):
        return False
    return fnmatch.fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


class _Reader(io.RawIOBase):
    """Reads an object piece by piece, always of the state that it was opened in."""

    def __init__(self, path: BucketPath):
        found = path.object()
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path))
        # By its ending FFmpeg knows some kinds of videos.
        self.name = str(path)
        self._path, self._found, self._size, self._place = path, found, found.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer) -> int:
        end = min(self._place + len(buffer), self._size)
        if end <= self._place:
            return 0
        content = read_version(self._path, self._found.tag, self._place, end)
        buffer[: len(content)] = content
        self._place = end
        return len(content)
