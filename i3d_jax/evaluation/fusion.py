"""Two streams trained apart, taken together: the weighted sum of their logits, video by video; NumPy.

The release's `evaluate_sample.py` adds the logits of its two streams; that is a sum with the weights 1 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from i3d_jax.checkpoint import refuse_other_labels
from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.system.errors import UserError


def fuse(
    first: Predictions, second: Predictions, weights: Sequence[float] = (1.0, 1.0), *, names: Sequence[str]
) -> Predictions:
    """Adds the logits of the same videos, matched by their names.

    Args:
      first, second: of one split; the videos may stand in another order.
      weights: of the first's logits and the second's: two finite numbers, not both 0.
      names: what to call the two in an error, such as their files.

    Returns:
      The videos and labels of `first` in its order, with the sums, float32 [N, classes]; no `stream_logits`.

    Raises:
      UserError: the weights are not such numbers; or the two follow from other protocols (where both say it), or have
        other videos, other classes or another label for a video; or one of them has a video twice, or none.
    """
    if len(weights) != 2 or not all(map(math.isfinite, weights)) or not any(weights):
        raise UserError(
            f"two weights were expected, finite and not both 0, found {', '.join(f'{one:g}' for one in weights)}"
        )
    _refuse_other_protocol(first, second, names)
    rows = [_rows(one, name) for one, name in zip((first, second), names, strict=True)]
    classes = [one.logits.shape[1] for one in (first, second)]
    if classes[0] != classes[1]:
        raise UserError(f"{names[0]} has scores of {classes[0]} classes, {names[1]} of {classes[1]}")
    if first.classes is not None and second.classes is not None:
        refuse_other_labels(first.classes.tolist(), second.classes.tolist(), where=names[0], other=names[1])
    for this, other in ((0, 1), (1, 0)):
        if lacking := [video for video in rows[this] if video not in rows[other]]:
            raise UserError(
                f"{names[this]} and {names[other]} are of other videos: only {names[this]} has {lacking[0]!r}"
                + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")
            )
    order = np.array([rows[1][str(video)] for video in first.video])
    different = np.flatnonzero(first.label != second.label[order])
    if len(different):
        row = different[0]
        raise UserError(
            f"the video {str(first.video[row])!r} has the label {first.label[row]} in {names[0]} and "
            f"{second.label[order][row]} in {names[1]}: they are of other lists of classes"
        )
    logits = weights[0] * first.logits.astype(np.float64) + weights[1] * second.logits[order].astype(np.float64)
    named = first.classes if first.classes is not None else second.classes
    protocol = first.protocol if first.protocol is not None else second.protocol
    return Predictions(first.video, first.label, logits.astype(np.float32), {}, classes=named, protocol=protocol)


def _refuse_other_protocol(first: Predictions, second: Predictions, names: Sequence[str]) -> None:
    if first.protocol is None or second.protocol is None:
        return
    different = [
        f"{key} {first.protocol.get(key, 'absent')!r} against {second.protocol.get(key, 'absent')!r}"
        for key in {**first.protocol, **second.protocol}
        if first.protocol.get(key, "absent") != second.protocol.get(key, "absent")
    ]
    if different:
        raise UserError(f"{names[0]} and {names[1]} were scored by other protocols: {'; '.join(different)}")


def _rows(predictions: Predictions, name: str) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, video in enumerate(map(str, predictions.video)):
        if video in rows:
            raise UserError(f"{name} has the video {video!r} twice")
        rows[video] = row
    if not rows:
        raise UserError(f"{name} has no videos")
    return rows
