"""The actions of the three miniature datasets: motions that no single frame tells apart, drawn in different looks.

miniKinetics has the eight actions of `data.synthetic`: one column of the object's state (x, y, log size, angle) runs
along a line. UCF-101 and HMDB-51 have eight others each: while one column runs, another swings there and back, twice as
fast, from a random point of the swing on. UCF-101's move over the picture and pulse or rock; HMDB-51's grow, shrink or
turn and sway or bob. The three differ in their scenes and objects, too.

At a random frame each column is where it would be at a frame picked at random, whatever the others are: a frame has
the same distribution in all actions of a dataset.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np

from i3d_jax.drawn import actions
from i3d_jax.drawn.actions import mix

FRAME_RATE = Fraction(25)
HEIGHT, WIDTH = 64, 80
# Columns of the state.
_X, _Y, _SIZE, _ANGLE = range(4)

# So the pixels behind the figures of docs/experiments.md were drawn.
_colour = functools.partial(actions.colour, dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class Action:
    """What moves: the column that runs, its direction, and the column that swings, if one does."""

    column: int
    direction: int
    swings: int | None = None


MINIKINETICS = {label: Action(*motion) for label, motion in actions.MOTIONS.items()}
UCF101 = {
    f"{name}{manner}": Action(*actions.MOTIONS[f"moving {name.lower()}"], swings)
    for name in ("Left", "Right", "Up", "Down")
    for manner, swings in (("Pulsing", _SIZE), ("Rocking", _ANGLE))
}
HMDB51 = {
    f"{label.replace(' ', '_')}_{manner}": Action(*actions.MOTIONS[label], swings)
    for label in ("growing", "shrinking", "turning clockwise", "turning anticlockwise")
    for manner, swings in (("swaying", _X), ("bobbing", _Y))
}
ACTIONS: dict[str, Mapping[str, Action]] = {"minikinetics": MINIKINETICS, "ucf101": UCF101, "hmdb51": HMDB51}


def draw(dataset: str, label: str, *, scene: int, take: int, frames: int, seed: int) -> np.ndarray:
    """Draws one video: uint8 RGB [frames, HEIGHT, WIDTH, 3].

    Args:
      dataset: one of `ACTIONS`.
      label: one of its actions.
      scene: decides on the background and the object.
      take: decides, with the scene, on the states: nothing but the motion goes with an action.
      frames: at least 1, at `FRAME_RATE`.
      seed: not negative.
    """
    number = list(ACTIONS).index(dataset)
    background, texture = _LOOKS[dataset](np.random.default_rng([seed, number, scene]))
    moved = states(ACTIONS[dataset][label], np.random.default_rng([seed, number, scene, take]), frames=frames)
    return actions.render(moved, background=background, texture=texture)


def states(action: Action, rng: np.random.Generator, *, frames: int) -> np.ndarray:
    """Draws the states that the object goes through: float64 [T, 4], in the units of `actions.trajectory`.

    The generator moves on alike for all actions.
    """
    run, found = actions.runs_and_stands(rng, frames=frames, frame_rate=FRAME_RATE)
    swing = swinging(frames, start=int(rng.integers(2 * frames)))
    found[:, action.column] = run[:: action.direction, action.column]
    if action.swings is not None:
        found[:, action.swings] = run[swing, action.swings]
    return found


def swinging(frames: int, *, start: int) -> np.ndarray:
    """Places 0 to frames - 1 on a line, there and back at two places a frame: int [frames].

    Over all `start`, 0 to 2 frames - 1, each frame is at each place equally often.
    """
    there_and_back = np.concatenate([np.arange(frames), np.arange(frames)[::-1]])
    return there_and_back[(start + 2 * np.arange(frames)) % (2 * frames)]


def _noise(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The look of `data.synthetic`: a patch of two soft colours over muted smooth noise."""
    hue = rng.random()
    return actions.background(rng, hue, HEIGHT, WIDTH), actions.object_texture(rng, hue + 0.5)


def _stripes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A chequered object over slanted soft stripes."""
    hue, angle = rng.random(), rng.uniform(0, np.pi)
    down, across = _grid(HEIGHT, WIDTH)
    waves = np.sin((np.cos(angle) * across + np.sin(angle) * down) * rng.uniform(8, 14) + rng.uniform(0, 2 * np.pi))
    background = mix(_colour(hue, 0.3, 0.5), _colour(hue + 0.1, 0.3, 0.75), (waves + 1) / 2)
    down, across = _grid(actions.TEXTURE_SIZE, actions.TEXTURE_SIZE)
    chequered = (np.floor(1.5 * (down + 1)) + np.floor(1.5 * (across + 1))) % 2
    return background, mix(_colour(hue + 0.4, 0.9, 0.35), _colour(hue + 0.6, 0.7, 1.0), chequered)


def _rings(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A wheel of five sectors over a light that falls off from a random place."""
    hue, places = rng.random(), rng.uniform(-1, 1, 2)
    down, across = _grid(HEIGHT, WIDTH)
    distance = np.hypot(down - places[0], across - places[1])
    background = mix(_colour(hue, 0.2, 0.85), _colour(hue + 0.3, 0.4, 0.35), np.clip(distance / 2, 0, 1))
    down, across = _grid(actions.TEXTURE_SIZE, actions.TEXTURE_SIZE)
    sectors = np.floor((np.arctan2(down, across) / (2 * np.pi) + 0.5) * 5) % 2
    return background, mix(_colour(hue + 0.5, 1.0, 0.9), _colour(hue + 0.65, 0.8, 0.3), sectors)


_LOOKS: dict[str, Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]] = {
    "minikinetics": _noise,
    "ucf101": _stripes,
    "hmdb51": _rings,
}


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two [height, width] of coordinates, -1 to 1 along the sides."""
    return np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
