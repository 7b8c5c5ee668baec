"""A split's predictions: made batch by batch, kept as an .npz file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from i3d_jax.errors import UserError
from i3d_jax.files import written_whole


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The logits of a split's videos.

    Attributes:
      video: str [N], names.
      label: int32 [N], the right class of each.
      logits: float32 [N, classes].
    """

    video: np.ndarray
    label: np.ndarray
    logits: np.ndarray

    def save(self, path: Path) -> None:
        """Writes an .npz file with `video`, `label` and `logits`, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            np.savez(file, video=self.video, label=self.label, logits=self.logits)


def predict(
    score_batch: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    batches: Iterable[Mapping[str, np.ndarray]],
    num_classes: int,
) -> Predictions:
    """Scores every video of a split.

    Args:
      score_batch: batch -> logits float32 [at least B, classes]; rows beyond the batch's B are padding.
      batches: with "video" str [B], "label" int [B] and "mask" bool [B] beside the clips; masked rows are left out.
      num_classes: columns of the logits.

    Raises:
      UserError: scores are not finite.
    """
    videos, labels, logits = [], [], [np.zeros((0, num_classes), np.float32)]
    for batch in batches:
        mask = np.asarray(batch["mask"], bool)
        scores = np.asarray(score_batch(batch))[: len(mask)]
        if not np.isfinite(scores[mask]).all():
            video = batch["video"][mask][~np.isfinite(scores[mask]).all(1)][0]
            raise UserError(f"the network's scores of the video {video} are not finite numbers")
        videos.extend(np.asarray(batch["video"])[mask])
        labels.extend(np.asarray(batch["label"])[mask])
        logits.append(scores[mask].astype(np.float32))
    return Predictions(np.array(videos, dtype=np.str_), np.array(labels, np.int32), np.concatenate(logits))
