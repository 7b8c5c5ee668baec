"""What a user meets whose rights end somewhere, also where the tests run as root."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_PAST_PERMISSIONS = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@contextlib.contextmanager
def without_right(path: Path, mode: int) -> Iterator[None]:
    """Gives a path another mode, and lets this thread see permissions as a user does; both end with the block."""
    before = path.stat().st_mode
    path.chmod(mode)
    with _as_user():
        if os.access(path, os.R_OK if mode & 0o400 == 0 else os.W_OK, effective_ids=True):
            path.chmod(before)
            pytest.skip("this system gives root's rights to whoever runs the tests")
        try:
            yield
        finally:
            path.chmod(before)


@contextlib.contextmanager
def _as_user() -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_VERSION, 0), (_Sets * 2)()
    libc.capget(ctypes.byref(header), sets)
    before = sets[0].effective
    sets[0].effective = before & ~_PAST_PERMISSIONS
    libc.capset(ctypes.byref(header), sets)
    try:
        yield
    finally:
        sets[0].effective = before
        libc.capset(ctypes.byref(header), sets)
