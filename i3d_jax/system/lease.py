"""A lock in a bucket, where there is none of the kernel's: an object that its holder writes again and again.

The object says who holds it and is written only if nobody has written it since. A holder that has not written it for
`LEASE_SECONDS`, by the server's clock, is dead, and the next takes its place. Whoever finds a lease held looks until
then whether it is written again: a holder that is alive is known after a few seconds, and a run that is started again
after a crash waits until the lease of the crashed one has ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator

from i3d_jax.system import bucket_requests, signals, terminal
from i3d_jax.system.buckets import BucketPath
from i3d_jax.system.errors import Failure, UserError

LEASE_SECONDS = 60
# Many may fail, as while a server is gone: who tries again after a pause comes late.
_RENEWED_EVERY_SECONDS = 5
_LOOK_SECONDS = 1

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def held(path: BucketPath, in_use: str) -> Iterator[None]:
    """Holds a lease, which is renewed by a thread and given up at the end.

    Args:
      path: of the object that says by whom.
      in_use: the sentence for one that another holds, with {holder} in it.

    Raises:
      UserError: another process holds it.
    """
    lease = _Lease(path, in_use)
    lease.take()
    thread = threading.Thread(target=lease.renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        lease.ended.set()
        thread.join()
        try:
            bucket_requests.remove_if(path, lease.tag)
        except (UserError, Failure) as error:
            # What was done is done, or ends with an error of its own.
            _log.warning("%s; the next run waits for up to %d s", error, LEASE_SECONDS)


class _Lease:
    def __init__(self, path: BucketPath, in_use: str):
        self.ended = threading.Event()
        self.tag = ""
        self._path, self._in_use = path, in_use
        # The second line tells two processes of one number and machine from each other.
        self._own = f"process {os.getpid()} on {socket.gethostname()}\n{secrets.token_hex(8)}\n".encode()

    def take(self) -> None:
        """Waits until the lease is ours; a `UserError` says that its holder is alive."""
        seen: bucket_requests.Version | None = None
        while True:
            found = bucket_requests.version_of(self._path)
            if found is None or found.age >= LEASE_SECONDS:
                if self._written(None if found is None else found.tag):
                    return
            elif seen is None:
                seen = found
                terminal.say(
                    f"{self._path.parent} was in use by {_holder(found)} {max(found.age, 0):.0f} s ago: looking "
                    f"whether it still is, for {LEASE_SECONDS} s at the most"
                )
            elif (found.written, found.content) != (seen.written, seen.content):
                raise UserError(self._in_use.format(holder=_holder(found)))
            time.sleep(_LOOK_SECONDS)

    def renew(self) -> None:
        """Writes the lease again until it is ended; ends the process when it has become another's."""
        while not self.ended.wait(_RENEWED_EVERY_SECONDS):
            # A bucket that does not answer, for one: another may take the lease then, which is found once it answers.
            with contextlib.suppress(Exception):
                if self._written(self.tag):
                    continue
                found = bucket_requests.version_of(self._path)
                if found is None:
                    self._written(None)
                    continue
                signals.tell(
                    f"error: this process stops, because {self._path.parent} has been taken over by {_holder(found)}: "
                    f"for more than {LEASE_SECONDS} s nothing was heard of this one"
                )
                os._exit(1)

    def _written(self, tag: str | None) -> bool:
        """Says whether the lease is ours after a write that takes the place of this version."""
        try:
            self.tag = bucket_requests.write_if(self._path, self._own, tag)
        except FileExistsError:
            # Of a request whose answer was lost, the next is the second.
            found = bucket_requests.version_of(self._path)
            if found is None or found.content != self._own:
                return False
            self.tag = found.tag
        return True


def _holder(version: bucket_requests.Version) -> str:
    lines = version.content.decode(errors="replace").splitlines()
    return lines[0] if lines else "another process"
