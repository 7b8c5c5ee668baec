"""Compilation that can be seen, and that is kept from one run to the next."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from i3d_jax.system import files
from i3d_jax.system.errors import UserError, install_hint
from i3d_jax.system.files import make_folder
from i3d_jax.system.terminal import duration
from i3d_jax.training.compiler_options import compiled_for

# What `compilation_cache` may be besides a directory.
USERS_CACHE = "default"
NO_CACHE = ("off", "")
# What is compiled faster than this is not kept, in seconds: to find it and to load it takes about as long.
LEAST_SECONDS = 0.3
# Of the user's cache folder: room for a few hundred programs of the size of a training step.
MOST_BYTES = 2 << 30
# Where Linux says what its CPUs can run.
CPUINFO = Path("/proc/cpuinfo")


def keep_compiled(directory: str = USERS_CACHE) -> None:
    """Lets JAX keep compiled programs in a directory; a later process takes them from there.

    JAX's own variables in the environment are obeyed: `JAX_COMPILATION_CACHE_DIR` takes the place of the default, and
    with `JAX_ENABLE_COMPILATION_CACHE=false` nothing is kept anywhere.

    Args:
      directory: "default": the directory that JAX has been told of already, else `users_cache()`, and none, without a
        word, if nothing can be written there; "off" or "": nothing is kept; else a directory, which is made if missing,
        or a bucket's (`gs://…`).

    Raises:
      UserError: a directory that is named cannot be made, or the platform that JAX is told to use is not there.
    """
    refuse_absent_platform()
    # Before version 0.12 JAX made its attributes as it ran, out of a type checker's sight.
    configuration: Any = jax.config
    kept_in: str | None
    if directory in NO_CACHE:
        kept_in = None
    elif directory != USERS_CACHE:
        kept_in = _made(directory)
    else:
        kept_in = configuration.jax_compilation_cache_dir or users_cache()
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        least = min(LEAST_SECONDS, configuration.jax_persistent_cache_min_compile_time_secs)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    jax.config.update("jax_compilation_cache_dir", kept_in)
    # JAX chooses its directory at the first compilation of a process and would stay with that.
    compilation_cache.reset_cache()


def refuse_absent_platform() -> None:
    """Raises a `UserError` where `JAX_PLATFORMS` names what JAX cannot use here: no such device, or no plugin of it."""
    try:
        jax.devices()
    # The latter is JAX's of a platform that it knows of and has no plugin for.
    except (RuntimeError, AssertionError) as error:
        named = os.environ.get("JAX_PLATFORMS")
        if not named:
            raise
        # Without JAX's own advice.
        reason = " ".join(str(error).split()).partition(" (set ")[0] or "it has no plugin for it"
        raise UserError(
            f"JAX_PLATFORMS is {named!r}, which JAX cannot use here ({reason}): leave it out, or install the plugin;"
            f" for NVIDIA GPUs {install_hint('all', 'cuda')}"
        ) from error


def users_cache() -> str | None:
    """Makes and returns the user's folder for programs of this kind of processor; None where that cannot be done.

    It is `$XDG_CACHE_HOME/i3d_jax/compiled/KIND`, or in `~/.cache`. JAX does not promise that a program made for one
    CPU is never given to another, and homes are shared by machines: KIND stands for the CPU's instruction set. What
    was not used for the longest time is removed where all kinds take more than `MOST_BYTES`.
    """
    cache = files.users_cache()
    if cache is None:
        return None
    folder = cache / "compiled"
    directory = folder / _instruction_set()
    try:
        # For nobody else: who writes there decides what is run.
        os.makedirs(directory, mode=0o700, exist_ok=True)
        _forget_oldest(folder)
    except OSError:
        return None
    return str(directory) if os.access(directory, os.W_OK | os.X_OK) else None


def _instruction_set() -> str:
    """A name for what this machine's CPU can run: "x86_64-" and eight digits, equal for CPUs with equal features."""
    features = platform.processor()
    with contextlib.suppress(OSError), open(CPUINFO, encoding="utf-8") as file:
        features = next((line for line in file if line.lower().startswith(("flags", "features"))), features)
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def _made(directory: str) -> str:
    if "://" not in directory:
        try:
            make_folder(Path(directory))
        except UserError as error:
            raise UserError(f"compilation_cache: {error}") from error
    return directory


def _forget_oldest(folder: Path) -> None:
    """Removes the files that were not used for the longest time, until the rest take at most `MOST_BYTES`.

    JAX's own limit (`jax_compilation_cache_max_size`) needs another package, and a lock at each program.
    """
    files = []
    for path in folder.rglob("*"):
        # Another process may do the same.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                found = path.stat()
                files.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= MOST_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= size


def compiled_at_first(step: jax.stages.Wrapped, say: Callable[[str], None]) -> Callable[[Any, Any], Any]:
    """Returns a jitted step (state, batch) that is compiled, and says so, before its first call.

    The compilation sees the shapes of the first arguments and runs nothing; all later arguments must have these shapes.

    Args:
      step: what `jax.jit` returns.
      say: is given a line before the compilation and one after it, which tells the seconds.
    """
    compiled = None

    def call(state, batch):
        nonlocal compiled
        if compiled is None:
            say("compiling the training step …")
            began = time.perf_counter()
            compiled = compiled_for(jax.devices()[0].client.platform_version, step.lower(state, batch))
            say(f"compiling the training step took {duration(time.perf_counter() - began)}")
        return compiled(state, batch)

    return call
