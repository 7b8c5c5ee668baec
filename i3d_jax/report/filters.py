"""The filters of a network's first layer as the paper's figure 4 shows them: their time steps from left to right."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup
from PIL import Image

from i3d_jax import checkpoint
from i3d_jax.report import page
from i3d_jax.report.workdir import Workdir

# Pixels between two filters, and how large a value is drawn.
GAP, SCALE = 1, 3
# What a first layer sees, by its channels: a frame, a field, and ten fields (u and v in turn).
_STREAMS = {3: "RGB", 2: "flow", 20: "flow"}


def section(run: Workdir) -> Markup:
    """Returns the filters of each stream of a run's newest checkpoint, which has to be there."""
    assert run.checkpoint is not None
    variables = checkpoint.restore(run.checkpoint, ["variables"])["variables"]
    parts = [
        page.render(
            "filters.html",
            title=f"{run.name}: {kernel.shape[-1]} filters of {' × '.join(map(str, kernel.shape[:3]))} on {stream}",
            flow=stream == "flow",
            pictures=[_png(picture) for picture in drawn(kernel)],
        )
        for stream, kernel in first_layers(variables["params"]).items()
    ]
    if not parts:
        return page.paragraph(f"{run.name} has no first layer of frames or flow fields.", kind="note")
    return page.joined(parts)


def first_layers(params: Any) -> dict[str, Float[np.ndarray, "time height width channels filters"]]:
    """Returns the kernel of the first convolution of each stream, float [T, H, W, 3 or 2, F].

    That is the largest one in space whose input has as many channels as a frame, a field or ten fields: the last are
    drawn as ten time steps.
    """
    found: dict[str, np.ndarray] = {}
    for _, leaf in checkpoint.named(params):
        kernel = np.asarray(leaf, np.float32)
        if kernel.ndim not in (4, 5) or kernel.shape[-2] not in _STREAMS or min(kernel.shape[-4:-2]) < 2:
            continue
        if kernel.ndim == 4:
            height, width, channels, filters = kernel.shape
            steps = channels // 2 if channels == 20 else 1
            kernel = np.moveaxis(kernel.reshape(height, width, steps, channels // steps, filters), 2, 0)
        elif kernel.shape[-2] == 20:
            continue
        stream = _STREAMS[kernel.shape[-2]]
        if stream not in found or kernel.shape[1] > found[stream].shape[1]:
            found[stream] = kernel
    return found


def drawn(kernel: Float[np.ndarray, "time height width channels filters"]) -> list[UInt8[np.ndarray, "..."]]:
    """Draws the filters in a square, a picture uint8 [rows, columns, 3] for each time step.

    Of RGB grey is 0, and a filter's largest weight, over all its time steps, is the brightest. Of flow the hue is the
    direction and the strength of the colour the length of (u, v), over the filter's longest; white is 0.
    """
    steps, height, width, channels, filters = kernel.shape
    side = math.ceil(math.sqrt(filters))
    if channels == 3:
        pixels = 0.5 + 0.5 * kernel / np.maximum(np.abs(kernel).max((0, 1, 2, 3)), 1e-12)
    else:
        pixels = _of_directions(kernel)
    rows = math.ceil(filters / side)
    pictures = np.ones((steps, rows * (height + GAP) - GAP, side * (width + GAP) - GAP, 3))
    for number in range(filters):
        top, left = number // side * (height + GAP), number % side * (width + GAP)
        pictures[:, top : top + height, left : left + width] = pixels[..., number]
    return list((pictures * 255).round().astype(np.uint8))


def _of_directions(kernel: np.ndarray) -> np.ndarray:
    """Returns (u, v) [T, H, W, 2, F] as colours 0 to 1 [T, H, W, 3, F]: the hue of the angle, white for 0."""
    u, v = kernel[..., 0, :], kernel[..., 1, :]
    length = np.hypot(u, v)
    strength = length / np.maximum(length.max((0, 1, 2)), 1e-12)
    turn = np.arctan2(v, u)[..., None, :] + np.array([0, -2, 2])[:, None] * (np.pi / 3)
    hue = np.clip(0.5 + np.cos(turn), 0, 1)
    return 1 - strength[..., None, :] * (1 - hue)


def _png(picture: np.ndarray) -> dict[str, Any]:
    large = picture.repeat(SCALE, 0).repeat(SCALE, 1)
    file = io.BytesIO()
    Image.fromarray(large).save(file, "PNG", optimize=True)
    return {"uri": page.data_uri(file.getvalue(), "image/png"), "width": large.shape[1], "height": large.shape[0]}
