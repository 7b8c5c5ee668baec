"""Accuracies of a split from its videos' logits; NumPy, in float64."""

from __future__ import annotations

import numpy as np


def top_k(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The share of videos whose label is among the k largest logits.

    A label counts as found when fewer than k classes score above it or, at equal scores, stand before it.

    Args:
      logits: float [N, classes].
      labels: int [N].
      k: at least 1; at k >= classes every label is found.

    Returns:
      0 to 1; NaN where N is 0.
    """
    if not len(labels):
        return float("nan")
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = np.arange(logits.shape[1])[None] < labels[:, None]
    ranks = ((logits > own) | ((logits == own) & before)).sum(1)
    return float((ranks < k).mean())


def mean_class_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean, over the classes that have a video, of the share of the class's videos that are named right first."""
    classes = np.unique(labels)
    if not len(classes):
        return float("nan")
    return float(np.mean([top_k(logits[labels == one], labels[labels == one], 1) for one in classes]))


def mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean cross-entropy, in nats, of logits float [N, classes] and labels int [N]."""
    if not len(labels):
        return float("nan")
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    scores = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-np.take_along_axis(scores, labels[:, None], axis=1).mean())


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | int]:
    """All figures of a split: top1, top5, mean_class_accuracy (0 to 1), loss (nats) and the number of videos."""
    return {
        "top1": top_k(logits, labels, 1),
        "top5": top_k(logits, labels, 5),
        "mean_class_accuracy": mean_class_accuracy(logits, labels),
        "loss": mean_loss(logits, labels),
        "videos": len(labels),
    }


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many videos of each class (rows) were taken for each (columns): int32 [classes, classes]."""
    table = np.zeros((logits.shape[1],) * 2, np.int32)
    np.add.at(table, (labels, logits.argmax(1)), 1)
    return table


def class_accuracy(logits: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """The share, 0 to 1, of each class's videos that are named right first, by class; of those that have a video."""
    table = confusion(logits, labels)
    videos = table.sum(1)
    return {int(one): float(table[one, one] / videos[one]) for one in np.flatnonzero(videos)}


def bootstrap_interval(logits: np.ndarray, labels: np.ndarray, *, share: float = 0.95) -> tuple[float, float]:
    """Where the middle `share` of top-1 lies over 10,000 draws of as many videos, with replacement, seeded.

    Each draw takes every video with equal chance, so that the number of right ones in it is binomial: that is drawn.

    Returns:
      (lowest, highest), 0 to 1; NaN where there is no video.
    """
    if not len(labels):
        return float("nan"), float("nan")
    right = np.random.default_rng(0).binomial(len(labels), top_k(logits, labels, 1), size=10_000)
    lowest, highest = np.quantile(right / len(labels), [(1 - share) / 2, (1 + share) / 2])
    return float(lowest), float(highest)
