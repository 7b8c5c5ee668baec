"""Archives that anybody may have written: of arrays (.npz), and how far any may unpack."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from typing import BinaryIO

import numpy as np

from i3d_jax.system.errors import UserError
from i3d_jax.system.files import opened, size

# What a small archive may unpack to, and how many times its size a larger one.
_SMALL = 64 << 20
_MOST_TIMES = 20


def refuse_inflated(path: str | os.PathLike, unpacked: int) -> None:
    """Raises a `UserError` for an archive that would unpack to more than 64 MiB and 20 times its size.

    Args:
      path: of the archive.
      unpacked: bytes that it says it unpacks to.
    """
    if unpacked > max(_SMALL, _MOST_TIMES * size(path)):
        raise UserError(f"{path} is no archive of arrays: it would unpack to {unpacked} bytes")


def read_arrays(path: str | os.PathLike, what: str) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file by name. Nothing in it is executed.

    Args:
      path: of the file.
      what: it is to hold, for the message.

    Raises:
      UserError: it may not be read, is no such archive, holds objects, is damaged, encrypted or compressed in a way
        that is not known, or would unpack to more than 64 MiB and 20 times its size.
    """
    with opened(path) as file:
        return _read(file, size(path), path, what)


def parse_arrays(content: bytes, path: str | os.PathLike, what: str) -> dict[str, np.ndarray]:
    """Does what `read_arrays` does with the bytes of a file that have been read."""
    return _read(io.BytesIO(content), len(content), path, what)


def ends_of_arrays(content: bytes) -> dict[str, int]:
    """Returns where the bytes of each array that is not compressed end in the bytes of an .npz file, by its name."""
    ends = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.compress_type == zipfile.ZIP_STORED:
                # Of the header in front, which is not as long as the one in the archive's directory.
                name, extra = struct.unpack_from("<HH", content, member.header_offset + 26)
                begin = member.header_offset + 30 + name + extra
                ends[member.filename.removesuffix(".npy")] = begin + member.file_size
    return ends


def _read(file: BinaryIO, stored: int, path: str | os.PathLike, what: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > max(_SMALL, _MOST_TIMES * stored):
                raise ValueError(f"it would unpack to {unpacked} bytes")
            names = archive.namelist()
            return {name.removesuffix(".npy"): _array(archive, name) for name in dict.fromkeys(names)}
    # What is damaged is met with exceptions of many kinds, of zipfile, zlib, lzma and NumPy.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read as an .npz file of {what}: {reason}") from None


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as member:
        return np.lib.format.read_array(member, allow_pickle=False)
