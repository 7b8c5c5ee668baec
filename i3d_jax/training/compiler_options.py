"""What the compiler of a device is asked for, beside the program."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax

# By itself XLA lays the arrays of 3D convolutions out with the channels outermost on NVIDIA's GPUs, and cuDNN turns
# each round, before and after. Compiled for an H100, I3D's step of eight clips has 40 transpositions in place of 175
# and moves 36 GB in place of 43 (benchmarks/devices.md).
OPTIONS_FOR_CUDA = {"xla_gpu_force_conv_nhwc": True}
# In the order that takes the least memory I3D's step needs 0.55 (jax 0.10) to 0.8 (0.12) of what it took otherwise, and
# the system has less to clear before each step (benchmarks/networks.md).
OPTIONS_FOR_CPU = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def jitted(function: Callable, **options: Any) -> Callable:
    """Returns `jax.jit(function, **options)` with what suits the platform, or without, where the compiler refuses that.

    For what is computed of arrays of many shapes; its arguments cannot be donated.
    """
    plain = jax.jit(function, **options)
    platform_version = jax.devices()[0].client.platform_version
    asked = _options(platform_version)
    if not asked:
        return plain
    program = jax.jit(function, **options, compiler_options=asked)
    if not _is_cuda(platform_version):
        return program

    def call(*arguments):
        nonlocal program
        try:
            return program(*arguments)
        except jax.errors.JaxRuntimeError:
            if program is plain:
                raise
            program = plain
            return program(*arguments)

    return call


def compiled_for(platform_version: str, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a step with what suits the platform, or without, where the compiler refuses that.

    Args:
      platform_version: as a JAX client says it, such as "PJRT C API\\ncuda 12090" or "cpu".
      lowered: what `lower` gives.
    """
    if asked := _options(platform_version):
        # Another compiler may not know the option; and cuDNN need not have every convolution in this layout.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            return lowered.compile(compiler_options=asked)
    return lowered.compile()


def _options(platform_version: str) -> dict[str, Any]:
    if _is_cuda(platform_version):
        return dict(OPTIONS_FOR_CUDA)
    asked = OPTIONS_FOR_CPU if platform_version == "cpu" else {}
    return {name: value for name, value in asked.items() if _is_known(name, value)}


def _is_cuda(platform_version: str) -> bool:
    return "cuda" in platform_version


@functools.cache
def _is_known(name: str, value: Any) -> bool:
    """Says whether the compiler at hand takes an option: one of another year refuses what it does not know."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True
