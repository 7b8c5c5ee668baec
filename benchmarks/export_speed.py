"""Exports a network to every target and times what reads each beside our own application, on the same clip in turn.

Times are medians of one clip, without what is done once: exporting, loading, compiling and the first run.
Needs the extras `all` and `onnx`, and jax2onnx (docs/export.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import machine
import numpy as np

from i3d_jax.importers.exported import Original, sample_clips
from i3d_jax.importers.exports import TARGETS, difference

EXAMPLE = """\
example:
  python benchmarks/export_speed.py --checkpoint checkpoints/rgb_scratch --frames 16
"""


def main(arguments: Sequence[str]) -> None:
    """Prints a Markdown table."""
    options = _parser().parse_args(arguments)
    about = machine.about(["jax", "tensorflow", "onnxruntime", "jax2onnx"], gpu=None)
    original = Original.read(options.checkpoint)
    if options.frames:
        preprocessing = {**original.description.preprocessing, "frames": options.frames}
        description = dataclasses.replace(original.description, preprocessing=preprocessing)
        original = dataclasses.replace(original, description=description)
    clips = sample_clips(original, options.video)
    expected = original.logits(clips)
    clip = {stream: own[-1:] for stream, own in clips.items()}
    ours = _ours(original, clip)
    machine.print_about(about)
    print(f"\n{', '.join(f'{stream} {own.shape[1:]}' for stream, own in clip.items())}\n")
    print("| target | size, MB | exported in, s | largest difference | a clip, s | ours, s | its speed by ours |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, target in TARGETS.items():
            begin = time.perf_counter()
            target.write(Path(folder) / name, original)
            seconds = time.perf_counter() - begin
            size = sum(path.stat().st_size for path in (Path(folder) / name).rglob("*")) / 1e6
            reader = target.load(Path(folder) / name)
            most = difference(reader(clips), expected)
            row = f"| {name} | {size:.1f} | {seconds:.1f} | {most:.1e} |"
            if name == "hub":
                # It holds no program.
                print(f"{row} | | |", flush=True)
                continue
            theirs, own = _in_turn([lambda reader=reader: reader(clip), ours], options.repeats)
            print(f"{row} {theirs:.2f} | {own:.2f} | {own / theirs:.2f} |", flush=True)


def _ours(original: Original, clip: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    """What runs our network on a clip, compiled."""
    arrays, pixels = jax.device_put((original.arrays, clip))
    with original.exactly():
        program = jax.jit(original.program()).lower(arrays, pixels).compile()
    return lambda: np.asarray(program(arrays, pixels))


def _in_turn(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds that each function takes, the median; all run once before."""
    for function in functions:
        function()
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, own in zip(functions, seconds, strict=True):
            begin = time.perf_counter()
            function()
            own.append(time.perf_counter() - begin)
    return [statistics.median(own) for own in seconds]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", metavar="DIR", type=Path, required=True, help="a checkpoint, or a workdir")
    parser.add_argument("--frames", metavar="N", type=machine.positive, help="of a clip (default: the evaluation's)")
    parser.add_argument("--video", metavar="FILE", type=Path, help="what is timed and compared besides a drawn clip")
    parser.add_argument("--repeats", metavar="N", type=machine.positive, default=5, help="(default: %(default)s)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
