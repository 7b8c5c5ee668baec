"""Times TV-L1 on the device that JAX finds, on frames that `flow_speed.py --keep` has written where the videos are.

Every video's pairs go through in batches of one size, one after the other, from pixels on the host to flow on the
device; a time is the median of three, after one that is not timed. The error is the length of the difference from
OpenCV's flow at a pixel, for the pairs of which that was kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import numpy as np

from i3d_jax.system import files
from i3d_jax.system.errors import UserError, one_line, run

EXAMPLE = """\
example:
  python benchmarks/flow_gpu.py frames.npz --batches 16,32,64 --json flow.json
"""
PACKAGES = ("jax", "jaxlib", "numpy")
TIMINGS = 3
PARTS = ("previous", "following", "opencv", "numbers")
COLUMNS = ("video", "pairs", "in a batch", "ms a batch", "pairs/s", "median error, px", "mean error, px")


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark."""
    options = _parser().parse_args(arguments)
    if not options.frames.is_file():
        raise UserError(f"frames that flow_speed.py --keep has written were expected at {options.frames}, found none")
    if options.json and not options.json.parent.is_dir():
        raise UserError(f"--json: a folder was expected at {options.json.parent}, found none")
    videos = kept_videos(options.frames)
    for video, arrays in videos.items():
        if max(options.batches) > len(arrays["previous"]):
            raise UserError(
                f"--batches: at most {len(arrays['previous'])} pairs were expected, those of {video} in "
                f"{options.frames}, found {max(options.batches)}"
            )
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Imported late: --help needs no JAX.
    import jax

    on_gpu = jax.default_backend() == "gpu"
    about = machine.about(PACKAGES, gpu=jax.devices()[0].device_kind if on_gpu else None)
    machine.print_about(about)
    print(f"\n| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}", flush=True)
    rows = []
    for batch in options.batches:
        for video, arrays in videos.items():
            rows.append({"video": video, "batch": batch, **timed(**arrays, batch=batch)})
            _print_row(rows[-1])
        speeds = [row["speed"] for row in rows if row["batch"] == batch]
        print(f"In batches of {batch}: {statistics.mean(speeds):.0f} pairs/s in the mean over the videos", flush=True)
    if options.json:
        with files.written_whole(options.json) as file:
            file.write(json.dumps({**about, "rows": rows}, indent=1).encode())


def kept_videos(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Reads what `flow_speed.py --keep` has written: for each video the arrays that `timed` takes."""
    try:
        with np.load(path) as kept:
            names = sorted({key.rpartition("/")[0] for key in kept})
            return {name: {part: kept[f"{name}/{part}"] for part in PARTS} for name in names}
    except (ValueError, KeyError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: frames that flow_speed.py --keep has written were expected, found something else "
            f"({one_line(error)})"
        ) from error


def timed(
    previous: np.ndarray, following: np.ndarray, opencv: np.ndarray, numbers: np.ndarray, batch: int
) -> dict[str, Any]:
    """Times pairs uint8 [N, H, W] in whole batches; compares those of the `numbers` with float32 [numbers, H, W, 2]."""
    import jax

    from i3d_jax import flow

    starts = range(0, len(previous) - batch + 1, batch)
    taken = []
    for _ in range(1 + TIMINGS):
        begin = time.perf_counter()
        for start in starts:
            found = flow.tvl1(previous[start : start + batch], following[start : start + batch])
        jax.block_until_ready(found)
        taken.append((time.perf_counter() - begin) / len(starts))
    compared = np.resize(numbers, batch)
    found = np.asarray(flow.tvl1(previous[compared], following[compared]))[: len(numbers)]
    errors = np.linalg.norm(found - opencv, axis=-1)
    seconds = statistics.median(taken[1:])
    return {
        "pairs": len(previous),
        "size": previous.shape[1:],
        "seconds": taken[1:],
        "speed": batch / seconds,
        "median_errors": np.median(errors, axis=(1, 2)).tolist(),
        "mean_errors": errors.mean((1, 2)).tolist(),
    }


def _print_row(row: dict[str, Any]) -> None:
    cells = (
        f"{row['video']}, {row['size'][1]}x{row['size'][0]}",
        *(
            str(row["pairs"]),
            str(row["batch"]),
            f"{1000 * statistics.median(row['seconds']):.0f}",
            f"{row['speed']:.0f}",
        ),
        *(f"{max(row['median_errors']):.4f}", f"{statistics.mean(row['mean_errors']):.4f}"),
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("frames", metavar="FILE", type=Path, help="what flow_speed.py --keep has written")
    add("--batches", metavar="N,N", type=_numbers, default=[32], help="pairs in a batch (default: 32, as `prepare`)")
    add("--json", metavar="FILE", type=Path, help="write the same, with every single figure, for programs")
    return parser


def _numbers(text: str) -> list[int]:
    return [machine.positive(number) for number in text.split(",")]


if __name__ == "__main__":
    run(main)
