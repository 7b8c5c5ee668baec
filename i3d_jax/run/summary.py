"""What a run prints at its end: what it did, where things are and what to try next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from i3d_jax.evaluation import protocol
from i3d_jax.system.files import is_file, opened
from i3d_jax.system.terminal import duration

if TYPE_CHECKING:
    from i3d_jax.run.run import Run


def figures_text(split: str, figures: Mapping[str, Any]) -> str:
    """Writes a split's figures, as `results.json` holds them, in one line."""
    interval = ""
    # Figures of the time before have none.
    if "top1_interval" in figures:
        lowest, highest = (100 * end for end in figures["top1_interval"])
        interval = f" (95%: {lowest:.1f} to {highest:.1f})"
    text = (
        f"{split}: top-1 {100 * figures['top1']:.1f}%{interval}, top-5 {100 * figures['top5']:.1f}%, "
        f"mean class accuracy {100 * figures['mean_class_accuracy']:.1f}%, loss {figures['loss']:.3f}, "
        f"{figures['videos']} videos"
    )
    return text + (f", {figures['damaged']} damaged ones skipped" if figures["damaged"] else "")


def stream_rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns a row (name, top-1 and top-5) for each stream alone and one for both; none without such figures.

    Args:
      figures: a split's, as `results.json` holds them.
    """
    if "streams" not in figures:
        return []
    titles = {"rgb": "RGB", "flow": "flow"}
    rows = {f"{titles[stream]} alone": own for stream, own in figures["streams"].items()}
    rows[" + ".join(titles[stream] for stream in figures["streams"])] = figures
    return [(name, f"top-1 {100 * own['top1']:5.1f}%, top-5 {100 * own['top5']:5.1f}%") for name, own in rows.items()]


def summary(run: Run, *, best: int | None, seconds: float) -> str:
    """Writes the table that ends a training run; the figures are those in `results.json`."""
    workdir, dataset, split = run.workdir, run.dataset, run.evaluation.split
    figures = run.evaluation.stored()
    steps = figures["step"]
    rows = [
        (
            "trained",
            f"{steps} steps of {run.clips.options.batch_size} clips, "
            f"on {dataset.videos(run.clips.split)} videos of {dataset.name!r}",
        ),
        ("accuracy", figures_text(split, figures)),
        ("", "of videos that it was trained on") if run.evaluation.seen_in_training(run.clips.split) else None,
        *stream_rows(figures),
        ("protocol", protocol.text(run.evaluation.described())),
        ("time", duration(seconds)),
        ("checkpoint", str(workdir / "checkpoints" / str(steps))),
        ("best so far", f"step {best}") if best != steps else None,
        ("figures", str(workdir / "results.json")),
        ("predictions", str(workdir / "predictions" / f"{split}.npz")),
        ("report", str(workdir / "report.html")) if run.reports and is_file(workdir / "report.html") else None,
        ("curves", f"tensorboard --logdir {shlex.quote(str(workdir))}"),
        ("dataset", str(dataset.directory)),
    ]
    lines = [""] + [f"  {name:12s} {text}" for name, text in filter(None, rows)]
    if dataset.preprocessing.unknown_fields:
        return "\n".join(lines)  # `predict` could not prepare a video as these frames were
    video = "VIDEO"
    if run.draws_its_data:
        with opened(workdir / "predictions" / f"{split}.npz") as file:
            name = str(np.load(file)["video"][0])
        video = shlex.quote(str(dataset.directory.parent / "videos" / name))
    lines += ["", "Now let it name the action in a video:"]
    lines += [f"  python -m i3d_jax.predict {video} --checkpoint {shlex.quote(str(workdir))}"]
    return "\n".join(lines)
