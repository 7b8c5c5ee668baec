"""Compilation for tests: most of a network's time in them is XLA optimising what runs once."""

from __future__ import annotations

import jax


def quick_jit(function):
    """`jax.jit` that spends half of the time on compiling and somewhat more on running."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
