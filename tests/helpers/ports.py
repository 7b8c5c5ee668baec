"""Ports for servers that other programs start."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port() -> int:
    """A port at which nobody listens: below those that the system gives to whoever asks for any, as other tests do."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port


def free_address() -> str:
    """An address of this machine with such a port."""
    return f"127.0.0.1:{free_port()}"
