"""Times TV-L1 in JAX against OpenCV's DualTVL1 on the same frames, in alternation, and says how far their flows differ.

Both use the whole machine: OpenCV one process a core, each with pairs of its own (a second thread gains it nothing),
JAX the GPU if there is one, else all cores, in batches of as many pairs as `prepare` makes. Ratios are OpenCV's time by
ours: above 1, ours is faster.

The end-point error is the length of the difference of two flows at a pixel, in pixels; the energy is what TV-L1
minimises. As a measure of how much of either is chance, OpenCV's flow is compared with OpenCV's own after noise of a
ten thousandth of a grey level has been added to the frames.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import machine
import numpy as np

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.system import files
from i3d_jax.system.errors import UserError, run
from i3d_jax.video.decode import UnreadableVideo, UnusableTimestamps, decode
from i3d_jax.video.tvl1_backends import pairs_in_batch

EXAMPLE = """\
examples:
  python benchmarks/flow_speed.py --videos videos --pairs 8 --json flow.json
  python benchmarks/flow_speed.py --videos videos --pairs 64 --keep frames.npz   # for benchmarks/flow_gpu.py
"""
PACKAGES = ("jax", "jaxlib", "numpy", "opencv-contrib-python-headless")
SUFFIXES = (".avi", ".mp4", ".mkv", ".webm")
NOISE = 1e-4  # Grey levels.
# Pairs of a video whose flow by OpenCV is kept beside the frames: they take much more room.
KEPT_FLOWS = 2
COLUMNS = (
    "video",
    "pairs",
    "motion, px",
    "OpenCV, pairs/s",
    "ours, pairs/s",
    "ratio",
    "lowest to highest",
    "median error, px",
    "mean error, px",
    "energy",
    "OpenCV's own",
)


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark."""
    options = _parser().parse_args(arguments)
    videos = sorted(path for path in options.videos.glob("*") if path.suffix in SUFFIXES)
    if not videos:
        raise UserError(f"a folder of videos ({', '.join(SUFFIXES)}) was expected at {options.videos}, found none")
    for name, path in (("json", options.json), ("keep", options.keep)):
        if path and not path.parent.is_dir():
            raise UserError(f"--{name}: a folder was expected at {path.parent}, found none")
    if options.keep:
        keep(videos, options)
        return
    # Imported late: --help needs no JAX, and OpenCV's processes must not take a GPU.
    import jax

    from i3d_jax import flow

    on_gpu = jax.default_backend() == "gpu"
    about = machine.about(PACKAGES, gpu=jax.devices()[0].device_kind if on_gpu else None)
    machine.print_about(about)
    print(f"\n| {' | '.join(COLUMNS)} |")
    print(f"|---|{'---:|' * (len(COLUMNS) - 1)}", flush=True)
    rows = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:

        def ours(previous: np.ndarray, following: np.ndarray) -> np.ndarray:
            batch = pairs_in_batch(jax.default_backend(), *previous.shape[1:])
            started = [
                flow.tvl1(previous[first : first + batch], following[first : first + batch])
                for first in range(0, len(previous), batch)
            ]
            return np.concatenate(started)

        for video in videos:
            frames = grey_frames(video, options.pairs, options.apart, options.short_side)
            if frames is not None:
                rows.append({"video": video.name, **compare(*frames, ours, pool, options.repeats)})
                _print_row(rows[-1])
    if not rows:
        raise UserError(
            f"videos of at least {options.pairs + options.apart} frames were expected in {options.videos}, found none"
        )
    _print_totals(rows)
    if options.json:
        with files.written_whole(options.json) as file:
            file.write(json.dumps({**about, "rows": rows}, indent=1).encode())


def keep(videos: Sequence[Path], options: argparse.Namespace) -> None:
    """Writes the pairs of each video, and OpenCV's flow of a few, for a machine that has neither videos nor OpenCV."""
    arrays = {}
    for video in videos:
        frames = grey_frames(video, options.pairs, options.apart, options.short_side)
        if frames is not None:
            few = range(0, options.pairs, -(-options.pairs // KEPT_FLOWS))
            flows = [opencv_flow(*(whole[number] for whole in frames)) for number in few]
            arrays |= {f"{video.name}/previous": frames[0], f"{video.name}/following": frames[1]}
            arrays |= {f"{video.name}/opencv": np.stack(flows), f"{video.name}/numbers": np.array(few)}
    with files.written_whole(options.keep) as file:
        np.savez_compressed(file, **arrays)
    print(f"{options.keep}: {len(arrays) // 4} videos")


def grey_frames(video: Path, pairs: int, apart: int, short_side: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Reads `pairs` pairs of grey frames, each uint8 [pairs, H, W], spread over a video; None for one too short.

    They are prepared as `prepare` does it, and `apart` frames lie between the starts of a pair.
    """
    preprocessing = Preprocessing(short_side=short_side)
    try:
        frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in _decoded(video, preprocessing)]
    except UnreadableVideo as error:
        print(f"left out {video.name}: {error}")
        return None
    if len(frames) < pairs + apart:
        print(f"left out {video.name}: it has {len(frames)} frames")
        return None
    first = np.linspace(0, len(frames) - 1 - apart, pairs).astype(int)
    return np.stack([frames[number] for number in first]), np.stack([frames[number + apart] for number in first])


def _decoded(video: Path, preprocessing: Preprocessing) -> list[np.ndarray]:
    try:
        return list(decode(video, preprocessing))
    except UnusableTimestamps:
        return list(decode(video, preprocessing, by_timestamps=False))


def compare(
    previous: np.ndarray, following: np.ndarray, ours: Callable, pool: Executor, repeats: int
) -> dict[str, Any]:
    """Times both on pairs of frames, uint8 [N, H, W], in turn, after a run of each that is not timed."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(1 + repeats):
        begin = time.perf_counter()
        theirs = np.stack(list(pool.map(opencv_flow, previous, following)))
        middle = time.perf_counter()
        found = ours(previous, following)
        end = time.perf_counter()
        if turn:
            taken[0].append(middle - begin)
            taken[1].append(end - middle)
    random = np.random.default_rng(0)
    noisy = [(frames + random.normal(0, NOISE, frames.shape)).astype(np.float32) for frames in (previous, following)]
    again = np.stack(list(pool.map(opencv_flow, *noisy)))
    errors, own_errors = (np.linalg.norm(field - theirs, axis=-1) for field in (found, again))
    energies = [
        [energy(*pair) for pair in zip(fields, previous, following, strict=True)] for fields in (theirs, found, again)
    ]
    ratios = [theirs / ours for theirs, ours in zip(*taken, strict=True)]
    return {
        "pairs": len(previous),
        "size": previous.shape[1:],
        "motion": float(np.linalg.norm(theirs, axis=-1).mean()),
        "opencv_seconds": taken[0],
        "our_seconds": taken[1],
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "median_errors": np.median(errors, axis=(1, 2)).tolist(),
        "mean_errors": errors.mean((1, 2)).tolist(),
        "energy_ratios": [found / theirs for theirs, found, _ in zip(*energies, strict=True)],
        "own_median_errors": np.median(own_errors, axis=(1, 2)).tolist(),
        "own_mean_errors": own_errors.mean((1, 2)).tolist(),
        "own_energy_ratios": [again / theirs for theirs, _, again in zip(*energies, strict=True)],
    }


def opencv_flow(previous: np.ndarray, following: np.ndarray) -> np.ndarray:
    """OpenCV's flow float32 [H, W, 2] of two grey frames [H, W] in 0..255, uint8 or float32."""
    if previous.dtype != np.uint8:
        # OpenCV takes floats of 0 to 1.
        previous, following = previous / np.float32(255), following / np.float32(255)
    return cv2.optflow.DualTVL1OpticalFlow_create().calc(previous, following, None)


def energy(field: np.ndarray, previous: np.ndarray, following: np.ndarray) -> float:
    """What TV-L1 minimises, with lambda at its default: sum of |grad u1| + |grad u2| + lambda |I1(x + u) - I0(x)|."""
    height, width = previous.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    places = x + field[..., 0], y + field[..., 1]
    warped = cv2.remap(following.astype(np.float32), *places, cv2.INTER_CUBIC)
    across, down = np.diff(field, axis=1, append=field[:, -1:]), np.diff(field, axis=0, append=field[-1:])
    return float(np.hypot(across, down).sum() + 0.15 * np.abs(warped - previous).sum())


def _print_row(row: dict[str, Any]) -> None:
    cells = (
        f"{row['video']}, {row['size'][1]}x{row['size'][0]}",
        str(row["pairs"]),
        f"{row['motion']:.2f}",
        f"{row['pairs'] / statistics.median(row['opencv_seconds']):.2f}",
        f"{row['pairs'] / statistics.median(row['our_seconds']):.2f}",
        f"{row['ratio']:.2f}",
        f"{row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f}",
        f"{max(row['median_errors']):.4f}",
        f"{statistics.mean(row['mean_errors']):.4f}",
        f"{min(row['energy_ratios']):.3f} to {max(row['energy_ratios']):.3f}",
        f"{min(row['own_energy_ratios']):.3f} to {max(row['own_energy_ratios']):.3f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def _print_totals(rows: Sequence[dict[str, Any]]) -> None:
    def over_all(key: str) -> list[float]:
        return list(itertools.chain.from_iterable(row[key] for row in rows))

    for whose, prefix in (("ours against OpenCV", ""), ("OpenCV against itself with noise", "own_")):
        medians, means = over_all(f"{prefix}median_errors"), over_all(f"{prefix}mean_errors")
        energies = over_all(f"{prefix}energy_ratios")
        print(
            f"{len(medians)} pairs, {whose}: largest median error of a pair {max(medians):.4f} px, "
            f"mean error of all {statistics.mean(means):.4f} px, largest of a pair {max(means):.4f} px, "
            f"energy {statistics.mean(energies):.4f} in the mean, at most {max(energies):.4f}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--videos", metavar="DIR", type=Path, required=True, help="a folder of video files")
    add("--pairs", metavar="N", type=machine.positive, default=8, help="of each video (default: %(default)s)")
    add(
        "--apart",
        metavar="N",
        type=machine.positive,
        default=1,
        help="frames from one to the other of a pair (default: 1)",
    )
    add(
        "--short_side",
        metavar="PIXELS",
        type=machine.positive,
        default=256,
        help="of the frames (default: %(default)s)",
    )
    add("--repeats", metavar="N", type=machine.positive, default=3, help="timings of each (default: %(default)s)")
    add("--keep", metavar="FILE", type=Path, help="time nothing; write the frames, and some of OpenCV's flow (.npz)")
    add("--json", metavar="FILE", type=Path, help="write the same, with every single figure, for programs")
    return parser


if __name__ == "__main__":
    run(main)
