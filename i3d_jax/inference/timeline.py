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


@dataclasses.dataclass(frozen=True)
class Steps:
    """What each step of each window says alone.

    Attributes:
      logits: float [N, n, classes] of the n steps of N windows.
      centres: where the middle of each lies in a window, from 0, its start, to 1, its end.
    """

    logits: np.ndarray
    centres: Sequence[float]


def moments(
    logits: np.ndarray, spans: Sequence[tuple[float, float]], labels: Sequence[str], top_k: int
) -> list[Moment]:
    """Returns the windows of a timeline from their logits float [N, classes] and their seconds."""
    return [Moment(*span, best(own, labels, top_k)) for own, span in zip(logits, spans, strict=True)]


def stretches(
    logits: np.ndarray, spans: Sequence[tuple[float, float]], labels: Sequence[str], steps: Steps
) -> list[Stretch]:
    """Joins neighbouring windows of one best label.

    Windows overlap, and one that lies across a change shows both labels. The change is where it best parts the steps
    before it from those after it, by how much more they speak for the one label than for the other. Stretches do not
    overlap, and reach from the start of the first window to the end of the last one.

    Args:
      logits: float [N, classes], N at least 1.
      spans: seconds of each window.
      labels: of the classes.
      steps: of the windows.
    """
    winners = logits.argmax(-1)
    chances = probabilities(logits)
    times = np.array([[start + (end - start) * centre for centre in steps.centres] for start, end in spans]).round(6)
    middles = [(start + end) / 2 for start, end in spans]
    firsts = [0, *(np.flatnonzero(np.diff(winners)) + 1).tolist()]
    afters = [*firsts[1:], len(winners)]
    # No change is sought beyond the middle of a stretch at either side: so none comes before the one before it.
    halves = [(middles[first] + middles[after - 1]) / 2 for first, after in zip(firsts, afters, strict=True)]
    halves[0], halves[-1] = spans[0][0], spans[-1][1]
    changes = [spans[0][0]]
    for number, first in enumerate(firsts[1:]):
        left = max(halves[number], spans[first - 1][0])
        right = min(halves[number + 1], spans[first][1])
        apart = steps.logits[..., winners[first - 1]] - steps.logits[..., winners[first]]
        inside = (left <= times) & (times <= right)
        usual = (middles[first - 1] + middles[first]) / 2
        changes.append(_change(times[inside], apart[inside], usual))
    changes.append(spans[-1][1])
    return [
        Stretch(start, end, labels[winners[first]], float(chances[first:after, winners[first]].mean()))
        for (start, end), first, after in zip(itertools.pairwise(changes), firsts, afters, strict=True)
    ]


def _change(times: np.ndarray, apart: np.ndarray, usual: float) -> float:
    """Returns the moment with most of `apart` before it and least behind it; `usual` of steps at one moment alone."""
    moments, places = np.unique(times, return_inverse=True)
    if len(moments) < 2:
        return usual
    sums = np.bincount(places, apart)
    before = int(np.argmax(np.cumsum(sums)[:-1]))
    return float(moments[before] + moments[before + 1]) / 2
