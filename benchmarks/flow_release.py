"""Sets our flow of the release's sample clip beside the flow that the release shows of it.

The release (google-deepmind/kinetics-i3d, `data/`) has its sample as two GIFs, the RGB frames and their TV-L1 flow with
0 as grey. The flow of the RGB GIF, whose 256 colours are dithered, is computed here and compared: where something
moves, and in which direction. What length a shade stands for is not documented; the ratio of lengths tells.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from i3d_jax import flow
from i3d_jax.flow import codec
from i3d_jax.system.errors import UserError, run

EXAMPLE = """\
example:
  python benchmarks/flow_release.py --rgb v_CricketShot_g04_c01_rgb.gif --flow v_CricketShot_g04_c01_flow.gif
"""
BATCH = 13
MOVING = 1.0  # Pixels: of displacement, from which on something is said to move.
CONTRAST = 3  # Of the flow in the picture.


def main(arguments: Sequence[str]) -> None:
    """Runs the comparison."""
    options = _parser().parse_args(arguments)
    rgb, shown = (_frames(path) for path in (options.rgb, options.flow))
    if rgb.shape != shown.shape:
        raise UserError(f"two GIFs of one size were expected, found {rgb.shape[:3]} and {shown.shape[:3]}")
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb])
    starts = range(0, len(grey) - 1, BATCH)
    ours = np.concatenate(
        [
            np.asarray(flow.tvl1(*(grey[start + i : start + i + BATCH][: len(grey) - 1 - start] for i in (0, 1))))
            for start in starts
        ]
    )
    theirs = codec.to_pixels(shown[: len(ours), ..., :2])
    lengths = [np.linalg.norm(field, axis=-1) for field in (ours, theirs)]
    moving = (lengths[0] > MOVING) & (lengths[1] > MOVING)
    ratio = float(np.median(lengths[1][moving] / lengths[0][moving]))
    cosine = (ours * theirs).sum(-1)[moving] / (lengths[0] * lengths[1])[moving]
    angle = np.degrees(np.arccos(cosine.clip(-1, 1)))
    print(f"{len(ours)} fields of {rgb.shape[2]}x{rgb.shape[1]} pixels")
    for lag in (-1, 0, 1):
        pair = (ours[max(0, -lag) : len(ours) - max(0, lag)], theirs[max(0, lag) : len(ours) + min(0, lag)])
        correlation = [np.corrcoef(pair[0][..., axis].ravel(), pair[1][..., axis].ravel())[0, 1] for axis in (0, 1)]
        print(f"correlation with the release's field {lag:+d}: u {correlation[0]:.3f}, v {correlation[1]:.3f}")
    print(f"length of the release's flow over ours, median where both move by {MOVING:g} px: {ratio:.2f}")
    theirs_to_scale = lengths[1] / ratio > MOVING
    both, either = theirs_to_scale & (lengths[0] > MOVING), theirs_to_scale | (lengths[0] > MOVING)
    print(f"at one scale, pixels that move in both over pixels that move in either: {both.sum() / either.sum():.2f}")
    print(f"angle between the two where both move: median {np.median(angle):.1f} degrees,", end=" ")
    print(f"{(angle < 45).mean():.1%} below 45 degrees")
    if options.picture:
        rows = [
            np.hstack([rgb[number], _contrast(shown[number]), _contrast(_as_shown(ours[number] * ratio))])
            for number in np.linspace(0, len(ours) - 1, 5).astype(int)
        ]
        cv2.imwrite(str(options.picture), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def _frames(path: Path) -> np.ndarray:
    """Reads a GIF: uint8 RGB [T, H, W, 3]."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _as_shown(field: np.ndarray) -> np.ndarray:
    """Colours a field [H, W, 2] as the release does: red is u, green is v, blue always the same."""
    stored = codec.to_bytes(field)
    return np.dstack([stored, np.full(stored.shape[:2], 127, np.uint8)])


def _contrast(picture: np.ndarray) -> np.ndarray:
    return ((picture.astype(np.float32) - 127) * CONTRAST + 127).clip(0, 255).astype(np.uint8)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rgb", metavar="GIF", type=Path, required=True, help="the frames")
    parser.add_argument("--flow", metavar="GIF", type=Path, required=True, help="their flow, as the release shows it")
    parser.add_argument(
        "--picture", metavar="FILE.png", type=Path, help="write five frames, the release's flow and ours side by side"
    )
    return parser


if __name__ == "__main__":
    run(main)
