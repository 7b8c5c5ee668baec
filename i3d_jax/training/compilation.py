"""Compilation that can be seen, and that is kept from one run to the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from i3d_jax.errors import UserError
from i3d_jax.files import make_folder
from i3d_jax.training.logs import duration


def keep_compiled(directory: str | None) -> None:
    """Lets JAX keep compiled programs in a directory, a bucket (`gs://…`) too; a later process takes them from there.

    Args:
      directory: made if missing. None: JAX's own environment decides (`JAX_COMPILATION_CACHE_DIR`).

    Raises:
      UserError: the directory cannot be made.
    """
    if directory is None:
        return
    if "://" not in directory:
        try:
            make_folder(Path(directory))
        except UserError as error:
            raise UserError(f"compilation_cache: {error}") from error
    jax.config.update("jax_compilation_cache_dir", directory)
    # JAX chooses its directory at the first compilation of a process and would stay with that.
    compilation_cache.reset_cache()


def compiled_at_first(step: Callable, say: Callable[[str], None]) -> Callable[[Any, Any], Any]:
    """Returns a jitted step (state, batch) that is compiled, and says so, before its first call.

    The compilation sees the shapes of the first arguments and runs nothing; all later arguments must have these shapes.

    Args:
      step: has `lower`, as what `jax.jit` and `jax.pmap` return.
      say: is given a line before the compilation and one after it, which tells the seconds.
    """
    compiled = None

    def call(state, batch):
        nonlocal compiled
        if compiled is None:
            say("compiling the training step …")
            began = time.perf_counter()
            compiled = step.lower(state, batch).compile()
            say(f"compiling the training step took {duration(time.perf_counter() - began)}")
        return compiled(state, batch)

    return call
