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
