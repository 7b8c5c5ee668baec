"""Downloads files that appear whole: what has come stands in FILE.part, and the next start goes on from there."""

from __future__ import annotations

import contextlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from i3d_jax.system.errors import UserError, is_full_disk
from i3d_jax.system.files import replaceable
from i3d_jax.system.progress import Bar

# How long a server may be silent, in seconds: while it is connected to, before it answers, and between two blocks.
SILENCE = 20
# A server that refuses or fails is asked once more after this many seconds.
PAUSE = 1
ATTEMPTS = 2
_BLOCK = 1 << 18
_NETWORK_ERRORS = (OSError, http.client.HTTPException, UnicodeError)


class UnreachableError(UserError):
    """An address that gives no answer, or another one than a file."""


def refuse_no_address(option: str, address: str) -> None:
    """Raises a `UserError` for what is no address of HTTP."""
    try:
        parts = urllib.parse.urlsplit(address)
        good = parts.scheme in ("http", "https") and parts.hostname is not None
    except ValueError:
        good = False
    if not good:
        raise UserError(f"{option} is an address such as https://host/folder, found {address!r}")


def fetch(url: str, path: Path) -> None:
    """Downloads a file, or the rest of it.

    Args:
      url: its address, http or https.
      path: the file, in a folder that exists; until it is whole it is called `path` + ".part".

    Raises:
      UnreachableError: nothing came, and why.
      UserError: the server fell silent or broke off within the file, or the disk has no room for it; what has come is
        kept.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        begin = part.stat().st_size if part.is_file() else 0
        with contextlib.closing(_answer(url, begin)) as response:
            if response.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                # Either all of it had come, or what had come is of another file.
                usable = response.headers.get("Content-Range") == f"bytes */{begin}"
            elif response.status == http.HTTPStatus.PARTIAL_CONTENT:
                usable = response.headers.get("Content-Range", "").startswith(f"bytes {begin}-")
                if usable:
                    _receive(response, part, begin=begin, path=path, url=url)
            else:
                # A server that sends whole files alone.
                usable = True
                _receive(response, part, begin=0, path=path, url=url)
        if not usable:
            part.unlink()
            return fetch(url, path)
        os.replace(part, replaceable(path))
    except OSError as error:
        # The network's errors have been told already.
        if is_full_disk(error):
            raise UserError(f"there is no room for {path}: make room, or name another folder by --cache") from None
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def _answer(url: str, begin: int) -> http.client.HTTPResponse:
    """Asks for a file from a position on; the answer may also be the whole file, or that there is nothing more."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={begin}-"} if begin else {})
    for attempt in range(ATTEMPTS):
        try:
            return urllib.request.urlopen(request, timeout=SILENCE)
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and begin:
                # It has the status and the headers of an answer.
                return cast(http.client.HTTPResponse, error)
            reason, again = f"the server answers {error.code} ({error.reason})", error.code >= 500
        except _NETWORK_ERRORS as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if again := not isinstance(cause, TimeoutError):
                reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            else:
                reason = f"no answer within {SILENCE} seconds"
        if not again:
            break
        if attempt + 1 < ATTEMPTS:
            time.sleep(PAUSE)
    raise UnreachableError(f"{url} cannot be reached: {reason}")


def _receive(response: http.client.HTTPResponse, part: Path, *, begin: int, path: Path, url: str) -> None:
    """Writes what a server sends behind the first `begin` bytes of what has come; nothing else stays there."""
    length = response.headers.get("Content-Length")
    total = begin + int(length) if length is not None else None
    label = f"{path.parent.name}/{path.name}"
    came, reason = begin, None
    with (
        open(part, "ab") as file,
        Bar(f"downloading {label}", total=total, unit="B", done=begin) as bar,
    ):
        file.truncate(begin)
        try:
            for block in _blocks(response):
                file.write(block)
                came += len(block)
                bar.add(len(block))
        except _BrokenOffError as error:
            reason = str(error)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and came < total and reason is None:
        reason = "the connection ended"
    if reason is not None:
        expected = "" if total is None else f" of {total:,}"
        raise UserError(
            f"{url} broke off after {came:,}{expected} bytes ({reason}): what has come is kept in {part}, and the next "
            "start goes on from there"
        )


class _BrokenOffError(Exception):
    """The network, not the disk, failed within a file."""


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while block := response.read1(_BLOCK):
            yield block
    except TimeoutError:
        raise _BrokenOffError(f"nothing came for {SILENCE} seconds") from None
    except _NETWORK_ERRORS as error:
        raise _BrokenOffError(str(error) or type(error).__name__) from None
