"""Fréchet Video Distance of real clips from themselves, distorted more and more, and by every protocol.

The clips are windows of 16 frames of the videos in a folder, evenly spread over each. It ends with an error where a
distance does not rise with a distortion's strength.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import machine
import numpy as np
from machine import positive

import i3d_jax
from i3d_jax.fvd.protocols import PROTOCOLS
from i3d_jax.system.errors import Failure, UserError, run
from i3d_jax.video.decode import decode
from i3d_jax.video.errors import UnreadableVideo, UnusableTimestamps
from i3d_jax.video.frames import Frames

FRAMES = 16
EXAMPLE = """\
example:
  python benchmarks/fvd_distortions.py --videos VIDEOS --checkpoint checkpoints/rgb_scratch
"""


def noise(clip: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Adds normal noise of a standard deviation in grey levels."""
    return (clip + random.normal(0, strength, clip.shape)).clip(0, 255).astype(np.uint8)


def blur(clip: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Smooths every frame by a Gaussian of a standard deviation in pixels."""
    del random
    return np.stack([cv2.GaussianBlur(frame, (0, 0), strength) for frame in clip])


def frozen(clip: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Repeats a frame in place of so many of the last ones."""
    del random
    return clip[np.minimum(np.arange(len(clip)), len(clip) - 1 - int(strength))]


def shuffled(clip: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Exchanges frames within groups of so many that follow one another."""
    size = int(strength)
    return np.concatenate([random.permutation(clip[begin : begin + size]) for begin in range(0, len(clip), size)])


def slower(clip: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Keeps one frame of so many and shows it in place of the others: a lower frame rate."""
    del random
    return clip[np.arange(len(clip)) // int(strength) * int(strength)]


# Each with its strengths, the weakest first, and what they are.
DISTORTIONS: dict[str, tuple[Callable, Sequence[float], str]] = {
    "noise": (noise, (5, 15, 45), "standard deviation, grey levels"),
    "blur": (blur, (1, 2, 4), "standard deviation, pixels"),
    "frozen frames": (frozen, (4, 8, 12), "frames of 16"),
    "shuffled frames": (shuffled, (2, 4, 16), "frames in a group"),
    "lower frame rate": (slower, (2, 4, 8), "frames that are one"),
}


def main(arguments: Sequence[str]) -> None:
    """Prints two Markdown tables."""
    options = _parser().parse_args(arguments)
    about = machine.about(["jax", "flax", "numpy", "av", "opencv-contrib-python-headless"], gpu=None)
    clips, others = _clips(options.videos, options.clips)
    machine.print_about(about)
    sizes = sorted({f"{clip.shape[2]}x{clip.shape[1]}" for clip in clips})
    print(f"{len(clips)} clips of {FRAMES} frames, {', '.join(sizes)}\n")

    def features(some, protocol="reference"):
        return i3d_jax.fvd.statistics((clip[None] for clip in some), network=options.checkpoint, protocol=protocol)

    def distance(a, b):
        return i3d_jax.fvd(a, b, interval=False, protocol=a.description["protocol"]).fvd

    real = features(clips)
    falling = []
    print("| distortion | strength | FVD |\n|---|---|---:|")
    for name, (distort, strengths, unit) in DISTORTIONS.items():
        values = []
        for strength in strengths:
            random = np.random.default_rng(0)
            values.append(distance(real, features([distort(clip, strength, random) for clip in clips])))
            print(f"| {name}, {unit} | {strength:g} | {values[-1]:.1f} |", flush=True)
        falling += [name for a, b in itertools.pairwise(values) if b <= a]
    print("\n| protocol | blurred clips | other clips of the same videos |\n|---|---:|---:|")
    blurred = [blur(clip, 2, np.random.default_rng(0)) for clip in clips]
    for protocol in PROTOCOLS:
        of_real = features(clips, protocol)
        values = [distance(of_real, features(some, protocol)) for some in (blurred, others)]
        print(f"| {protocol} | {values[0]:.2f} | {values[1]:.2f} |", flush=True)
    if falling:
        raise Failure(f"the distance does not rise with the strength of {', '.join(dict.fromkeys(falling))}")


def _clips(folder: Path, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns as many windows as asked for, uint8 [16, H, W, 3], and as many that follow them at once."""
    videos = []
    for path in sorted(folder.glob("*.*")):
        for by_timestamps in (True, False):
            try:
                frames = list(decode(path, Frames(), by_timestamps=by_timestamps))
            except UnusableTimestamps:
                continue
            except UnreadableVideo as error:
                print(f"{path.name} is left out: {error}")
                break
            if len(frames) >= 2 * FRAMES and "flow" not in path.name:
                videos.append(frames)
            break
    if not videos:
        raise UserError(f"videos of {2 * FRAMES} frames or more were expected in {folder}, found none")
    clips, others = [], []
    for number in range(count):
        frames, turn = videos[number % len(videos)], number // len(videos)
        turns = -(-count // len(videos))
        begin = turn * (len(frames) - 2 * FRAMES) // max(1, turns - 1)
        clips.append(np.stack(frames[begin : begin + FRAMES]))
        others.append(np.stack(frames[begin + FRAMES : begin + 2 * FRAMES]))
    return clips, others


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", metavar="DIR", type=Path, required=True, help="a folder of videos")
    parser.add_argument("--checkpoint", metavar="DIR", required=True, help="the published rgb_scratch")
    parser.add_argument("--clips", metavar="N", type=positive, default=32, help="a set (default: %(default)s)")
    return parser


if __name__ == "__main__":
    run(main)
