"""Times what a GPU does all day, ours against PyTorch's twin of the same network, in one process on one GPU, bfloat16.

training: a whole step of the clips of Table 1 (augmented pixels to new parameters, SGD with momentum), ours as training
runs it, theirs with autocast, channels last and fused SGD. windows: scores of 64 windows of 16 frames, as `features`
and `timeline` ask for them. video: scores of 4 videos of 250 frames, each as a whole, as evaluation has them.

A time is the median of five, of five runs each, started one after the other. The ratio is the time of PyTorch's better
way by ours: above 1, ours is faster. Ours takes pixels (uint8), theirs numbers that are scaled already.
"""

from __future__ import annotations

import argparse
import collections
import functools
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import machine

from i3d_jax.system import files
from i3d_jax.system.errors import UserError, run

EXAMPLE = """\
examples:
  python benchmarks/gpu_speed.py --models i3d --compiled --profile
  python benchmarks/gpu_speed.py --models i3d,c3d,fused,conv_lstm --work training --json speed.json
"""
PACKAGES = ("jax", "jaxlib", "flax", "torch")
WORK = ("training", "windows", "video")
# Clips of a training step on one GPU.
CLIPS = {"i3d": 8, "two_stream_i3d": 8, "conv_lstm": 8, "c3d": 16, "two_stream": 64, "fused": 16}
# (clips, frames) of what is scored.
SCORED = {"windows": (64, 16), "video": (4, 250)}
SIZE = 224
TIMINGS, RUNS, WARM_UPS = 5, 5, 2
KERNELS = 25
COLUMNS = (
    *("", "work", "inputs", "ours, ms", "clips/s", "PyTorch, ms", "compiled by PyTorch, ms", "ratio"),
    *("ours compiled in, s", "ours, GB", "PyTorch, GB"),
)


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark."""
    options = _parser().parse_args(arguments)
    for found, known, what in ((options.models, CLIPS, "model"), (options.work, WORK, "work")):
        for name in found:
            if name not in known:
                raise UserError(f"there is no {what} {name!r}; expected some of {', '.join(known)}")
    if options.json and not options.json.parent.is_dir():
        raise UserError(f"the folder of --json does not exist: {options.json.parent}")
    if importlib.util.find_spec("torch") is None:
        raise UserError('PyTorch, which is compared with, is not installed: pip install -e ".[torch]"')
    # Both frameworks share the GPU, so neither may take all of its memory beforehand.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Imported late: --help and mistakes need neither JAX nor PyTorch.
    import jax

    if jax.default_backend() != "gpu":
        raise UserError(
            f"a GPU was expected, JAX runs on {jax.default_backend()}: benchmarks/model_speed.py is for CPUs"
        )
    jax.config.update("jax_enable_compilation_cache", False)
    about = machine.about(PACKAGES, gpu=jax.devices()[0].device_kind)
    machine.print_about(about)
    print(f"\n| {' | '.join(COLUMNS)} |\n|---|---|---|{'---:|' * (len(COLUMNS) - 3)}", flush=True)
    rows = []
    for name in options.models:
        for work in options.work:
            rows.append(_row(name, work, options))
            print(f"| {' | '.join(_cells(rows[-1]))} |", flush=True)
    for row in rows:
        if options.profile:
            _print_kernels(row)
    if options.json:
        with files.written_whole(options.json) as file:
            file.write(json.dumps({**about, "rows": rows}, indent=1).encode())


def _row(name: str, work: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    ours = _our_training if work == "training" else functools.partial(_our_scores, *SCORED[work])
    theirs = _their_training if work == "training" else _their_scores
    start, shapes, seconds, gigabytes = ours(name)
    row: dict[str, Any] = {
        "model": name,
        "work": work,
        "inputs": shapes,
        "compile_seconds": seconds,
        "ours_gb": gigabytes,
    }
    row["ours"] = _times(start)
    _tell(row, "ours")
    if options.profile:
        row["kernels"] = _kernels(start)
    del start
    for way in ("eager", "compiled")[: 1 + options.compiled]:
        torch.cuda.reset_peak_memory_stats()
        start = theirs(name, shapes, compiled=way == "compiled")
        row[way] = _times(start)
        row[f"{way}_gb"] = torch.cuda.max_memory_allocated() / 1e9
        _tell(row, way)
        del start
        torch.cuda.empty_cache()
    best = min(statistics.median(row[way]) for way in ("eager", "compiled") if way in row)
    row["ratio"] = best / statistics.median(row["ours"])
    return row


def _tell(row: dict[str, Any], way: str) -> None:
    print(
        f"{row['model']}, {row['work']}, {way}: {1000 * statistics.median(row[way]):.1f} ms",
        file=sys.stderr,
        flush=True,
    )


def _cells(row: dict[str, Any]) -> Iterator[str]:
    first = next(iter(row["inputs"].values()))
    ours = statistics.median(row["ours"])
    yield from (row["model"], row["work"], ", ".join("x".join(map(str, shape)) for shape in row["inputs"].values()))
    yield from (f"{1000 * ours:.1f}", f"{first[0] / ours:.0f}")
    yield from (f"{1000 * statistics.median(row[way]):.1f}" if way in row else "" for way in ("eager", "compiled"))
    yield from (f"{row['ratio']:.2f}", f"{row['compile_seconds']:.0f}")
    yield "" if row["ours_gb"] is None else f"{row['ours_gb']:.1f}"
    yield " and ".join(f"{row[f'{way}_gb']:.1f}" for way in ("eager", "compiled") if way in row)


def _times(start: Callable[[], Any]) -> list[float]:
    """Seconds of a run, `TIMINGS` of them, each the mean of `RUNS`."""
    from pairs import wait

    taken = []
    for timing in range(1 + TIMINGS):
        begin = time.perf_counter()
        for _ in range(RUNS if timing else WARM_UPS):
            result = start()
        wait(result)
        if timing:
            taken.append((time.perf_counter() - begin) / RUNS)
    return taken


def _our_training(name: str) -> tuple[Callable[[], Any], dict[str, tuple[int, ...]], float, float]:
    import jax
    import numpy as np
    from ahead import lowered_step

    from i3d_jax.training.compiler_options import compiled_for

    devices = jax.devices()[:1]
    lowered, clip = lowered_step(name, devices, CLIPS[name])
    begin = time.perf_counter()
    program = compiled_for(devices[0].client.platform_version, lowered)
    seconds = time.perf_counter() - begin
    random = np.random.default_rng(0)

    def drawn(like: Any) -> np.ndarray:
        if like.dtype == np.uint8:
            return random.integers(256, size=like.shape, dtype=np.uint8)
        if not jax.numpy.issubdtype(like.dtype, jax.numpy.floating):
            return np.ones(like.shape, like.dtype)
        return (0.02 * random.standard_normal(like.shape)).astype(like.dtype)

    arguments, _ = jax.tree.map(drawn, lowered.in_avals)
    state, batch = jax.device_put(arguments, program.input_shardings[0])

    def start() -> Any:
        nonlocal state
        state, metrics = program(state, batch)
        return metrics

    memory = program.memory_analysis()
    gigabytes = (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e9
    return start, {stream: (CLIPS[name], *shape) for stream, shape in clip.items()}, seconds, gigabytes


def _our_scores(
    clips: int, frames: int, name: str
) -> tuple[Callable[[], Any], dict[str, tuple[int, ...]], float, None]:
    import jax
    import numpy as np

    from i3d_jax import models
    from i3d_jax.inference.batching import Wanted, windows_step
    from i3d_jax.training.partition import Devices

    model = models.create(name, dtype="bfloat16")
    shapes = {stream: (clips, *shape) for stream, shape in model.input_shapes(frames, SIZE).items()}
    random = np.random.default_rng(0)
    devices = Devices(devices=jax.devices()[:1])
    like = models.template(model)
    variables = jax.device_put(
        {
            "params": jax.tree.map(lambda leaf: np.float32(0.02 * random.standard_normal(leaf.shape)), like["params"]),
            # A variance that was drawn would be negative half of the time, and what comes of it no number.
            "batch_stats": jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), like["batch_stats"]),
        }
    )
    batch = {stream: random.integers(256, size=shape, dtype=np.uint8) for stream, shape in shapes.items()}
    placed = devices.shard_batch({**batch, "mask": np.ones(clips, bool)})
    start = functools.partial(devices.compile_evaluation_step(windows_step(model, Wanted(), clips)), variables, placed)
    begin = time.perf_counter()
    jax.block_until_ready(start())
    return start, shapes, time.perf_counter() - begin, None


def _their_training(name: str, shapes: dict[str, tuple[int, ...]], *, compiled: bool) -> Callable[[], Any]:
    import torch

    model, tensors = _twin(name, shapes)
    model.train()
    labels = torch.zeros(len(tensors[0]), dtype=torch.int64, device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-7, fused=True)

    def loss_of(*clips: Any) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            return model.clip_losses(labels, *clips).mean()

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def start() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(*tensors).backward()
        optimizer.step()

    return start


def _their_scores(name: str, shapes: dict[str, tuple[int, ...]], *, compiled: bool) -> Callable[[], Any]:
    import torch

    model, tensors = _twin(name, shapes)
    model.eval()
    scores = torch.compile(model) if compiled else model

    def start() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            scores(*tensors)

    return start


def _twin(name: str, shapes: dict[str, tuple[int, ...]]) -> tuple[Any, list[Any]]:
    import numpy as np
    import pairs
    import torch_models

    # PyTorch at its best: cuDNN searches, as XLA does.
    pairs.device()
    setting = pairs.Setting(frames=0, size=0, batch=0, channels_last=True)
    random = np.random.default_rng(0)
    clips = [random.uniform(-1, 1, shape).astype(np.float32) for shape in shapes.values()]
    model = pairs.laid_out(torch_models.TWINS[name](pairs.NUM_CLASSES), setting)
    return model, [pairs.to_torch(clip, setting) for clip in clips]


def _kernels(start: Callable[[], Any]) -> list[tuple[float, str]]:
    """Milliseconds of a run by kernel, the longest first."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(start())
        (trace,) = Path(folder).rglob("*.xplane.pb")
        taken: dict[str, float] = collections.defaultdict(float)
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for line in plane.lines:
                if "GPU" in plane.name and line.name.startswith("Stream"):
                    for event in line.events:
                        taken[event.name] += event.duration_ns / 1e6
    return sorted(((milliseconds, name) for name, milliseconds in taken.items()), reverse=True)


def _print_kernels(row: dict[str, Any]) -> None:
    total = sum(milliseconds for milliseconds, _ in row["kernels"])
    print(f"\n{row['model']}, {row['work']}: {total:.1f} ms of kernels, of which")
    for milliseconds, name in row["kernels"][:KERNELS]:
        print(f"{milliseconds:8.2f} {name[:100]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", metavar="NAMES", type=_names, default=["i3d"], help="names with commas between them (default: i3d)")
    add("--work", metavar="NAMES", type=_names, default=WORK, help=f"some of {','.join(WORK)} (default: all)")
    add("--compiled", action="store_true", help="compare with torch.compile, too, which takes minutes")
    add("--profile", action="store_true", help=f"print the {KERNELS} kernels of ours that take longest")
    add("--json", metavar="FILE", type=Path, help="write the same, with every single time, for programs")
    return parser


def _names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    run(main)
