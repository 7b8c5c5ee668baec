"""Flow as bytes, and the words in which a dataset and a checkpoint say how their flow was made.

A displacement in pixels, u to the right and v downwards, is clipped to +-20 and mapped linearly to 0..255 (facts: "Data
and preprocessing"), so that a step is 40 / 255 = 0.157 px. It is rounded: cutting off, as MediaPipe does, doubles the
mean error. No byte stands for 0 px exactly; it is stored as 128, which is 0.078 px.

The network takes stored flow as it takes stored frames, x / 127.5 - 1 (`training.step.scaled`), which is the
displacement over `BOUND`.

Works on NumPy and on JAX arrays alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Pixels: the largest displacement that is stored. This is the only place that knows it.
BOUND = 20.0
# Stored flow [..., 2] XOR this has its u negated: 255 - b is b ^ 255.
NEGATE_U = np.array([255, 0], np.uint8)

# The parameters of TV-L1: the defaults of OpenCV's DualTVL1 (facts: "Data and preprocessing").
TVL1_PARAMETERS = {
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


def to_bytes(displacement):
    """Returns displacements, float of any shape, in pixels, as uint8 of the same shape."""
    return ((displacement.clip(-BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))).round().astype(np.uint8)


def to_pixels(stored):
    """Returns stored flow, uint8 of any shape, as displacements in pixels, float32, -20 to 20."""
    return stored.astype(np.float32) * np.float32(2 * BOUND / 255) - np.float32(BOUND)


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
        **TVL1_PARAMETERS,
    }
