"""What the compiler of a device is asked for, beside the program."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax

# By itself XLA lays the arrays of 3D convolutions out with the channels outermost on NVIDIA's GPUs, and cuDNN turns
# each round, before and after. Compiled for an H100, I3D's step of eight clips has 40 transpositions in place of 175
# and moves 36 GB in place of 43 (benchmarks/devices.md).
OPTIONS_FOR_CUDA = {"xla_gpu_force_conv_nhwc": True}
# I3D's training step compiles in two thirds of the time and is as fast (jax 0.10; benchmarks/networks.md). JAX 0.12 has
# these emitters no longer and gains nothing.
OPTIONS_FOR_CPU = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


def jitted(function: Callable, **options: Any) -> Callable:
    """Returns `jax.jit(function, **options)` with what suits the platform, where the compiler will not have it without.

    For what is computed of arrays of many shapes; its arguments cannot be donated.
    """
    plain = jax.jit(function, **options)
    if not _is_cuda(jax.devices()[0].client.platform_version):
        return plain
    program = jax.jit(function, **options, compiler_options=dict(OPTIONS_FOR_CUDA))

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

    What `XLA_FLAGS` say of a CPU's options stays.

    Args:
      platform_version: as a JAX client says it, such as "PJRT C API\\ncuda 12090" or "cpu".
      lowered: what `lower` gives.
    """
    options = _options_of_steps(platform_version)
    if options:
        # Another compiler may not know the options; and cuDNN need not have every convolution in this layout.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            return lowered.compile(compiler_options=dict(options))
    return lowered.compile()


def _options_of_steps(platform_version: str) -> dict[str, Any]:
    if _is_cuda(platform_version):
        return OPTIONS_FOR_CUDA
    asked = os.environ.get("XLA_FLAGS", "")
    if platform_version == "cpu" and not any(name in asked for name in OPTIONS_FOR_CPU):
        return OPTIONS_FOR_CPU
    return {}


def _is_cuda(platform_version: str) -> bool:
    return "cuda" in platform_version
