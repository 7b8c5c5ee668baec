"""From logits to what is said of a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from i3d_jax.system.errors import UserError


def best(logits: np.ndarray, labels: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """Returns the `top_k` best classes of logits float [classes], each with label, probability (0 to 1) and logit."""
    chances = probabilities(logits)
    order = np.argsort(-logits, kind="stable")[:top_k]
    return [
        {"label": labels[index], "probability": float(chances[index]), "logit": float(logits[index])} for index in order
    ]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax over the last axis, float64 of the same shape."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float64)
    return exponentials / exponentials.sum(-1, keepdims=True)


def refuse_not_finite(values: np.ndarray, *, what: str, where: str, video: str) -> None:
    """Raises a `UserError` where a network gives a video scores or features that are no numbers."""
    if not np.isfinite(values).all():
        raise UserError(
            f"the {what} that {where} gives {video} are not finite numbers: its weights are damaged, or its training "
            "went wrong"
        )
