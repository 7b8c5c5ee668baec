"""The workdir of a run as it is left, without a network: what its report is told by."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from i3d_jax.checkpoint import Description
from i3d_jax.evaluation.accuracy import score
from i3d_jax.evaluation.predictions import Predictions

# Four videos of the classes 0, 0, 1 and 1, of which the first and the third are named right.
LOGITS = [[3, 0, 0], [0, 4, 0], [0, 2, 1], [9, 0, 0]]
LABELS = [0, 0, 1, 1]
DATA = {"source": "prepared", "directory": "nowhere", "tfds_name": None, "labels": None}
DATA |= {"synthetic_videos_per_action": 0, "stated": dict.fromkeys(("frame_rate", "interpolation", "jpeg_quality"))}


def leave(
    folder: Path, *, logits=LOGITS, labels=LABELS, classes=("a", "b", "c"), stream="rgb", videos=None, dataset=None
) -> Path:
    """Leaves a finished run without checkpoints."""
    folder.mkdir(parents=True)
    config = {
        "total_steps": 20,
        "batch_size": 8,
        "model": {"name": "i3d", "stream": stream},
        "data": {**DATA, "directory": str(dataset or folder / "nowhere")},
        "evaluation": {"split": "test"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    leave_metrics(folder)
    logits, labels = np.array(logits, np.float32), np.array(labels, np.int32)
    names = np.array(videos or [f"video{number}" for number in range(len(labels))])
    own = Predictions(names, labels, logits, {}, classes=np.array(classes))
    (folder / "predictions").mkdir()
    np.savez(folder / "predictions/test.npz", video=names, label=labels, logits=logits, classes=own.classes)
    figures = {**score(logits, labels), "top1_interval": [0.25, 0.75], "step": 20}
    (folder / "results.json").write_text(json.dumps({"test": figures}))
    return folder


def leave_metrics(folder: Path) -> None:
    """Leaves two lines of training, and the third cut short."""
    values = {"loss": 1.5, "top1": 0.25, "learning_rate": 0.1, "gradient_norm": 2.0, "clips_per_second": 40.0}
    lines = [json.dumps({"step": step, "split": "train", **values, "data_wait_share": 0.05}) for step in (10, 20)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 30, "sp']))


def leave_figures(folder: Path, split: str, figures: Mapping[str, Any]) -> None:
    """Leaves the figures of a split alone: 80% top-1."""
    folder.mkdir(parents=True)
    shares = {"top1": 0.8, "top5": 0.95, "mean_class_accuracy": 0.8, "loss": 1.0, "top1_interval": [0.79, 0.81]}
    (folder / "results.json").write_text(json.dumps({split: {**shares, **figures}}))


def leave_checkpoint(folder: Path, *, step: int = 20, num_classes: int, **fields: Any) -> None:
    """Leaves what a checkpoint says of itself, without variables; `fields` are those of `Description`."""
    directory = folder / "checkpoints" / str(step)
    (directory / "tree").mkdir(parents=True)
    labels = [f"class {number}" for number in range(num_classes)]
    Description(num_classes=num_classes, labels=labels, **fields).write(directory)


class Page(html.parser.HTMLParser):
    """A page as a parser reads it.

    Attributes:
      tables: by caption, the rows as lists of texts, the heads first.
      elements: (name, attributes) of all elements.
      warnings: the texts of the page's warnings.
    """

    def __init__(self, text: str):
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.warnings: list[str] = []
        self._into: list[str] | None = None
        self._caption = ""
        self._warned = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "div" and attributes.get("class") == "scroll":
            self._caption = attributes["aria-label"] or ""
            self.tables[self._caption] = []
        elif tag == "tr":
            self.tables[self._caption].append([])
        elif tag in ("td", "th"):
            self._into = self.tables[self._caption][-1]
            self._into.append("")
        elif attributes.get("class") == "warning":
            self._warned = True
        if self._warned and tag in ("p", "li"):
            self._into = self.warnings
            self._into.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th", "p", "li"):
            self._into = None
        if tag in ("p", "ul"):
            self._warned = False

    def handle_data(self, data):
        if self._into is not None:
            self._into[-1] += data
