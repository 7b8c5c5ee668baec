"""Requests to buckets: by gcsfs and s3fs, tried again in one place, with words for failures; writes with a condition.

gcsfs tries six times within half a minute or more, s3fs for some seconds; what is here goes on where they give up.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import json
import logging
import os
import random
import secrets
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol, TypeVar

from i3d_jax.system.errors import Failure, UserError, install_hint, one_line

Result = TypeVar("Result")

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}

# A request that fails for a reason that may pass (no connection, 429, 5xx) is tried again for so long.
PATIENCE_SECONDS = 60
_LONGEST_PAUSE_SECONDS = 8
# With which a server says that it will never do what is asked.
_FINAL_STATUSES = (301, 400, 405, 501)
# Of one request that gets no answer.
_TIMEOUT_SECONDS = 60
# Before the first request of a process: a server that cannot be reached then is told of within ten seconds.
_FIRST_TRIES, _FIRST_TIMEOUT_SECONDS, _FIRST_PAUSE_SECONDS = 2, 3.0, 1.0


_beginning = threading.Lock()
os.register_at_fork(after_in_child=_beginning._at_fork_reinit)  # type: ignore[attr-defined]


class Place(Protocol):
    """An object, or, with the key "", a bucket; its text is its address."""

    @property
    def scheme(self) -> str:
        """One of `PACKAGES`."""

    @property
    def bucket(self) -> str:
        """The bucket's name."""

    @property
    def key(self) -> str:
        """The object's name."""


class _Bucket(NamedTuple):
    scheme: str
    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}"


def filesystem(scheme: str) -> Any:
    """Returns fsspec's file system of a scheme, which remembers no listing: others write too.

    Raises:
      UserError: it is not installed.
    """
    # A connection does not outlive a fork; threads that begin together are to find one.
    with _beginning:
        return _filesystem(scheme, os.getpid())


@functools.cache
def _filesystem(scheme: str, process: int) -> Any:
    # Its other kind of buckets, zonal ones, go through gRPC, which no emulator knows and which outlives no fork.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    # Where there is no Google machine around, nobody answers; it is asked for credentials three times otherwise.
    os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")
    os.environ.setdefault("GCE_METADATA_DETECT_RETRIES", "1")
    package = PACKAGES[scheme]
    # They log a traceback of every failure, which is told here.
    for name in (package, "gcsfs.retry", "gcsfs.credentials", "s3fs", "asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        if scheme == "gs":
            return _google()
        import s3fs

        return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    except ModuleNotFoundError as error:
        raise UserError(f"{scheme}:// needs {error.name}, which is not installed: {install_hint('cloud')}") from error


def _google() -> Any:
    import aiohttp
    import gcsfs
    import google.auth
    import google.auth.exceptions

    try:
        google.auth.default()
    except google.auth.exceptions.GoogleAuthError:
        # gcsfs would ask for the account of a Google machine again, for 14 seconds where there is none.
        os.environ["NO_GCE_CHECK"] = "true"
    # A large object takes as long as it takes; a server that says nothing is asked again.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_TIMEOUT_SECONDS)
    return gcsfs.GCSFileSystem(skip_instance_cache=True, use_listings_cache=False, requests_timeout=timeout)


@functools.cache
def _there(scheme: str, bucket: str) -> bool:
    """Looks once whether a bucket is there: that of an object is told in the same words as a missing object."""
    path = _Bucket(scheme, bucket)
    _refuse_unreachable(path)

    def look(files: Any) -> None:
        if scheme == "gs":
            files.call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)
        else:
            files.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)

    try:
        asked(path, "be looked at", look)
    except FileNotFoundError:
        raise UserError(f"the bucket {path} does not exist") from None
    return True


def _refuse_unreachable(path: Place) -> None:
    """Raises a `Failure` where nobody answers at the server's address; one behind a proxy is not looked for."""
    files = filesystem(path.scheme)
    if path.scheme == "gs":
        address = files._location
    else:
        files.connect()
        address = files.s3.meta.endpoint_url
    parts = urllib.parse.urlsplit(address)
    if parts.hostname is None or urllib.request.getproxies().get(parts.scheme):
        return
    for number in range(_FIRST_TRIES):
        try:
            port = parts.port or {"http": 80}.get(parts.scheme, 443)
            socket.create_connection((parts.hostname, port), _FIRST_TIMEOUT_SECONDS).close()
            return
        except OSError as error:
            if number + 1 == _FIRST_TRIES:
                raise Failure(f"{path} cannot be looked at: {parts.hostname} cannot be reached: {error}") from error
        time.sleep(_FIRST_PAUSE_SECONDS)


def refuse_missing_bucket(path: Place) -> None:
    """Raises a `UserError` for a place in a bucket that does not exist."""
    _there(path.scheme, path.bucket)


def asked(path: Place, what: str, ask: Callable[[Any], Result], *, writes: bool = False) -> Result:
    """Returns what a request gives, tried again for `PATIENCE_SECONDS` while it fails for a reason that may pass.

    Args:
      path: of the object.
      what: is done to it, for the sentence.
      ask: makes the request of fsspec's file system.
      writes: whether a bucket that is missing is told as such.

    Raises:
      FileNotFoundError, FileExistsError: as the words say.
      UserError: no credentials, or not for this.
      Failure: the reason did not pass.
    """
    files = filesystem(path.scheme)
    if not isinstance(path, _Bucket):
        refuse_missing_bucket(path)
    began = time.monotonic()
    pause = 0.5
    while True:
        try:
            return ask(files)
        except FileNotFoundError as error:
            if writes:
                raise UserError(f"{path} cannot {what}: the bucket does not exist") from error
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path)) from error
        except (FileExistsError, UserError, Failure):
            raise
        except Exception as error:
            if _is_other_version(error):
                raise FileExistsError(errno.EEXIST, "another version is there", str(path)) from error
            if told := _refused(error, path.scheme):
                raise UserError(f"{path} cannot {what}: {told}") from error
            waited = time.monotonic() - began
            if waited + pause > PATIENCE_SECONDS:
                said = one_line(error) or type(error).__name__
                raise Failure(f"{path} cannot {what} after trying for {waited:.0f} s: {said}") from error
            # Those that failed together do not come again together.
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


_CREDENTIALS = {
    "gs": "no credentials of Google Cloud were found that are let in: gcloud auth application-default login gives some",
    "s3": "no credentials of AWS were found: aws configure, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, give some",
}


def _refused(error: Exception, scheme: str) -> str:
    """Says why asking again would not help, "" where it may."""
    text, kind, status = one_line(error), type(error).__name__, _status(error)
    if status == 401 or kind in ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"):
        return _CREDENTIALS[scheme]
    # Credentials that have ended, or were taken back.
    if kind == "RefreshError" and not getattr(error, "retryable", False):
        return _CREDENTIALS[scheme]
    if isinstance(error, PermissionError) or status == 403 or text.startswith("Forbidden"):
        return f"the account has no permission for it ({text or 'access is denied'})"
    # No name of a bucket, for one, or another region's bucket.
    wrong = isinstance(error, ValueError | TypeError) or kind == "ParamValidationError"
    final = status in _FINAL_STATUSES and _code_in_s3(error) != "RequestTimeout"
    return text or kind if wrong or final else ""


def _status(error: Exception) -> int:
    """Returns the HTTP status that an error tells of, 0 for none."""
    told = getattr(error, "code", None) or _answer_of_s3(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(told) if str(told).isdigit() else 0


def _code_in_s3(error: Exception) -> str:
    return _answer_of_s3(error).get("Error", {}).get("Code", "")


def _answer_of_s3(error: Exception) -> dict[str, Any]:
    return getattr(error.__cause__, "response", None) or {}


def _is_other_version(error: Exception) -> bool:
    """Says whether S3 has refused a write that another had come before; Google's is a `FileExistsError`."""
    return _code_in_s3(error) in ("PreconditionFailed", "ConditionalRequestConflict", "412")


# Of single objects: one request each.


class Found(NamedTuple):
    """What is known of an object.

    Attributes:
      size: in bytes.
      tag: of its version.
      written: when, in seconds since 1970.
    """

    size: int
    tag: str
    written: float


def found_object(path: Place) -> Found | None:
    """Looks for an object; None where there is none."""

    def look(files: Any) -> Found:
        if path.scheme == "gs":
            told = files.call("GET", "b/{}/o/{}", path.bucket, path.key, json_out=True)
            written = datetime.datetime.fromisoformat(told["updated"])
            return Found(int(told["size"]), told["generation"], written.timestamp())
        told = files.call_s3("head_object", Bucket=path.bucket, Key=path.key)
        return Found(told["ContentLength"], told["ETag"], told["LastModified"].timestamp())

    try:
        return asked(path, "be looked at", look)
    except FileNotFoundError:
        return None


def has_objects_below(path: Place) -> bool:
    """Says whether the names of objects begin with that of a folder."""

    def look(files: Any) -> bool:
        prefix = f"{path.key}/"
        if path.scheme == "gs":
            told = files.call("GET", "b/{}/o", path.bucket, prefix=prefix, maxResults=1, json_out=True)
            return bool(told.get("items"))
        return bool(files.call_s3("list_objects_v2", Bucket=path.bucket, Prefix=prefix, MaxKeys=1).get("Contents"))

    return asked(path, "be listed", look)


def read_version(path: Place, tag: str, start: int, end: int) -> bytes:
    """Returns the bytes from `start` to `end` of a version of an object.

    Raises:
      UserError: the object is another by now.
    """

    def read(files: Any) -> bytes:
        if path.scheme == "gs":
            found = files.cat_file(f"{path.bucket}/{path.key}", start=start, end=end, generation=tag)
        else:
            found = _content_in_s3(files, path, IfMatch=tag, Range=f"bytes={start}-{end - 1}")[1]
        if len(found) != end - start:
            raise ConnectionError(f"{end - start} bytes were asked for, {len(found)} came")
        return found

    try:
        return asked(path, f"be read, bytes {start} to {end},", read)
    except (FileNotFoundError, FileExistsError) as error:
        raise UserError(f"{path} has changed while it was read: start again") from error


def read_ranges(path: Place, spans: Sequence[tuple[int, int]], *, at_once: int) -> list[bytes]:
    """Returns the bytes of spans (offset, length) of an object, so many requests at a time; none behind its end."""
    name, wanted = f"{path.bucket}/{path.key}", list(spans)

    def read(files: Any) -> list[bytes]:
        starts, ends = [start for start, _ in wanted], [start + length for start, length in wanted]
        found = files.cat_ranges([name] * len(wanted), starts, ends, on_error="return", batch_size=at_once)
        for number, one in enumerate(found):
            if isinstance(one, Exception):
                if not _is_behind_end(one):
                    raise one
                found[number] = b""
        return found

    return asked(path, f"be read, bytes {wanted[0][0]} to {sum(wanted[-1])}," if wanted else "be read", read)


def _is_behind_end(error: Exception) -> bool:
    return _status(error) == 416 or _code_in_s3(error) in ("InvalidRange", "416")


def _content_in_s3(files: Any, path: Place, **more: str) -> tuple[dict, bytes]:
    from fsspec import asyn

    async def look() -> tuple[dict, bytes]:
        found = await files._call_s3("get_object", Bucket=path.bucket, Key=path.key, **more)
        async with found["Body"] as body:
            return found, await body.read()

    return asyn.sync(files.loop, look)


# Of locks: writes that come second are refused.


class Version(NamedTuple):
    """What an object is now.

    Attributes:
      content: its bytes.
      tag: of this version, for `write_if`.
      written: when, by the server's clock.
      age: seconds since then, by the server's clock.
    """

    content: bytes
    tag: str
    written: datetime.datetime
    age: float


def version_of(path: Place) -> Version | None:
    """Returns what an object is now; None where there is none."""
    look = _version_in_google if path.scheme == "gs" else _version_in_s3
    try:
        return asked(path, "be read", lambda files: look(files, path))
    except FileNotFoundError:
        return None


def _version_in_google(files: Any, path: Place) -> Version:
    while True:
        headers, text = files.call("GET", "b/{}/o/{}", path.bucket, path.key)
        told = json.loads(text)
        # Gone may be this version alone, since another has taken its place after the first request.
        with contextlib.suppress(FileNotFoundError):
            content = files.cat_file(f"{path.bucket}/{path.key}", generation=told["generation"])
            written = datetime.datetime.fromisoformat(told["updated"])
            return _version(content, told["generation"], written, headers["Date"])


def _version_in_s3(files: Any, path: Place) -> Version:
    found, content = _content_in_s3(files, path)
    now = found["ResponseMetadata"]["HTTPHeaders"]["date"]
    return _version(content, found["ETag"], found["LastModified"], now)


def _version(content: bytes, tag: str, written: datetime.datetime, now: str) -> Version:
    return Version(content, tag, written, (parsedate_to_datetime(now) - written).total_seconds())


def write_if(path: Place, content: bytes, tag: str | None) -> str:
    """Makes an object if it is of this version now, None for absent, and returns the tag of the new one.

    Raises:
      FileExistsError: it is another, which may be this write itself, done by a request that was answered too late.
    """
    if path.scheme == "s3":
        met = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        found = asked(
            path,
            "be written",
            lambda files: files.call_s3("put_object", Bucket=path.bucket, Key=path.key, Body=content, **met),
        )
        return found["ETag"]
    # The form that carries the name: of the plain one, the emulator of our tests takes no conditions.
    bound = f"i3d_jax {secrets.token_hex(16)}"
    head = f"--{bound}\r\nContent-Type: application/json\r\n\r\n{json.dumps({'name': path.key})}\r\n"
    body = f"{head}--{bound}\r\nContent-Type: text/plain\r\n\r\n".encode() + content + f"\r\n--{bound}--".encode()
    found = asked(
        path,
        "be written",
        lambda files: files.call(
            "POST",
            f"{files._location}/upload/storage/v1/b/{urllib.parse.quote(path.bucket)}/o",
            uploadType="multipart",
            headers={"Content-Type": f'multipart/related; boundary="{bound}"'},
            ifGenerationMatch=tag or "0",
            data=body,
            json_out=True,
        ),
    )
    return found["generation"]


def remove_if(path: Place, tag: str) -> None:
    """Removes an object that is of this version; another is left."""
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        if path.scheme == "s3":
            asked(
                path,
                "be removed",
                lambda files: files.call_s3("delete_object", Bucket=path.bucket, Key=path.key, IfMatch=tag),
            )
        else:
            asked(
                path,
                "be removed",
                lambda files: files.call("DELETE", "b/{}/o/{}", path.bucket, path.key, ifGenerationMatch=tag),
            )
