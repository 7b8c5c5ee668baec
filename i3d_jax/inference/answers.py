"""What networks say of videos: the actions in each, and when."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from i3d_jax.inference.batching import Wanted
from i3d_jax.inference.loaded import LoadedNetwork, sources_of
from i3d_jax.inference.scores import best
from i3d_jax.inference.timeline import Steps, Stretch, moments, stretches
from i3d_jax.inference.videos import Video, VideosBar, videos
from i3d_jax.system.errors import UserError
from i3d_jax.video.plans import Plan, Sliding


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is said of a video.

    Attributes:
      video: its path.
      labels: the classes.
      logits: of each window, float32 [N, classes]: sums over networks.
      spans: of each window the seconds from its start to its end, from the start of the file.
      mean: their means, float32 [classes].
      steps: of the windows of a timeline.
    """

    video: str
    labels: Sequence[str]
    logits: np.ndarray
    spans: Sequence[tuple[float, float]]
    mean: np.ndarray
    steps: Steps | None = None

    @property
    def scored(self) -> tuple[float, float]:
        """The seconds from the start of the first window to the end of the last one."""
        return self.spans[0][0], self.spans[-1][1]

    def predictions(self, top_k: int) -> list[dict[str, Any]]:
        """Returns the best classes of the whole, as `scores.best` gives them."""
        return best(self.mean, self.labels, top_k)

    def to_json(self, top_k: int, *, timeline: bool) -> dict[str, Any]:
        """Returns the object of `predict --format json`."""
        start, end = self.scored
        said = {
            "video": self.video,
            "predictions": self.predictions(top_k),
            "start": start,
            "end": end,
            "windows": len(self.spans),
        }
        if timeline:
            windows = moments(self.logits, self.spans, self.labels, top_k)
            said["timeline"] = [moment.to_json() for moment in windows]
            said["stretches"] = [dataclasses.asdict(stretch) for stretch in self.stretches()]
        return said

    def stretches(self) -> list[Stretch]:
        """Returns neighbouring windows of a timeline that have one label, joined."""
        assert self.steps is not None
        return stretches(self.logits, self.spans, self.labels, self.steps)


def answers(
    networks: Sequence[LoadedNetwork],
    paths: Sequence[str],
    plan: Plan,
    *,
    start: float | None = None,
    end: float | None = None,
    bar: VideosBar | None = None,
) -> Iterator[Answer | UserError]:
    """Yields what is said of each video, in order; of one that cannot be read why.

    Args:
      networks: their logits are added.
      paths: of the videos.
      plan: which windows are scored.
      start, end: seconds of the piece of each.
      bar: shows how far it is.
    """
    window = plan.window if isinstance(plan, Sliding) else None
    programs = [network.program(Wanted(steps=window is not None), window) for network in networks]
    sources = sources_of(networks, paths, plan, start=start, end=end, note=_tell)
    for video in videos(programs, sources, plan, [network.view for network in networks], bar=bar):
        path = paths[video.number]
        try:
            yield _answer(networks, path, video, start or 0)
        except UserError as error:
            yield error


def _answer(networks: Sequence[LoadedNetwork], path: str, video: Video, start: float) -> Answer:
    video.refuse_failure(path)
    logits = [network.logits(video, path, number) for number, network in enumerate(networks)]
    rate = video.frame_rate
    # Not 1.2000000000000002.
    spans = [(round(start + first / rate, 6), round(start + after / rate, 6)) for first, after in video.spans]
    # Networks may see other numbers of windows, where these are spread over the video, and of steps.
    together = functools.reduce(operator.add, logits) if len({own.shape for own in logits}) == 1 else logits[0]
    steps = None
    if together.ndim == 3:
        steps = Steps(together[:, 1:], networks[0].model.step_centres(together.shape[1] - 1))
        logits, together = [own[:, 0] for own in logits], together[:, 0]
    mean = functools.reduce(operator.add, (own.mean(0) for own in logits))
    return Answer(path, networks[0].labels, together, spans, mean, steps)


def _tell(path: str, sentence: str) -> None:
    print(f"{os.fspath(path)}: {sentence}", file=sys.stderr, flush=True)
