"""TensorFlow as this package uses it: for records and `tf.data`, on the CPU."""

from __future__ import annotations

import contextlib
import functools
import os
from types import ModuleType


@functools.cache
def load() -> ModuleType:
    """Imports TensorFlow (seconds, the first time) without its start-up messages and returns the module.

    Accelerators are hidden from it: it would otherwise take the memory that JAX needs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Nothing here multiplies matrices, and the library announces itself twice at every start.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Batches are large and all alike: memory that is kept and used again spares the system clearing it every time
    # (measured: a fifth of the pipeline's work).
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
    import tensorflow as tf

    # A program that has already used TensorFlow has chosen its devices itself, and they can no longer be changed.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return tf
