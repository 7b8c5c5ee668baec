"""What the compiler of a device is asked for, beside the program."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax

# By itself XLA lays the arrays of 3D convolutions out with the channels outermost on NVIDIA's GPUs, and cuDNN turns
# each round, before and after. Compiled for an H100, I3D's step of eight clips has 40 transpositions in place of 175
# and moves 36 GB in place of 43 (benchmarks/devices.md).
OPTIONS_FOR_CUDA = {"xla_gpu_force_conv_nhwc": True}
# In the order that takes the least memory the arrays of I3D's step lie in half of it or little more, and the system has
# less of it to clear before each step (benchmarks/networks.md).
OPTIONS_FOR_CPU = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def jitted(function: Callable, **options: Any) -> Callable:
    """Returns `jax.jit(function, **options)` with what suits the platform, where the compiler will not have it without.

    For what is computed of arrays of many shapes; its arguments cannot be donated.
    """
    plain = jax.jit(function, **options)
    asked = _options(jax.devices()[0].client.platform_version)
    if not asked:
        return plain
    program = jax.jit(function, **options, compiler_options=asked)

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
    """Compiles a step with what suits the platform, where the compiler will not have it without.

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
    if platform_version == "cpu":
        return dict(OPTIONS_FOR_CPU)
    return dict(OPTIONS_FOR_CUDA) if "cuda" in platform_version else {}
