"""What happens when: windows one after the other, and neighbours of one label joined."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from i3d_jax.inference.scores import best, probabilities


@dataclasses.dataclass(frozen=True)
class Moment:
    """One window of a timeline.

    Attributes:
      start, end: seconds from the start of the video.
      predictions: the best classes, as `scores.best` gives them.
    """

    start: float
    end: float
    predictions: Sequence[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Returns it as `predict --format json` writes it: start, end, the best label, its probability, all of them."""
        first = self.predictions[0]
        return {
            "start": self.start,
            "end": self.end,
            "label": first["label"],
            "probability": first["probability"],
            "predictions": list(self.predictions),
        }


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Neighbouring windows of one label: seconds, the label, and the mean of its probabilities."""

    start: float
    end: float
    label: str
    probability: float


def moments(
    logits: np.ndarray, spans: Sequence[tuple[float, float]], labels: Sequence[str], top_k: int
) -> list[Moment]:
    """Returns the windows of a timeline from their logits float [N, classes] and their seconds."""
    return [Moment(*span, best(own, labels, top_k)) for own, span in zip(logits, spans, strict=True)]


def stretches(logits: np.ndarray, spans: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[Stretch]:
    """Joins neighbouring windows of one best label.

    Windows overlap: between two labels stands the middle of the two windows' middles. So stretches do not overlap, and
    reach from the start of the first window to the end of the last one.

    Args:
      logits: float [N, classes], N at least 1.
      spans: seconds of each window.
      labels: of the classes.
    """
    winners = logits.argmax(-1)
    chances = probabilities(logits)
    middles = [(start + end) / 2 for start, end in spans]
    changes = [0, *(np.flatnonzero(np.diff(winners)) + 1).tolist(), len(winners)]
    found = []
    for first, after in itertools.pairwise(changes):
        start = spans[0][0] if not first else (middles[first - 1] + middles[first]) / 2
        end = spans[-1][1] if after == len(winners) else (middles[after - 1] + middles[after]) / 2
        winner = winners[first]
        found.append(Stretch(start, end, labels[winner], float(chances[first:after, winner].mean())))
    return found
