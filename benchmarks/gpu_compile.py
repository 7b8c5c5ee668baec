"""Compiles training steps and TV-L1 for an H100 that is not there, and says what their kernels move.

The step is the one that training runs (bfloat16, the release's optimizer), compiled ahead of time by JAX's plugin for
CUDA, once as XLA lays arrays out by itself and once as training compiles it. Kernels are counted, and the bytes that
they read and write. Nothing runs and nothing is tuned for a device, so no time here is measured: the least time is that
of the bytes at the datasheet's rate.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import hlo
import machine
from machine import positive

from i3d_jax.system.errors import UserError, install_hint, run

EXAMPLE = """\
examples:
  python benchmarks/gpu_compile.py --architectures i3d
  python benchmarks/gpu_compile.py --architectures "" --pairs 8

I3D's step compiles in one to three minutes of a core, the flow in half of one.
"""
PACKAGES = ("jax", "jaxlib", "flax")
# Clips of Table 1 on one GPU: of I3D those of the figures of an H100.
CLIPS = {"i3d": 8, "conv_lstm": 8, "c3d": 16, "two_stream": 64, "fused": 16}
# https://www.nvidia.com/en-us/data-center/h100/, SXM: bytes a second.
MEMORY_BANDWIDTH = 3.35e12
# What XLA asks of a device before it compiles for it: the datasheet of an H100 SXM, and the limits of compute
# capability 9.0 in the CUDA programming guide.
H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  l2_cache_size: 52428800
  memory_bandwidth: 3350000000000
  device_memory_size: 84942979072
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
CORES = 132
# There is no device to try kernels on.
NOT_TUNED = {"xla_gpu_autotune_level": 0}
COLUMNS = (
    *("", "clips", "layout", "kernels", "transpositions", "these move, GB", "pools' gradients, GB", "all, GB"),
    *("ms at least", "temporaries, GB", "compiled in, s"),
)
# Frames of the figures of an H100: UCF-101's, of short side 256.
FLOW_SIZE = (256, 340)


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark."""
    options = _parser().parse_args(arguments)
    for name in options.architectures:
        if name not in CLIPS:
            raise UserError(f"there is no architecture {name!r} here; expected some of {', '.join(CLIPS)}")
    plugins = [f"jax_cuda{version}_plugin" for version in (12, 13)]
    if not any(map(importlib.util.find_spec, plugins)):
        raise UserError(f"JAX's plugin for CUDA is not installed; {install_hint('cuda')}")
    # No GPU is at hand: JAX itself works on the CPU, and the plugin does not look for one.
    os.environ["JAX_PLATFORMS"] = "cpu"
    about = machine.about(PACKAGES, gpu=None)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    print(f"{about['date']}, compiled on {about['cpu']} with {about['cores']} cores; nothing ran on a GPU\n{versions}")
    print(f"`{about['command']}`", flush=True)
    if options.architectures:
        print(f"\n| {' | '.join(COLUMNS)} |\n|---|---:|---|{'---:|' * (len(COLUMNS) - 3)}", flush=True)
    from i3d_jax.training.compiler_options import OPTIONS_FOR_CUDA

    for name in options.architectures:
        for layout, more in (("XLA's own", {}), ("training's", OPTIONS_FOR_CUDA)):
            print(f"| {' | '.join(_row(name, options.clips or CLIPS[name], layout, more))} |", flush=True)
    if options.pairs:
        _print_flow(options.pairs, options.without_kernel)


def _row(architecture: str, clips: int, layout: str, options: dict[str, Any]) -> list[str]:
    # Imported late: --help and mistakes need no JAX.
    from ahead import lowered_step

    begin = time.perf_counter()
    lowered, _ = lowered_step(architecture, [_device()], clips)
    compiled = lowered.compile(compiler_options={**NOT_TUNED, **options})
    seconds = time.perf_counter() - begin
    operations = list(hlo.operations(hlo.parse(compiled.as_text())))
    turned = [one for one in operations if "transpose" in one.name or one.opcode == "transpose"]
    pools = [one for one in operations if one.scope.startswith("backward") and "max_pool" in one.scope]
    moved = _gigabytes(operations)
    return [
        *(architecture, str(clips), layout, str(len(operations)), str(len(turned)), f"{_gigabytes(turned):.1f}"),
        *(f"{_gigabytes(pools):.1f}", f"{moved:.1f}", f"{1e12 * moved / MEMORY_BANDWIDTH:.1f}"),
        *(f"{compiled.memory_analysis().temp_size_in_bytes / 1e9:.2f}", f"{seconds:.0f}"),
    ]


def _gigabytes(operations: Sequence[hlo.Operation]) -> float:
    return sum(one.bytes for one in operations) / 1e9


def _device() -> Any:
    from jax.experimental import topologies

    return topologies.get_topology_desc("", "cuda", target_config=H100, topology="1x1x1").devices[0]


def _print_flow(pairs: int, without_kernel: bool) -> None:
    """Prints what the iterations of TV-L1 on the finest scale are made of."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding, use_abstract_mesh

    from i3d_jax import flow
    from i3d_jax.flow import tiled_iterations

    # It is for the device that is absent, and is else not asked for where there is none.
    tiled_iterations.available = lambda: not without_kernel
    device = _device()
    frames = jax.ShapeDtypeStruct((pairs, *FLOW_SIZE), jnp.uint8, sharding=SingleDeviceSharding(device))
    begin = time.perf_counter()
    # The kernel asks for the device that it is compiled for where JAX works, which is the CPU.
    meant = AbstractDevice(device.device_kind, CORES, "gpu")
    with use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=meant)):
        lowered = jax.jit(flow.tvl1).trace(frames, frames).lower(lowering_platforms=("cuda",))
    program = hlo.parse(lowered.compile(compiler_options=NOT_TUNED).as_text())
    seconds = time.perf_counter() - begin
    field = pairs * FLOW_SIZE[0] * FLOW_SIZE[1] * 4
    print(f"\nTV-L1, {pairs} pairs of {FLOW_SIZE[1]}x{FLOW_SIZE[0]}, compiled in {seconds:.0f} s. On the finest scale")
    if not without_kernel:
        _print_passes(program, tiled_iterations.TILING, field)
        return
    for trips, kernels in _loops_over(program, field):
        large = [one for one in kernels if one.bytes > field]
        floats = sum(one.bytes for one in large) / field
        print(
            f"- {trips} times {len(kernels)} kernels, {len(large)} of them over whole fields: "
            f"{floats:.0f} floats a pixel, {1e6 * floats * field / MEMORY_BANDWIDTH:.0f} us at least"
        )


def _print_passes(program: hlo.Program, tiling: Any, field: int) -> None:
    """Prints what passes of several iterations are made of; what a tile reads and writes is counted, not read there."""
    kernels = max(_loops_with("tvl1_iterations", program), key=lambda kernels: max(one.bytes for one in kernels))
    others = [one for one in kernels if one.opcode != "custom-call"]
    rows, columns = (threads * pixels for threads, pixels in zip(tiling.threads, tiling.patch, strict=True))
    written = tiling.inner[0] * tiling.inner[1]
    floats = (9 * rows * columns + 6 * written) / written
    print(
        f"- {len(kernels) - len(others)} passes of {tiling.iterations} iterations are {len(kernels)} kernels. One of a "
        f"pass goes over whole fields, in tiles of {rows}x{columns} pixels of which {tiling.inner[0]}x"
        f"{tiling.inner[1]} are written: {floats:.1f} floats a pixel, "
        f"{1e6 * floats * field / MEMORY_BANDWIDTH:.0f} us at least; the others move "
        f"{sum(one.bytes for one in others) / 1e3:.1f} kB"
    )


def _loops_with(scope: str, program: hlo.Program) -> Iterator[list[hlo.Operation]]:
    """Yields the kernels of each loop that has one of this scope in its own body."""
    for computation in program.computations.values():
        for loop in computation.values():
            for name in loop.called if loop.opcode == "while" else ():
                if any(
                    scope in one.op_name and one.opcode == "custom-call" for one in program.computations[name].values()
                ):
                    yield list(hlo.operations(hlo.Program(program.computations, name)))


def _loops_over(program: hlo.Program, field: int) -> Iterator[tuple[int, list[hlo.Operation]]]:
    """Yields (how often, kernels) of the loops of a known length over a flow of so many bytes and what moves it."""
    for computation in program.computations.values():
        for loop in computation.values():
            if loop.opcode == "while" and loop.trips > 1 and sum(one.bytes == field for one in loop.outputs) > 6:
                # It calls its condition, too, which is the shorter one.
                body = max(loop.called, key=lambda name: len(program.computations[name]))
                yield loop.trips, list(hlo.operations(hlo.Program(program.computations, body)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = "names with commas between them, or none (default: all five)"
    add("--architectures", metavar="NAMES", type=_words, default=tuple(CLIPS), help=names)
    add("--clips", metavar="N", type=positive, help="of a step (default: 8 of I3D)")
    add("--pairs", metavar="N", type=positive, help="compile TV-L1 of so many pairs of frames, too")
    add("--without_kernel", action="store_true", help="with iterations one by one, as where JAX has no Triton")
    return parser


def _words(text: str) -> list[str]:
    return text.split(",") if text else []


if __name__ == "__main__":
    run(main)
