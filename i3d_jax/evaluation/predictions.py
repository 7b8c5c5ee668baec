"""A split's predictions: made batch by batch, kept as an .npz file."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from i3d_jax.evaluation.accuracy import confusion
from i3d_jax.system import hosts
from i3d_jax.system.archives import read_arrays
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import instead, is_file, make_folder, parse_json, written_whole
from i3d_jax.system.terminal import json_text

Batch = Mapping[str, np.ndarray]
# Logits, and those of each stream alone.
Scores = tuple[Any, Mapping[str, Any]]
Started = TypeVar("Started")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The logits of a split's videos.

    Attributes:
      video: str [N], names.
      label: int32 [N], the right class of each.
      logits: float32 [N, classes].
      stream_logits: those of each stream alone, by stream, float32 [N, classes]; {} for a network without them.
      row: int64 [N], at which row, counted over all batches, each stood; None where they come from a file or a sum.
      classes: str [classes], their names in the order of the scores; None where they are not known.
      protocol: what they follow from, as `protocol.Protocol.described` says it; None where that is not known.
    """

    video: np.ndarray
    label: np.ndarray
    logits: np.ndarray
    stream_logits: Mapping[str, np.ndarray]
    row: np.ndarray | None = None
    classes: np.ndarray | None = None
    protocol: Mapping[str, Any] | None = None

    def save(self, path: Path) -> None:
        """Writes an .npz file with `video`, `label`, `logits`, `classes` and, of each stream, `logits_STREAM`.

        Beside them stand `confusion` int32 [classes, classes] (rows are the right ones) and `protocol`, JSON. It is
        written whole or not at all.
        """
        make_folder(path.parent)
        more: dict[str, Any] = {} if self.classes is None else {"classes": self.classes}
        if self.protocol is not None:
            more["protocol"] = np.array(json_text(dict(self.protocol)))
        with written_whole(path) as file:
            np.savez(file, **self._arrays(), confusion=confusion(self.logits, self.label), **more)

    def _arrays(self) -> dict[str, Any]:
        streams = {f"logits_{stream}": logits for stream, logits in self.stream_logits.items()}
        return {"video": self.video, "label": self.label, "logits": self.logits, **streams}

    def of_all_hosts(self, global_row: Callable[[np.ndarray], np.ndarray]) -> Predictions:
        """Returns on every host those of all hosts, in the order of the split.

        Args:
          global_row: a host's rows, as in `row`, to rows among those of all hosts.

        Raises:
          ValueError: the rows are not known.
        """
        if self.row is None:
            raise ValueError("predictions whose rows are known were expected")
        file = io.BytesIO()
        np.savez(file, row=global_row(self.row), **self._arrays())
        shares = [np.load(io.BytesIO(content)) for content in hosts.gather_bytes(file.getvalue())]
        order = np.argsort(np.concatenate([share["row"] for share in shares]))
        arrays = {name: np.concatenate([share[name] for share in shares])[order] for name in shares[0].files}
        streams = {stream: arrays[f"logits_{stream}"] for stream in self.stream_logits}
        return Predictions(arrays["video"], arrays["label"], arrays["logits"], streams, arrays["row"])

    @classmethod
    def load(cls, path: str | os.PathLike) -> Predictions:
        """Reads a file that `save` wrote.

        Raises:
          UserError: it is not there, is no such file, or its arrays do not fit together.
        """
        if not is_file(path):
            raise UserError(f"a file of predictions was expected at {path}, found {instead(path)}")
        arrays = read_arrays(path, "predictions")
        missing = [name for name in ("video", "label", "logits") if name not in arrays]
        if missing:
            found = ", ".join(arrays) or "none"
            raise UserError(f"{path}: the arrays video, label and logits were expected, found {found}")
        video, label, logits = (arrays[name] for name in ("video", "label", "logits"))
        fits = video.ndim == label.ndim == 1 and logits.ndim == 2 and len(video) == len(label) == len(logits)
        kinds = video.dtype.kind == "U" and label.dtype.kind in "iu" and logits.dtype.kind == "f"
        if not fits or not kinds:
            raise UserError(
                f"{path}: texts video [N], whole numbers label [N] and float logits [N, classes] were expected, found "
                f"{video.dtype} {list(video.shape)}, {label.dtype} {list(label.shape)}, "
                f"{logits.dtype} {list(logits.shape)}"
            )
        outside = np.flatnonzero((label < 0) | (label >= logits.shape[1]))
        if len(outside):
            raise UserError(
                f"{path}: labels of {logits.shape[1]} classes were expected, found {label[outside[0]]} "
                f"for the video {str(video[outside[0]])!r}"
            )
        prefix = "logits_"
        streams = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        for name, own in {"logits": logits, **{prefix + name: own for name, own in streams.items()}}.items():
            if own.shape != logits.shape or own.dtype.kind != "f":
                raise UserError(
                    f"{path}: {name} was expected to be float {list(logits.shape)}, found {own.dtype} {list(own.shape)}"
                )
            if not np.isfinite(own).all():
                raise UserError(f"{path}: finite {name} were expected, found others")
        classes = arrays.get("classes")
        if classes is not None and (classes.dtype.kind != "U" or classes.shape != logits.shape[1:]):
            raise UserError(
                f"{path}: the names of {logits.shape[1]} classes were expected, found {classes.dtype} "
                f"{list(classes.shape)}"
            )
        protocol = None
        if "protocol" in arrays:
            protocol = parse_json(str(arrays["protocol"]), f"'protocol' in {path}")
            if not isinstance(protocol, dict):
                raise UserError(f"{path}: a protocol, as JSON of an object, was expected, found {protocol!r:.80}")
        return cls(video, label, logits, streams, classes=classes, protocol=protocol)


def predict(
    score_batch: Callable[[Batch], Scores],
    batches: Iterable[Batch],
    num_classes: int,
    *,
    fetch: Callable[[Scores], Scores] = lambda scores: scores,
) -> Predictions:
    """Scores every video of a split.

    What `score_batch` starts is fetched when the next batch has been read and started: the devices have one to work on
    while another is read.

    Args:
      score_batch: batch -> (logits float32 [at least B, classes], those of each stream alone, by stream); rows beyond
        the batch's B are padding. It need not wait for them.
      batches: with "video" str [B], "label" int [B] and "mask" bool [B] beside the clips; masked rows are left out.
      num_classes: columns of the logits.
      fetch: waits for what `score_batch` gave, and gives it as NumPy arrays.

    Raises:
      UserError: scores are not finite.
    """
    videos, labels, logits = [], [], [np.zeros((0, num_classes), np.float32)]
    rows: list[int] = []
    seen = 0
    stream_logits: dict[str, list[np.ndarray]] = {}
    for batch, scored in in_flight(score_batch, batches):
        mask = np.asarray(batch["mask"], bool)
        scores, of_streams = fetch(scored)
        scores, *parts = (np.asarray(own)[: len(mask)][mask] for own in (scores, *of_streams.values()))
        for own in (scores, *parts):
            refuse_not_finite(own, batch["video"][mask])
        videos.extend(np.asarray(batch["video"])[mask])
        labels.extend(np.asarray(batch["label"])[mask])
        logits.append(scores.astype(np.float32))
        rows.extend(seen + np.flatnonzero(mask))
        seen += len(mask)
        for stream, own in zip(of_streams, parts, strict=True):
            stream_logits.setdefault(stream, []).append(own.astype(np.float32))
    return Predictions(
        np.array(videos, dtype=np.str_),
        np.array(labels, np.int32),
        np.concatenate(logits),
        {stream: np.concatenate(parts) for stream, parts in stream_logits.items()},
        np.array(rows, np.int64),
    )


def in_flight(start: Callable[[Batch], Started], batches: Iterable[Batch]) -> Iterator[tuple[Batch, Started]]:
    """Yields (batch, what `start` made of it), each when the next batch has been started."""
    before = None
    for batch in batches:
        now = batch, start(batch)
        if before is not None:
            yield before
        before = now
    if before is not None:
        yield before


def refuse_not_finite(scores: np.ndarray, videos: Sequence[str] | np.ndarray) -> None:
    """Raises a `UserError` that names a video whose scores, float [N, classes], are not finite."""
    if not np.isfinite(scores).all():
        video = videos[np.flatnonzero(~np.isfinite(scores).all(1))[0]]
        raise UserError(f"the network's scores of the video {video} are not finite numbers")
