"""A folder that one process at a time works in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from i3d_jax.errors import UserError
from i3d_jax.files import make_folder


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds `DIRECTORY/lock`, which says by whom; the folder is made, and removed again if nothing is put into it.

    The lock is the kernel's (flock), so it ends with the process, however that ends. Between machines it works where
    the file system passes locks on, as NFS does.

    Raises:
      UserError: another process holds it, whose number and machine are named; or the folder cannot be made.
    """
    made = not directory.exists()
    make_folder(directory)
    path = directory / "lock"
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


def _lock(path: Path) -> int:
    """Returns the file descriptor that holds the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 1000).decode(errors="replace").strip()
            os.close(descriptor)
            raise UserError(
                f"{path.parent} is in use by {holder or 'another process'}: it is for one run at a time"
            ) from None
        # The holder before may have removed the file between our two calls.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)
