"""Flow as bytes, and the words in which a dataset and a checkpoint say how their flow was made.

A displacement in pixels, u to the right and v downwards, is clipped to +-20 and mapped linearly to 0..255 (facts: "Data
and preprocessing"), so that a step is 40 / 255 = 0.157 px. What this package stores is rounded to the nearest byte:
0 px, for which no byte stands exactly, is 128, which is 0.078 px. The records of MediaPipe's Kinetics script are
truncated (its `flow_quantizer_model.cc`), which doubles the mean error: byte b stands for the whole step that begins at
b * 40 / 255 - 20 px, and 0 px is 127, in the middle of its step.

The network takes stored flow as it takes stored frames, x / 127.5 - 1 (`training.step.scaled`), whatever its rounding,
as MediaPipe's own reader does. Of rounded bytes that is the displacement over `BOUND`, of truncated ones it is half a
step less, which is why a network trained on one refuses the other.

Works on NumPy and on JAX arrays alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

# Pixels: the largest displacement that is stored. This is the only place that knows it.
BOUND = 20.0
# How a displacement between two bytes is stored: ours, and that of MediaPipe's records.
NEAREST, TRUNCATED = "nearest", "truncated"
ROUNDINGS = (NEAREST, TRUNCATED)
# u of [..., 2] alone: 255 - b is b ^ 255.
_INVERT_U = np.array([255, 0], np.uint8)
_LARGEST_TRUNCATED = np.array([254, 255], np.uint8)
_STEP_OF_U = np.array([1, 0], np.uint8)

# The parameters of TV-L1: the defaults of OpenCV's DualTVL1 (facts: "Data and preprocessing").
TVL1_PARAMETERS: dict[str, Any] = {
    "tau": 0.25,
    "lambda": 0.15,
    "theta": 0.3,
    "scales": 5,
    "warps": 5,
    "epsilon": 0.01,
    "inner_iterations": 30,
    "outer_iterations": 10,
    "scale_step": 0.8,
    "median": 5,
}


def to_bytes(displacement: Float[Any, "*axes"]) -> UInt8[Any, "*axes"]:
    """Returns displacements, float of any shape, in pixels, as uint8 of the same shape."""
    return ((displacement.clip(-BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))).round().astype(np.uint8)


def to_pixels(stored: UInt8[Any, "*axes"], rounding: str = NEAREST) -> Float32[Any, "*axes"]:
    """Returns stored flow, uint8 of any shape, as displacements in pixels, float32, -20 to 20.

    Of truncated bytes it is the middle of what may have been stored, but for 255, which only 20 px becomes.
    """
    step = np.float32(2 * BOUND / 255)
    if rounding == NEAREST:
        return stored.astype(np.float32) * step - np.float32(BOUND)
    return ((stored.astype(np.float32) + np.float32(0.5)) * step - np.float32(BOUND)).clip(-BOUND, BOUND)


def negate_u(
    stored: UInt8[Any, "*axes 2"], rounding: str, *, minimum: Callable[[Any, Any], Any] = np.minimum
) -> UInt8[Any, "*axes 2"]:
    """Returns stored flow with left and right exchanged: the bytes that the displacements (-u, v) are stored as.

    Rounded, -u is 255 - b. Truncated, it is 254 - b: the step that begins at b becomes the one that ends at 255 - b;
    255, which stands for 20 px alone, becomes 0. Only where u is the edge of a step is that one step off.

    Args:
      stored: uint8 [..., 2], an array of NumPy, JAX or TensorFlow whose shape is known.
      rounding: one of `ROUNDINGS`.
      minimum: the function of that name in the array's library.
    """
    # TensorFlow takes many times as long where it has to stretch two values over an array itself.
    largest, step, inverted = (
        np.broadcast_to(values, tuple(stored.shape)) for values in (_LARGEST_TRUNCATED, _STEP_OF_U, _INVERT_U)
    )
    if rounding == TRUNCATED:
        stored = minimum(stored, largest) + step
    return stored ^ inverted


def rounding_of(described: Mapping[str, Any] | None) -> str:
    """Returns the rounding that a description of flow states; those of the time before there was another do not."""
    return NEAREST if described is None else described.get("rounding", NEAREST)


def mediapipe_description(*, bound: float | None) -> dict[str, Any]:
    """Returns what is known of the flow of MediaPipe's Kinetics script, as `description` says it of ours.

    Args:
      bound: pixels, where a record states it; None for that of the script's graph (facts: "Data and preprocessing").
    """
    return {
        "algorithm": "tvl1",
        "implementation": "mediapipe",
        "bound": BOUND if bound is None else bound,
        "rounding": TRUNCATED,
    }


def description(*, implementation: str, version: str) -> dict[str, Any]:
    """Returns what stands under `preprocessing["flow"]` of a dataset and of a checkpoint, ready for JSON.

    Args:
      implementation: whose TV-L1, such as "opencv".
      version: of it: versions of OpenCV differ by up to 1.8 px (in the mean, by less than 0.02).
    """
    return {
        "algorithm": "tvl1",
        "implementation": implementation,
        "version": version,
        "bound": BOUND,
        "rounding": NEAREST,
        **TVL1_PARAMETERS,
    }
