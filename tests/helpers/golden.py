"""The golden files: logits and features of the release's I3D with weights that a rule makes of their names."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def golden_value(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The rule by which anyone can make the golden files' weights again.

    Args:
      seed: the file's.
      name: of the variable, in the release.
      shape: its shape there.

    Returns:
      Its value, float32.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("/w"):
        value = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
    elif name.endswith("moving_variance"):
        value = random.uniform(0.5, 1.5, shape)
    else:
        value = random.standard_normal(shape) * 0.1
    return value.astype(np.float32)
