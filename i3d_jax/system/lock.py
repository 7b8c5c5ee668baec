"""A folder that one process at a time works in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from i3d_jax.system import buckets, lease
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_folder, make_folder

_IN_USE = "is in use by {holder}: it is for one run at a time"


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds `DIRECTORY/lock`, which says by whom; the folder is made, and removed again if nothing is put into it.

    The lock is the kernel's (flock), so it ends with the process, however that ends. Between machines it works where
    the file system passes locks on, as NFS does; where it has none, nobody is kept out. In a bucket it is a `lease`.

    Raises:
      UserError: another process holds it, whose number and machine are named; or the folder cannot be made or written.
    """
    path = directory / "lock"
    if (place := buckets.parse(path)) is not None:
        with lease.held(place, f"{directory} {_IN_USE}"):
            yield
        return
    made = not is_folder(directory)
    make_folder(directory)
    descriptor = _lock(path)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        # For readers on other machines: the file stays open.
        os.fsync(descriptor)
        yield
    finally:
        if made and [entry.name for entry in directory.iterdir()] == [path.name]:
            path.unlink()
            directory.rmdir()
        os.close(descriptor)


def taken(descriptor: int) -> bool:
    """Takes the kernel's lock of an open file or folder, and says whether another process holds it.

    Where the file system has no locks, as some network file systems, nobody holds them.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _lock(path: Path) -> int:
    """Returns the file descriptor that holds the lock."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        if taken(descriptor):
            holder = os.read(descriptor, 1000).decode(errors="replace").strip()
            os.close(descriptor)
            raise UserError(f"{path.parent} {_IN_USE.format(holder=holder or 'another process')}")
        # The holder before may have removed the file between our two calls.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)
