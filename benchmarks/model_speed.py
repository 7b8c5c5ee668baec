"""Times every architecture against its PyTorch twin, in alternation, in one run, on a CPU or a GPU.

Forward is evaluation mode; forward + backward is training mode: the loss and the gradients of all parameters, without
dropout and optimizer. The ratio is PyTorch's time by ours: above 1, ours is faster. Clips are those of the paper's
Table 1, but of no more frames and pixels than asked for.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import machine
from machine import positive

from i3d_jax.system import files
from i3d_jax.system.errors import UserError, run

if TYPE_CHECKING:
    from pairs import Pair

EXAMPLE = """\
example:
  python benchmarks/model_speed.py --models i3d,c3d --dtypes float32 --json speed.json
"""
MODELS = ("inception_v1", "conv_lstm", "c3d", "two_stream", "fused", "i3d", "two_stream_i3d")
DTYPES = ("float32", "bfloat16")
PACKAGES = ("jax", "jaxlib", "flax", "torch")
# PyTorch's idle threads spin for up to 8 ms after its work (OpenMP's default, measured); XLA's turn begins after that.
PAUSE_SECONDS = 0.03
WARM_UPS = 2
# On a GPU so many runs are started before the clock waits for the last: the device is timed, not the way to it.
RUNS_PER_TIMING = {"cpu": 1, "gpu": 10}
COLUMNS = ("", "inputs", "dtype", "work", "ours, ms", "PyTorch, ms", "ratio", "lowest to highest", "compiled in, s")


@dataclass(frozen=True)
class Timing:
    """A pair's times, in seconds for one run; `ours[n]` and `theirs[n]` were taken one after the other."""

    name: str
    inputs: str
    dtype: str
    work: str
    compile_seconds: float
    ours: list[float]
    theirs: list[float]

    def summary(self) -> dict[str, object]:
        """Everything, with the medians and the ratios (PyTorch's time by ours) of neighbours in time."""
        ratios = [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        return {
            **vars(self),
            "ours_median": statistics.median(self.ours),
            "theirs_median": statistics.median(self.theirs),
            "ratio": statistics.median(ratios),
            "ratio_lowest": min(ratios),
            "ratio_highest": max(ratios),
        }


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark."""
    options = _parser().parse_args(arguments)
    _check(options.models, MODELS, "model")
    _check(options.dtypes, DTYPES, "dtype")
    if options.size <= 32 and options.batch < 2:
        raise UserError("one clip of 32 pixels leaves batch normalisation a single value: raise --size or --batch")
    if options.json and not options.json.parent.is_dir():
        raise UserError(f"the folder of --json does not exist: {options.json.parent}")
    if importlib.util.find_spec("torch") is None:
        raise UserError('PyTorch, which is compared with, is not installed: pip install -e ".[torch]"')
    # Both frameworks share a GPU, so neither may take all of its memory beforehand.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Imported late: --help and mistakes need neither JAX nor PyTorch.
    import jax
    import pairs

    # A program from the cache would make the compile times nothing.
    jax.config.update("jax_enable_compilation_cache", False)
    on_gpu = pairs.device().type == "cuda"
    setting = pairs.Setting(
        frames=options.frames,
        size=options.size,
        batch=options.batch,
        channels_last=on_gpu if options.layout is None else options.layout == "channels_last",
    )
    about = machine.about(PACKAGES, gpu=jax.devices()[0].device_kind if on_gpu else None)
    about["pytorch_layout"] = "channels_last" if setting.channels_last else "channels_first"
    machine.print_about(about)
    print(f"PyTorch's arrays {about['pytorch_layout']}\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * 4}{'---:|' * (len(COLUMNS) - 4)}", flush=True)
    summaries = []
    if options.layers:
        work = (
            pairs.layer_pairs(layer, dtype, setting)
            for dtype in options.dtypes
            for layer in pairs.distinct_layers(setting)
        )
    else:
        work = (pairs.model_pairs(name, dtype, setting) for dtype in options.dtypes for name in options.models)
    for pair in itertools.chain.from_iterable(work):
        timing = alternate(pair, options.repeats, RUNS_PER_TIMING["gpu" if on_gpu else "cpu"])
        summaries.append(timing.summary())
        _print_row(summaries[-1])
    if options.layers:
        _print_losses(summaries)
    if options.json:
        with files.written_whole(options.json) as file:
            file.write(json.dumps({**about, "rows": summaries}, indent=1).encode())


def alternate(pair: Pair, repeats: int, runs: int) -> Timing:
    """Times ours and theirs in turn, `repeats` times each after a warm-up; a time is the mean of `runs` runs."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM_UPS + repeats):
        for start, taken in zip((pair.ours, pair.theirs), times, strict=True):
            time.sleep(PAUSE_SECONDS)
            begin = time.perf_counter()
            for _ in range(runs):
                result = start()
            pair.wait(result)
            if turn >= WARM_UPS:
                taken.append((time.perf_counter() - begin) / runs)
    return Timing(pair.name, pair.inputs, pair.dtype, pair.work, pair.compile_seconds, *times)


def _print_row(summary: dict[str, object]) -> None:
    cells = (
        summary["name"],
        summary["inputs"],
        summary["dtype"],
        summary["work"],
        f"{1000 * summary['ours_median']:.3g}",
        f"{1000 * summary['theirs_median']:.3g}",
        f"{summary['ratio']:.2f}",
        f"{summary['ratio_lowest']:.2f} to {summary['ratio_highest']:.2f}",
        f"{summary['compile_seconds']:.1f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def _print_losses(summaries: Sequence[dict[str, object]]) -> None:
    """Prints what is slower than PyTorch, the greatest loss of time first."""
    losses = [(row["ours_median"] - row["theirs_median"], row) for row in summaries if row["ratio"] < 1]
    print(f"\nSlower than PyTorch: {len(losses)} of {len(summaries)}")
    for seconds, row in sorted(losses, key=lambda loss: loss[0], reverse=True):
        print(f"- {row['name']}, {row['dtype']}, {row['work']}: {1000 * seconds:.3g} ms, ratio {row['ratio']:.2f}")


def _check(found: Sequence[str], known: Sequence[str], what: str) -> None:
    """Refuses a name that is not among the known ones."""
    for name in found:
        if name not in known:
            raise UserError(f"there is no {what} {name!r}; expected some of {', '.join(known)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = "names with commas between them (default: all)"
    add("--models", metavar="NAMES", type=_names, default=MODELS, help=names)
    add("--dtypes", metavar="NAMES", type=_names, default=DTYPES, help=names)
    add("--layers", action="store_true", help="instead of networks, each convolution and max-pool of I3D alone")
    add("--frames", metavar="N", type=positive, default=16, help="of a clip, at most (default: %(default)s)")
    add("--size", metavar="PIXELS", type=positive, default=224, help="of a side, at most (default: %(default)s)")
    batch_help = "clips (default: %(default)s); at least 2 where batch normalisation sees nothing but clips"
    add("--batch", metavar="N", type=positive, default=1, help=batch_help)
    add("--repeats", metavar="N", type=positive, default=10, help="timings of each (default: %(default)s)")
    layout_help = "PyTorch's arrays (default: channels_first, as its ports, on a CPU; channels_last on a GPU)"
    add("--layout", choices=("channels_first", "channels_last"), help=layout_help)
    add("--json", metavar="FILE", type=Path, help="write the same, with every single time, for programs")
    return parser


def _names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    run(main)
