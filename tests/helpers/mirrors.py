"""A local HTTP server with the faults of real ones, and a second reader of TensorFlow's index files."""

from __future__ import annotations

import contextlib
import http.server
import struct
import threading
from collections.abc import Iterator
from pathlib import Path


class Mirror:
    """What a server of a folder does, and what it was asked.

    Attributes:
      address: of the folder.
      requests: (path, Range header or None) of every request, in order.
      ranges: whether it answers a request for a part with the part.
      half: paths of which it sends half, once each, and closes the connection.
      stuck: paths of which it sends half, or nothing where `stuck_after` is 0, and then nothing more.
      statuses: {path: codes that it answers one after the other, before it serves the file}.
    """

    def __init__(self, folder: Path, port: int):
        self.folder, self.address = folder, f"http://127.0.0.1:{port}"
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True
        self.half: set[str] = set()
        self.stuck: set[str] = set()
        self.stuck_after = 0.5
        self.statuses: dict[str, list[int]] = {}
        self.over = threading.Event()


def _answer(mirror: Mirror, handler: http.server.BaseHTTPRequestHandler) -> None:
    path, asked = handler.path, handler.headers["Range"]
    mirror.requests.append((path, asked))
    file = mirror.folder / path.lstrip("/")
    codes = mirror.statuses.get(path, [])
    if codes or not file.is_file():
        handler.send_error(codes.pop(0) if codes else 404)
        return
    content = file.read_bytes()
    begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and mirror.ranges else 0
    if begin >= len(content) > 0:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.end_headers()
        return
    if path in mirror.stuck and mirror.stuck_after == 0:
        mirror.over.wait(30)
        return
    handler.send_response(206 if begin else 200)
    handler.send_header("Content-Length", str(len(content) - begin))
    if begin:
        handler.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
    handler.end_headers()
    if path in mirror.half or path in mirror.stuck:
        handler.wfile.write(content[begin : len(content) // 2])
        handler.wfile.flush()
        if path in mirror.stuck:
            mirror.over.wait(30)
        mirror.half.discard(path)
    else:
        handler.wfile.write(content[begin:])


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Mirror]:
    """Serves a folder on this machine while the context lasts."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            # A client that gives up closes the connection.
            with contextlib.suppress(OSError):
                _answer(mirror, self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        mirror = Mirror(folder, server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield mirror
        finally:
            mirror.over.set()
            server.shutdown()
            thread.join()


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _block(data: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The entries of an uncompressed block of a LevelDB table: keys share prefixes with those before them."""
    offset, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    block = data[offset : offset + size]
    assert data[offset + size] == 0, "a compressed block"
    end = size - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        yield key, block[at + fresh : at + fresh + length]
        at += fresh + length


def index_entries(index: Path) -> dict[str, tuple[int, int]]:
    """Reads a checkpoint's index: {name: (offset in the data file, CRC32C of the array's bytes)}."""
    from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto

    data = index.read_bytes()
    footer = data[-48:]
    _, at = _varint(footer, 0)
    _, at = _varint(footer, at)
    found = {}
    for _, handle in _block(data, footer[at:]):
        for key, value in _block(data, handle):
            if key:
                entry = BundleEntryProto.FromString(value)
                # Stored rotated by 15 bits and moved by a constant ("masked").
                rotated = (entry.crc32c - 0xA282EAD8) % 2**32
                found[key.decode()] = entry.offset, (rotated >> 17 | rotated << 15) % 2**32
    return found
