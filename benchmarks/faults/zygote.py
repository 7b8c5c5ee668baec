"""Forks commands from a process that has imported what they import, so that each starts in a fraction of a second.

It answers lines of JSON by lines of JSON, and computes nothing itself.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import socket
import sys
import warnings
from collections.abc import Mapping
from typing import Any

# What commands import, here imported once.
MODULES = (
    "tensorflow",
    "av",
    "cv2",
    "i3d_jax.main",
    "i3d_jax.convert",
    "i3d_jax.study.runs",
    "i3d_jax.ingest.shard",
    "i3d_jax.report.tensorboard",
)


def serve(connection: socket.socket) -> dict[str, Any]:
    """Answers requests; returns only in a new process, what that has been asked for."""
    imported = False
    with connection.makefile() as requests:
        for line in requests:
            request = json.loads(line)
            answer: Any = None
            if "ended" in request:
                process, status, usage = os.wait4(request["ended"], os.WNOHANG)
                if process:
                    answer = [os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024]
            else:
                if not imported:
                    _import(request["environment"])
                    imported = True
                with warnings.catch_warnings():
                    # Libraries have threads by now, which have nothing to do.
                    warnings.simplefilter("ignore")
                    answer = os.fork()
                if not answer:
                    connection.close()
                    return request
            connection.sendall(json.dumps(answer).encode() + b"\n")
    sys.exit()


def _import(environment: Mapping[str, str]) -> None:
    """Imports what commands import, with the environment that JAX and TensorFlow read then."""
    os.environ.clear()
    os.environ.update(environment)
    # As `cpu_tensorflow.load` does, which besides would look for devices.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
    for name in MODULES:
        importlib.import_module(name)
    # They are run, not imported.
    for name in ("i3d_jax.main", "i3d_jax.convert"):
        del sys.modules[name]
    # Else each command looks through all of that again, and copies it, when it collects garbage and when it ends.
    gc.freeze()


def become(request: dict[str, Any]) -> None:
    """Does what `python -m MODULE ARGUMENTS` or `python -c PROGRAM` does, in a session of its own."""
    os.setsid()
    os.chdir(request["folder"])
    for descriptor, flags, path in (
        (0, os.O_RDONLY, os.devnull),
        (1, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, request["output"]),
        (2, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, request["errors"]),
    ):
        opened = os.open(path, flags, 0o666)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["environment"])
    flag, what, *arguments = request["arguments"]
    sys.path[:1] = [""]
    if flag == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *arguments]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
