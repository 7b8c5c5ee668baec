"""Draws the embedded dataset: eight actions of one object that no single frame tells apart.

What a frame shows is a state (x, y, log size, angle). In every action one of the four runs along a line and the other
three stand still, each where it would be, running, at a frame picked at random. So a random frame has the same
distribution in all eight actions, and only how the frames follow one another says which action it is.
"""

from __future__ import annotations

import colorsys
import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np

from i3d_jax.system.errors import UserError
from i3d_jax.system.files import make_folder, written_whole

# Which column of the state runs, and whether it rises or falls. y points down, so clockwise is a rising angle.
MOTIONS = {
    "moving left": (0, -1),
    "moving right": (0, 1),
    "moving up": (1, -1),
    "moving down": (1, 1),
    "growing": (2, 1),
    "shrinking": (2, -1),
    "turning clockwise": (3, 1),
    "turning anticlockwise": (3, -1),
}
ACTIONS = tuple(MOTIONS)

# For x, y, log size and angle: the range of the middle of a run, and the range of its speed a second. x and y count
# from the centre of the picture in units of its shorter side, the size is half the object's side in the same unit, the
# angle is in radians. In 0.6 s (16 frames at 25 a second) the object moves by a fifth of the shorter side, changes its
# size by a factor of 1.5 or turns by 50 degrees, at the least; in 1.5 s its centre does not leave the picture.
MIDDLE = np.array([(-0.08, 0.08), (-0.08, 0.08), (math.log(0.18), math.log(0.22)), (-math.pi, math.pi)])
SPEED = np.array([(0.33, 0.45), (0.33, 0.45), (0.68, 0.9), (1.5, 2.2)])

# (height, width), even because H.264 files store colour at half the resolution.
SIZES = ((96, 128), (120, 90), (108, 108), (120, 160))
FRAME_RATES = (Fraction(25), Fraction(15), Fraction(30000, 1001), Fraction(24), Fraction(30))
SECONDS = (1.0, 1.25, 1.5)

# Texels along a side of the object's texture: about as many as the largest object has pixels.
TEXTURE_SIZE = 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video:
    """One video of the dataset, before it is drawn.

    Attributes:
      name: its file name, such as "moving_left_0007.mp4".
      action: one of `ACTIONS`.
      split: the part of the dataset that it belongs to.
      scene: the seed of its textures and states, which the eight videos of a number share.
      frames: how many frames it has.
      height: in pixels.
      width: in pixels.
      frame_rate: frames a second.
    """

    name: str
    action: str
    split: str
    scene: tuple[int, int]
    frames: int
    height: int
    width: int
    frame_rate: Fraction


def plan(videos_per_action: Mapping[str, int], *, seed: int) -> list[Video]:
    """Lists the videos of a dataset without drawing them.

    Videos are numbered through all splits. The number decides on the textures, the states, the size of the picture, the
    frame rate and the length (1 to 1.5 seconds): its eight videos are one scene in eight motions, so nothing but the
    motion goes with an action, and no two splits share a scene.

    Args:
      videos_per_action: how many videos of every action each split has, such as {"train": 40, "test": 10}.
      seed: not negative; another seed gives other scenes.

    Raises:
      UserError: a split has no videos, or the seed is negative.
    """
    if seed < 0:
        raise UserError(f"the seed of the synthetic dataset must not be negative, found {seed}")
    for split, count in videos_per_action.items():
        if count < 1:
            raise UserError(f"the synthetic dataset needs at least 1 video an action in {split!r}, found {count}")
    splits = [split for split, count in videos_per_action.items() for _ in range(count)]
    return [_video(action, split, number, seed) for number, split in enumerate(splits) for action in ACTIONS]


def _video(action: str, split: str, number: int, seed: int) -> Video:
    """Describes the video of a number; 4 sizes, 5 rates and 3 lengths meet in all 60 ways before they repeat."""
    height, width = SIZES[number % len(SIZES)]
    frame_rate = FRAME_RATES[number % len(FRAME_RATES)]
    seconds = SECONDS[number % len(SECONDS)]
    return Video(
        name=f"{action.replace(' ', '_')}_{number:04d}.mp4",
        action=action,
        split=split,
        scene=(seed, number),
        frames=round(seconds * frame_rate),
        height=height,
        width=width,
        frame_rate=frame_rate,
    )


def draw_dataset(
    folder: Path, videos: Iterable[Video], write_video: Callable[[Path, np.ndarray, Fraction], None]
) -> Path:
    """Draws videos into a folder and returns the path of their annotations, `labels.csv` (header `video,label,split`).

    Started again it goes on: a video that is there is left alone (so a folder takes videos of one seed only), and
    `labels.csv` is written after the last one.

    Args:
      folder: where to, made if it is not there.
      videos: what `plan` lists; gone through once, so that a progress bar may be wrapped around it.
      write_video: `ingest.write_video.write_video` or another that takes (path, frames, frame rate) and leaves a whole
        file or none. An argument, so that this file needs no video library.
    """
    make_folder(folder)
    rows = []
    for video in videos:
        path = folder / video.name
        if not path.exists():
            frames = draw(
                video.action,
                np.random.default_rng(video.scene),
                frames=video.frames,
                height=video.height,
                width=video.width,
                frame_rate=video.frame_rate,
            )
            write_video(path, frames, video.frame_rate)
        rows.append((video.name, video.action, video.split))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("video", "label", "split"), *rows])
    annotations = folder / "labels.csv"
    with written_whole(annotations) as file:
        file.write(text.getvalue().encode())
    return annotations


def draw(
    action: str,
    rng: np.random.Generator,
    *,
    frames: int,
    height: int,
    width: int,
    frame_rate: float | Fraction = 25,
) -> np.ndarray:
    """Draws one video of an action: uint8 RGB [T, H, W, 3].

    From generators in the same state come the same frames, and for an action's partner the same in the opposite order.

    Args:
      action: one of `ACTIONS`.
      rng: the only source of chance.
      frames: T, at least 1.
      height: in pixels.
      width: in pixels.
      frame_rate: frames a second; the motion has the same speed a second at every rate.

    Raises:
      ValueError: the action is not one of `ACTIONS`, or there is no frame.
    """
    states = trajectory(action, rng, frames=frames, frame_rate=frame_rate)
    hue = rng.random()
    return render(states, background=background(rng, hue, height, width), texture=object_texture(rng, hue + 0.5))


def trajectory(action: str, rng: np.random.Generator, *, frames: int, frame_rate: float | Fraction = 25) -> np.ndarray:
    """Draws the states that the object goes through: float64 [T, 4] of x, y, log size, angle (units as at `MIDDLE`).

    The generator moves on alike for all actions.

    Raises:
      ValueError: the action is not one of `ACTIONS`, or there is no frame.
    """
    if action not in MOTIONS:
        raise ValueError(f"expected an action of {ACTIONS}, found {action!r}")
    if frames < 1:
        raise ValueError(f"expected at least one frame, found {frames}")
    run, states = runs_and_stands(rng, frames=frames, frame_rate=frame_rate)
    column, direction = MOTIONS[action]
    states[:, column] = run[::direction, column]
    return states


def runs_and_stands(
    rng: np.random.Generator, *, frames: int, frame_rate: float | Fraction
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a line for each column of the state: float64 [T, 4] on which all run, and [T, 4] on which all stand still.

    A column stands where it would be at a frame picked at random.
    """
    middle, speed = rng.uniform(*MIDDLE.T), rng.uniform(*SPEED.T)
    travel = speed * (frames - 1) / float(frame_rate)
    run = middle + travel * np.linspace(-0.5, 0.5, frames)[:, None]
    return run, np.tile(run[rng.integers(frames, size=4), np.arange(4)], (frames, 1))


def render(states: np.ndarray, *, background: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """Paints the object in every state over the background: uint8 RGB [T, H, W, 3].

    Args:
      states: float [T, 4] of x, y, log size, angle (units as at `MIDDLE`).
      background: float32 [H, W, 3] in 0..255.
      texture: the object's, float32 [S, S, 3] in 0..255, stretched over it.
    """
    height, width = background.shape[:2]
    short_side = min(height, width)
    x, y, log_size, angle = states.astype(np.float32).T
    size = np.exp(log_size)
    right = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / short_side - x[:, None]  # [T, W]
    down = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / short_side - y[:, None]  # [T, H]
    # Nothing beyond a circle of 1.2 sizes and a pixel is touched: only its N pixels are computed.
    reach = (1.2 * size + 1 / short_side) ** 2
    frame, row, column = np.nonzero(down[:, :, None] ** 2 + right[:, None, :] ** 2 < reach[:, None, None])
    right, down = right[frame, column], down[frame, row]
    # Where the pixels lie on the object: both coordinates in [-1, 1] inside.
    cosine, sine = (np.cos(angle) / size)[frame], (np.sin(angle) / size)[frame]
    across, along = cosine * right + sine * down, cosine * down - sine * right
    # A square with round corners, whose edge is about a pixel wide.
    distance = np.sqrt(np.hypot(np.square(across), np.square(along)))
    coverage = np.clip((1 - distance) * (size * short_side)[frame] + 0.5, 0, 1)[:, None]
    blend = coverage * _sample(texture, across, along) + (1 - coverage) * background[row, column]

    pictures = np.tile(np.rint(background).astype(np.uint8), (len(states), 1, 1, 1))
    pictures[frame, row, column] = np.rint(blend).astype(np.uint8)
    return pictures


def background(rng: np.random.Generator, hue: float, height: int, width: int) -> np.ndarray:
    """Draws muted smooth noise between `hue` and a neighbour: float32 [H, W, 3] in 0..255."""
    short_side = min(height, width)
    noise = (_noise(rng, height, width, short_side / 2) + _noise(rng, height, width, short_side / 5)) / 2
    return mix(colour(hue, 0.45, 0.3), colour(hue + 0.15, 0.35, 0.65), noise)


def object_texture(rng: np.random.Generator, hue: float) -> np.ndarray:
    """Draws vivid patches of two hues on either side of `hue`: float32 [TEXTURE_SIZE, TEXTURE_SIZE, 3] in 0..255."""
    noise = _noise(rng, TEXTURE_SIZE, TEXTURE_SIZE, TEXTURE_SIZE / 3)
    # Steeper than the noise itself: two colours with a soft seam.
    return mix(colour(hue - 0.15, 0.9, 0.55), colour(hue + 0.2, 0.55, 1.0), np.clip(3 * noise - 1, 0, 1))


def colour(hue: float, saturation: float, value: float, dtype: np.typing.DTypeLike = np.float32) -> np.ndarray:
    """Returns a colour as RGB [3] in 0..255 of a dtype; a hue is a turn of the colour circle."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), dtype)


def mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Blends two colours [3] by the share [H, W] in [0, 1] of the second one: float32 [H, W, 3]."""
    return (first + (second - first) * share[..., None]).astype(np.float32)


def _noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Draws smooth noise, random at knots that lie `cell` pixels apart: float32 [H, W] in [0, 1]."""
    down, across = _interpolation(height, cell), _interpolation(width, cell)
    return down @ rng.random((down.shape[1], across.shape[1]), np.float32) @ across.T


def _interpolation(length: int, cell: float) -> np.ndarray:
    """Returns the weights [length, knots] that take values at knots to pixels, level at every knot (smoothstep)."""
    position = (np.arange(length, dtype=np.float32) + 0.5) / cell
    before = position.astype(int)
    part = position - before
    part = part * part * (3 - 2 * part)
    weights = np.zeros((length, before[-1] + 2), np.float32)
    weights[np.arange(length), before] = 1 - part
    weights[np.arange(length), before + 1] = part
    return weights


def _sample(texture: np.ndarray, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Reads a texture [S, S, 3] by bilinear interpolation at N points: float32 [N, 3].

    Coordinates in [-1, 1] span the texture; a point outside reads the nearest point of its border.
    """
    size = len(texture)
    column, row = (np.clip((c + 1) * (size / 2) - 0.5, 0, size - 1.001) for c in (across, along))
    right_share, left = np.modf(column)
    bottom_share, top = np.modf(row)
    texel = top.astype(int) * size + left.astype(int)
    # `take` from rows of texels is several times as fast as indexing with two arrays.
    texels = texture.reshape(-1, 3)
    upper = texels.take(texel, axis=0)
    upper += (texels.take(texel + 1, axis=0) - upper) * right_share[:, None]
    lower = texels.take(texel + size, axis=0)
    lower += (texels.take(texel + size + 1, axis=0) - lower) * right_share[:, None]
    return upper + (lower - upper) * bottom_share[:, None]
