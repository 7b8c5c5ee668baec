"""Keeps what Python compiles where it is told to keep nothing beside the sources."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import tempfile
from pathlib import Path


@functools.cache
def keep() -> tempfile.TemporaryDirectory | None:
    """Lets this process and those that it starts keep bytecode in a folder of their own; returns the folder.

    With PYTHONDONTWRITEBYTECODE and libraries that came as sources, every process would compile these anew: most of the
    time that it takes to import TensorFlow or JAX. None where they have bytecode, or Python may write it beside them.
    The folder goes with this process.
    """
    found = importlib.util.find_spec("jax")
    if not sys.dont_write_bytecode or found is None or Path(found.cached or "").is_file():
        return None
    folder = tempfile.TemporaryDirectory(prefix="bytecode-", ignore_cleanup_errors=True)
    sys.dont_write_bytecode, sys.pycache_prefix = False, folder.name
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = folder.name
    return folder
