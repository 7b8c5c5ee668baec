"""Draws `actions.png`, the picture at the head of the README: `python docs/draw_actions.py` (extra `prepare`)."""

from pathlib import Path

import cv2
import numpy as np

from i3d_jax.drawn import actions

# The seed of the object and of what is behind it.
SCENE = 11
# Frames shown of each action, and the size of one, in pixels.
SHOWN, HEIGHT, WIDTH = 5, 66, 88
GAP, CAPTION, MARGIN = 2, 20, 16
# Levels of each colour channel: fewer make a smaller file, and smooth pictures do not show it at this size.
LEVELS = 40


def strip(action: str) -> np.ndarray:
    """Draws an action's frames side by side under its name: uint8 RGB [CAPTION + HEIGHT, SHOWN frames wide, 3]."""
    video = actions.draw(action, np.random.default_rng(SCENE), frames=33, height=HEIGHT, width=WIDTH)
    frames = video[np.linspace(0, len(video) - 1, SHOWN).astype(int)]
    step = 255 / (LEVELS - 1)
    frames = np.rint(np.rint(frames / step) * step).astype(np.uint8)
    picture = np.full((CAPTION + HEIGHT, SHOWN * (WIDTH + GAP) - GAP, 3), 255, np.uint8)
    for number, frame in enumerate(frames):
        left = number * (WIDTH + GAP)
        picture[CAPTION:, left : left + WIDTH] = frame
    cv2.putText(picture, action, (0, CAPTION - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (60, 60, 60), 1, cv2.LINE_AA)
    return picture


def sheet() -> np.ndarray:
    """Draws the eight actions, opposites side by side: uint8 RGB [H, W, 3]."""
    strips = [np.pad(strip(action), ((0, 8), (0, MARGIN), (0, 0)), constant_values=255) for action in actions.ACTIONS]
    rows = [np.concatenate(pair, axis=1) for pair in zip(strips[::2], strips[1::2], strict=True)]
    return np.concatenate(rows)


if __name__ == "__main__":
    path = Path(__file__).with_name("actions.png")
    cv2.imwrite(str(path), cv2.cvtColor(sheet(), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])
