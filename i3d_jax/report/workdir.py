"""What a page tells of a run, read from its workdir; what is missing there is a sentence of the page."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from i3d_jax.checkpoint import Description, find
from i3d_jax.data.dataset import Dataset
from i3d_jax.evaluation import protocol, results
from i3d_jax.evaluation.accuracy import top_k
from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.run import recipe
from i3d_jax.run.resolve import dataset_of
from i3d_jax.study.plan import ONLY_RGB
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import instead, is_file, is_folder, opened, parse_json

Read = TypeVar("Read")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workdir:
    """A run as its workdir holds it.

    Attributes:
      folder: where.
      name: what the page calls it; no two of a page have one name.
      recipe: its configuration by keys such as "data.crop"; {} if it has none.
      metrics: the lines of `metrics.jsonl`: `step`, `split` and values.
      results: the figures by split.
      split: the split that is shown; None if none was scored.
      predictions: of that split, or None.
      checkpoint: the newest whole one, or None.
      description: what that says of itself, or None.
      dataset: what the run saw, or None.
      missing: a sentence for each part that is not there.
    """

    folder: Path
    name: str
    recipe: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    results: Mapping[str, Mapping[str, Any]]
    split: str | None
    predictions: Predictions | None
    checkpoint: Path | None
    description: Description | None
    dataset: Dataset | None
    missing: Sequence[str]

    @property
    def figures(self) -> Mapping[str, Any]:
        """The figures of the split that is shown, {} if none."""
        return self.results[self.split] if self.split is not None else {}

    @property
    def stream(self) -> str | None:
        """The stream of a network that has one alone, "rgb" or "flow"; None for both, or where that is not known."""
        options = self.description.options if self.description is not None else {}
        if self.model in ONLY_RGB:
            return "rgb"
        stream = options.get("stream") or self.recipe.get("model.stream")
        return stream if stream in ("rgb", "flow") else None

    @property
    def model(self) -> str:
        """The architecture's name; "" where that is not known."""
        return self.description.model if self.description is not None else str(self.recipe.get("model.name", ""))

    @property
    def total_steps(self) -> int | None:
        """After how many steps the run ends; None where that is not known."""
        steps = self.recipe.get("total_steps")
        return steps if is_whole_number(steps) else None

    @property
    def batch_size(self) -> int | None:
        """Clips a step; None where that is not known."""
        size = self.recipe.get("batch_size")
        return size if is_whole_number(size) else None

    @property
    def protocol(self) -> Mapping[str, Any] | None:
        """By which rule the figures were made, as `Protocol.described` says it; None where they do not say it."""
        described = {**protocol.OF_BEFORE, **self.figures}
        needed = {"stride"} if described["protocol"] == protocol.DENSE else {"stride", "frames", "windows"}
        return described if needed <= described.keys() else None


def names_of(folders: Sequence[Path]) -> list[str]:
    """Returns what to call workdirs: the names of their folders, and where two have one, their paths."""
    short = [folder.resolve().name for folder in folders]
    return [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, folders, strict=True)]


def read(folder: Path, name: str, *, split: str | None = None, dataset: Dataset | None = None) -> Workdir:
    """Reads a workdir.

    Args:
      folder: the workdir.
      name: what to call it.
      split: which to show; None for the recipe's, else the last that was scored.
      dataset: what the run saw, where that is open already.

    Raises:
      UserError: there is no such folder, it is no workdir, or a file in it is not what it should be.
    """
    if not is_folder(folder):
        raise UserError(f"a workdir was expected at {folder}, found {instead(folder)}")
    files = ("config.json", "metrics.jsonl", "results.json")
    if not any(is_file(folder / one) for one in files):
        raise UserError(f"{folder} is no workdir: it has none of {', '.join(files)}")
    missing: list[str] = []

    def attempt(what: str, make: Callable[[], Read]) -> Read | None:
        try:
            return make()
        except UserError as error:
            missing.append(f"{what}: {error}")
            return None

    values = attempt("Without the recipe", lambda: recipe.kept(folder)) or {}
    figures = _figures(folder)
    shown = _split(figures, split or values.get("evaluation.split"))
    predictions = None
    if shown is None:
        missing.append("The run has not been evaluated yet: there are no accuracies")
    else:
        path = folder / "predictions" / f"{shown}.npz"
        predictions = attempt("Without what follows from predictions", lambda: _predictions(path))
        if predictions is not None and (other := _other_top1(predictions, figures[shown])):
            missing.append(f"results.json and {path} are of other scores: {other}")
    found = attempt("Without a checkpoint's filters and provenance", lambda: find(folder))
    description = None
    if found is not None:
        description = attempt("Without a checkpoint's provenance", lambda: Description.read(found))
    if dataset is None and predictions is not None:
        dataset = attempt("Without animations, since the dataset is not there", lambda: dataset_of(folder))
    return Workdir(
        folder=folder,
        name=name,
        recipe=values,
        metrics=_lines(folder / "metrics.jsonl", missing),
        results=figures,
        split=shown,
        predictions=predictions,
        checkpoint=found,
        description=description,
        dataset=dataset,
        missing=missing,
    )


# What the figures of a split are, by kind; of the whole numbers and texts those that are there.
_SHARES, _WHOLE = ("top1", "top5", "mean_class_accuracy"), ("videos", "step", "stride", "frames", "windows", "crops")
_TEXTS = ("protocol", "average", "precision")


def _figures(folder: Path) -> dict[str, Mapping[str, Any]]:
    path = folder / "results.json"
    figures: dict[str, Any] = results.read(path)
    for split, own in figures.items():
        of_split: Mapping[str, Any] = own if isinstance(own, dict) else {}
        if not all(_is_share(of_split.get(key)) for key in _SHARES) or not is_number(of_split.get("loss")):
            raise UserError(
                f"{path}: {', '.join(_SHARES)} (0 to 1) and loss of {split!r} were expected, found {reprlib.repr(own)}"
            )
        for key, value in of_split.items():
            kind = _expected(key, value)
            if kind is not None:
                raise UserError(f"{path}: {kind} was expected as {key!r} of {split!r}, found {reprlib.repr(value)}")
    return figures


def _expected(key: str, value: Any) -> str | None:
    """Returns what was expected as a figure in place of a value; None where that is what it should be."""
    if key in _WHOLE and not (is_whole_number(value) or (key == "step" and value is None)):
        return "a whole number"
    if key in _TEXTS and not isinstance(value, str):
        return "a text"
    if key == "top1_interval":
        ends = value if isinstance(value, list) else []
        if len(ends) != 2 or not all(map(_is_share, ends)) or ends[0] > ends[1]:
            return "two shares of 0 to 1, the smaller first,"
    return None


def is_number(value: Any) -> bool:
    """Says whether a value of JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole_number(value: Any) -> bool:
    """Says whether a value of JSON is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _predictions(path: Path) -> Predictions:
    found = Predictions.load(path)
    if not len(found.video):
        raise UserError(f"{path} holds no videos")
    return found


def _other_top1(predictions: Predictions, figures: Mapping[str, Any]) -> str:
    """Returns how top-1 of predictions is another than that of the figures; nothing where it is the same."""
    own = top_k(predictions.logits, predictions.label, 1)
    if math.isclose(own, figures["top1"], abs_tol=1e-6):
        return ""
    return f"a top-1 of {100 * figures['top1']:.1f}% there, of {100 * own:.1f}% here, which sections by class follow"


def _split(figures: Mapping[str, Any], asked: Any) -> str | None:
    if isinstance(asked, str) and asked in figures:
        return asked
    return list(figures)[-1] if figures else None


def _lines(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    """Returns what is step, split or number in the lines of metrics; notes how many cannot be read.

    The last one of a run at work may be cut short: that is no fault.
    """
    if not is_file(path):
        return []
    with opened(path) as file:
        content = file.read().splitlines()
    found, lost = [], 0
    for number, line in enumerate(content, 1):
        try:
            fields = parse_json(line, str(path))
        except UserError:
            lost += number < len(content)
            continue
        if isinstance(fields, dict) and is_whole_number(fields.get("step")) and isinstance(fields.get("split"), str):
            numbers = {key: value for key, value in fields.items() if is_number(value)}
            found.append({**numbers, "split": fields["split"]})
        else:
            lost += 1
    if lost:
        missing.append(f"Without {lost:,} of {len(content):,} lines of {path}, which cannot be read")
    return found
