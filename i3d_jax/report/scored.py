"""What is compared on a page: the networks of the runs, their streams, and two runs' streams taken together."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from i3d_jax.evaluation.accuracy import bootstrap_interval, score
from i3d_jax.evaluation.fusion import fuse
from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.report.workdir import Workdir
from i3d_jax.system.errors import UserError

STREAMS = {"rgb": "RGB", "flow": "flow"}


@dataclasses.dataclass(frozen=True)
class Scored:
    """Scores of a split's videos, and whose they are.

    Attributes:
      title: of a run, a stream of one, or both streams.
      predictions: the scores.
      runs: the names of the runs whose scores or sum they are; none for a stream of one.
    """

    title: str
    predictions: Predictions
    runs: tuple[str, ...] = ()

    @functools.cached_property
    def figures(self) -> Mapping[str, Any]:
        """The accuracies top1, top5 and mean_class_accuracy (0 to 1), loss (nats) and how many videos."""
        return score(self.predictions.logits, self.predictions.label)

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of top1, by the bootstrap."""
        return bootstrap_interval(self.predictions.logits, self.predictions.label)

    @functools.cached_property
    def classes(self) -> list[str]:
        """The names of the classes, or their numbers where no one has said the names; no two are the same."""
        count = self.predictions.logits.shape[1]
        names = [""] * count if self.predictions.classes is None else self.predictions.classes.tolist()
        often = collections.Counter(names)
        return [
            name if name.strip() and often[name] == 1 else f"{name} class {number}".strip()
            for number, name in enumerate(names)
        ]

    @functools.cached_property
    def right(self) -> np.ndarray:
        """Whether each video is named right first: bool [N]."""
        return self.predictions.logits.argmax(1) == self.predictions.label


def of_runs(runs: Sequence[Workdir]) -> tuple[list[Scored], list[str]]:
    """Returns what can be compared, and a sentence for each pair of streams that cannot be taken together."""
    found, problems = [], []
    for one in runs:
        if one.predictions is None:
            continue
        found.append(Scored(one.name, one.predictions, (one.name,)))
        for stream, logits in one.predictions.stream_logits.items():
            alone = dataclasses.replace(one.predictions, logits=logits, stream_logits={})
            found.append(Scored(f"{one.name}: {STREAMS.get(stream, stream)} alone", alone))
    for first, second in itertools.combinations([one for one in runs if one.predictions is not None], 2):
        if {first.stream, second.stream} != {"rgb", "flow"}:
            continue
        assert first.predictions is not None
        assert second.predictions is not None
        try:
            fused = fuse(first.predictions, second.predictions, names=(first.name, second.name))
        except UserError as error:
            problems.append(f"The streams cannot be taken together: {error}")
            continue
        found.append(Scored(f"{first.name} + {second.name}", fused, (first.name, second.name)))
    return found, problems


def other_classes(scored: Sequence[Scored]) -> str:
    """Returns a sentence on the classes that only one of the runs has; nothing where all have the same."""
    sentences = []
    for one, other in itertools.combinations(scored, 2):
        if one.classes == other.classes:
            continue
        parts = []
        for this, that in ((one, other), (other, one)):
            if only := [name for name in this.classes if name not in set(that.classes)]:
                more = f" and {len(only) - 5} more" if len(only) > 5 else ""
                parts.append(f"only {this.title} has {', '.join(map(repr, only[:5]))}{more}")
        sentences.append(
            f"{one.title} and {other.title} are of other classes: "
            + ("; ".join(parts) or "they stand in another order")
        )
    return ". ".join(sentences)
