"""The words of a training that takes seconds: few channels, few layers, small pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SMALL = {
    "batch_size": 4,
    "model.width_multiplier": 0.0625,
    "model.last_block": "Mixed_3c",
    "data.frames": 9,
    "data.crop": 32,
    "checkpoints.every": 4,
    "evaluation.every": 0,
    "evaluation.frames": 16,
    "evaluation.windows": 2,
    "report": False,
}


def arguments(dataset: Any, workdir: Any, keys: Mapping[str, Any]) -> list[str]:
    """Returns the arguments of `i3d_jax.main`: of `keys` those of the small training that are other, or more."""
    changes = {"data.directory": dataset, **_SMALL, **keys}
    given = [f"--config.{key}={value}" for key, value in changes.items()]
    return ["--config", "experiments/custom.py:small", "--workdir", str(workdir), *given]
