"""The page of a run, or of several side by side."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from i3d_jax.data.dataset import Dataset
from i3d_jax.evaluation import protocol
from i3d_jax.report import against_paper, classes, curves, filters, page, plots, samples, scored, timelines
from i3d_jax.report.against_paper import Published
from i3d_jax.report.scored import Scored
from i3d_jax.report.workdir import Workdir, names_of, read
from i3d_jax.study import published
from i3d_jax.system.errors import UserError
from i3d_jax.system.terminal import duration


def page_of_workdirs(
    workdirs: Sequence[Path],
    *,
    video: Path | None = None,
    dataset: Dataset | None = None,
    split: str | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> str:
    """Returns the page of runs; what cannot be shown is a sentence of it.

    Args:
      workdirs: of the runs.
      video: a long one, of which each run's network tells what happens when.
      dataset: what a single run saw, where that is open already.
      split: which is shown; None for that of each run's recipe.
      tell: takes these sentences, too.

    Raises:
      UserError: one is no workdir, or is given twice; a file in it is damaged; or the video cannot be looked at.
    """
    if len({folder.resolve() for folder in workdirs}) < len(workdirs):
        raise UserError(
            f"workdirs of different runs were expected, found one twice among {', '.join(map(str, workdirs))}"
        )
    names = names_of(workdirs)
    runs = [read(folder, name, split=split, dataset=dataset) for folder, name in zip(workdirs, names, strict=True)]
    compared, problems = scored.of_runs(runs)
    own = [one for one in compared if len(one.runs) == 1]
    if sentence := scored.other_classes(own):
        problems.append(
            f"{sentence}. Their accuracies do not compare; by class, the gain is given where both have the class"
        )
    problems += [f"{run.name}: {sentence}" for run in runs for sentence in run.missing]
    animations = samples.Animations()
    sections = [page.Section("Accuracy", _accuracy(runs, compared))]
    if any(run.metrics for run in runs):
        sections.append(page.Section("Curves", curves.charts(runs, curves.CURVES, zoom=True)))
    if own:
        sections.append(page.Section("Classes", classes.table(compared)))
        sections.append(page.Section("Confusions", page.joined(_confusions(own))))
        by_name = {run.name: run for run in runs}
        cards = page.joined([samples.cards(by_name[one.title], one, animations) for one in own])
        button = [samples.stop_button()] if "<img" in cards else []
        sections.append(page.Section("Videos", page.joined([*map(_note, animations.problems), *button, cards])))
    if any(run.checkpoint for run in runs):
        sections.append(page.Section("First-layer filters", _filters(runs, problems)))
    if video is not None:
        sections.append(page.Section("Timeline", timelines.section(runs, video)))
    if any(run.metrics for run in runs):
        sections.append(page.Section("Throughput and waiting", _throughput(runs)))
    sections.append(page.Section("Recipe", _recipe(runs)))
    sections.append(page.Section("Provenance", _provenance(runs)))
    for sentence in (*problems, *animations.problems):
        tell(sentence)
    title = "Report of " + " and ".join(", ".join(names).rsplit(", ", 1) if len(names) < 3 else [", ".join(names)])
    lead = page.render(
        "run_lead.html", answers=[_answer(run) for run in runs], both=_both(compared, runs), problems=problems
    )
    return page.document(title, lead=lead, sections=sections, scripts=[plots.bundle()])


def _note(sentence: str) -> Markup:
    return page.paragraph(sentence, kind="note")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _answer(run: Workdir) -> dict[str, Any]:
    """What stands at the top of a run."""
    figures = run.figures
    if not figures:
        last = max((line["step"] for line in run.metrics), default=0)
        total = run.total_steps
        return {"name": run.name, "top1": None, "state": f"at step {last:,}" + (f" of {total:,}" if total else "")}
    counted = f"{figures['videos']:,} videos of {run.split!r}" if "videos" in figures else f"the split {run.split!r}"
    seen = scored.STREAMS.get(str(run.stream), "")
    return {
        "name": run.name,
        "what": ", ".join(filter(None, (run.model, seen))),
        "counted": counted,
        **_placed(figures["top1"], figures.get("top1_interval"), against_paper.of_runs([run])),
    }


def _both(compared: Sequence[Scored], runs: Sequence[Workdir]) -> list[dict[str, Any]]:
    """What two runs' streams are together, as `_answer` has it of a run."""
    return [
        {
            "name": f"Both: {one.title}",
            "what": "sum of the logits",
            "counted": f"{one.figures['videos']:,} videos",
            **_placed(
                one.figures["top1"],
                one.interval,
                against_paper.of_runs([run for run in runs if run.name in one.runs]),
            ),
        }
        for one in compared
        if len(one.runs) == 2
    ]


def _placed(top1: float, interval: Sequence[float] | None, known: Published | None) -> dict[str, Any]:
    """Where an accuracy lies between 0 and 100%, and how far from the published one, where the two compare."""
    shown: dict[str, Any] = {
        "top1": _percent(top1),
        "interval": f"95%: {100 * interval[0]:.1f} to {100 * interval[1]:.1f}%" if interval else "no interval is known",
        "span": [100 * end for end in interval] if interval else None,
        "at": 100 * top1,
        "published": None,
        "published_at": None,
        "notes": [],
    }
    if known is None:
        return shown
    shown["published"] = f"published: {_percent(known.top1)}"
    shown["notes"] = [known.source, *([published.ONE_SOURCE_NOTE] if published.ONE_SOURCE in known.source else [])]
    if known.differs:
        shown["notes"] += [f"Not compared: {'; '.join(known.differs)}"]
        return shown
    shown["published_at"] = 100 * known.top1
    points = f"{100 * (top1 - known.top1):+.1f}".replace("-", "−")
    within = interval is not None and interval[0] <= known.top1 <= interval[1]
    told = "" if interval is None else f"; it lies {'within' if within else 'outside of'} the interval"
    shown["published"] += f", here {points} points{told}"
    return shown


def _accuracy(runs: Sequence[Workdir], compared: Sequence[Scored]) -> Markup:
    columns = [page.Column("of")] + [
        page.Column(title, numeric=True)
        for title in ("top-1", "95% interval", "top-5", "mean class accuracy", "loss", "videos")
    ]
    rows: list[list[page.Cell | str]] = []
    for run in runs:
        for split, own in run.results.items():
            title = run.name if split == run.split else f"{run.name}, split {split}"
            rows.append(_row(title, own, own.get("top1_interval")))
    rows += [_row(one.title, one.figures, one.interval) for one in compared if len(one.runs) != 1]
    if not rows:
        return page.paragraph("No run has been evaluated yet.")
    parts = [page.table("All figures", columns, rows)]
    parts += [
        page.paragraph(f"{run.name}: {_of_step(run)}{protocol.text(described)}", kind="note")
        for run in runs
        if run.figures and (described := run.protocol) is not None
    ]
    parts += [_agreement(one, other) for one, other in _pairs(compared)]
    return page.joined(parts)


def _of_step(run: Workdir) -> str:
    step = run.figures.get("step")
    return "" if step is None else f"step {step:,}, "


def _row(title: str, figures: Any, interval: Any) -> list[page.Cell | str]:
    shown = f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "–"
    shares = [page.Cell(_percent(figures[key]), figures[key]) for key in ("top1", "top5", "mean_class_accuracy")]
    videos = figures.get("videos", "")
    return [
        title,
        shares[0],
        page.Cell(shown, interval[0] if interval else ""),
        *shares[1:],
        page.Cell(f"{figures['loss']:.3f}", figures["loss"]),
        page.Cell(f"{videos:,}" if videos != "" else "–", videos),
    ]


def _pairs(compared: Sequence[Scored]) -> list[tuple[Scored, Scored]]:
    """The first two runs, or the two streams of one run, if they are of the same videos."""
    own = [one for one in compared if len(one.runs) == 1]
    alone = [one for one in compared if not one.runs]
    pair = own[:2] if len(own) > 1 else alone[:2]
    if len(pair) < 2 or pair[0].classes != pair[1].classes:
        return []
    names = [set(one.predictions.video.tolist()) for one in pair]
    return [(pair[0], pair[1])] if names[0] == names[1] and len(names[0]) == len(pair[0].predictions.video) else []


def _agreement(one: Scored, other: Scored) -> Markup:
    """How many videos both name right, one alone, and neither."""
    right = [dict(zip(own.predictions.video.tolist(), own.right.tolist(), strict=True)) for own in (one, other)]
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for video, own in right[0].items():
        counts[own, right[1][video]] += 1
    titles = {
        (True, True): "both",
        (True, False): f"{one.title} alone",
        (False, True): f"{other.title} alone",
        (False, False): "neither",
    }
    total = len(right[0])
    rows: list[list[page.Cell | str]] = [
        [title, page.Cell(page.bar(counts[key] / total, text=f"{counts[key]:,}"), counts[key])]
        for key, title in titles.items()
    ]
    columns = [page.Column("named right by"), page.Column("videos", numeric=True, bars=True)]
    return page.table(f"Which of the {total:,} videos are named right by which", columns, rows, sortable=False)


def _confusions(own: Sequence[Scored]) -> list[Markup]:
    if len(own) == 1:
        return [classes.confusion(own[0])]
    return [part for one in own for part in (page.heading(one.title), classes.confusion(one))]


def _filters(runs: Sequence[Workdir], problems: list[str]) -> Markup:
    parts = []
    for run in runs:
        try:
            parts += [filters.section(run)] if run.checkpoint else []
        except UserError as error:
            problems.append(f"{run.name}: {error}")
            parts.append(_note(f"{run.name}: {error}"))
    return page.joined(parts)


def _throughput(runs: Sequence[Workdir]) -> Markup:
    rows: list[list[page.Cell | str]] = []
    for run in runs:
        lines = [
            line for line in run.metrics if line.get("clips_per_second") and line.get("data_wait_share") is not None
        ]
        if not lines:
            continue
        rates, waits = (np.array([line[key] for line in lines]) for key in ("clips_per_second", "data_wait_share"))
        size, steps = run.batch_size, max(line["step"] for line in lines)
        seconds = size * steps / np.median(rates) if size else None
        rows.append(
            [
                run.name,
                page.Cell(f"{np.median(rates):.1f}", float(np.median(rates))),
                page.Cell(_percent(float(np.median(waits))), float(np.median(waits))),
                page.Cell(duration(seconds) if seconds else "–", seconds or ""),
            ]
        )
    columns = [page.Column("run"), page.Column("clips a second", numeric=True)]
    columns += [page.Column("waiting for data", numeric=True), page.Column("time at that rate", numeric=True)]
    tables = [page.table("Medians over training", columns, rows)] if rows else []
    return page.joined([*tables, curves.charts(runs, curves.THROUGHPUT, zoom=False)])


def _recipe(runs: Sequence[Workdir]) -> Markup:
    known = [run for run in runs if run.recipe]
    if not known:
        return page.paragraph("No workdir has a config.json, which holds the recipe.")
    keys = list(dict.fromkeys(key for run in known for key in run.recipe))
    differs = {key: len({repr(run.recipe.get(key, "absent")) for run in known}) > 1 for key in keys}
    keys.sort(key=lambda key: not differs[key])
    several = len(known) > 1
    columns = [page.Column("key")] + [page.Column(run.name) for run in known]
    rows: list[list[page.Cell | str]] = []
    for key in keys:
        row: list[page.Cell | str] = [key, *(_value(run.recipe.get(key, "absent")) for run in known)]
        rows.append([*row, "differs" if differs[key] else "same"] if several else row)
    if several:
        columns.append(page.Column("between the runs", filtered=True))
    count = sum(differs.values())
    told = f"{count} of {len(keys)} keys differ{'s' * (count == 1)} between the runs; they stand first."
    said = page.paragraph(told if count else f"All {len(keys)} keys are the same.")
    return page.joined([*([said] if several else []), page.table("The recipe", columns, rows, searched=True)])


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    return "none" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _provenance(runs: Sequence[Workdir]) -> Markup:
    columns = [page.Column("")] + [page.Column(run.name) for run in runs]
    facts = [_facts(run) for run in runs]
    rows: list[list[page.Cell | str]] = [
        [title, *(own.get(title, "–") for own in facts)] for title in dict.fromkeys(key for own in facts for key in own)
    ]
    return page.table("Where this comes from", columns, rows, sortable=False)


def _facts(run: Workdir) -> dict[str, str]:
    facts = {"workdir": str(run.folder.resolve())}
    if run.dataset is not None:
        facts["dataset"] = f"{run.dataset.name}, {run.dataset.directory.resolve()}"
    if run.checkpoint is not None:
        facts["checkpoint"] = run.checkpoint.name
    if run.description is not None:
        facts["network"] = f"{run.description.model}, {run.description.num_classes:,} classes"
        facts |= {
            key.replace("_", " "): _value(value)
            for key, value in run.description.provenance.items()
            if not isinstance(value, dict)
        }
    path = run.folder / "results.json"
    if run.results:
        seen = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
        facts["evaluated"] = f"{seen:%Y-%m-%d %H:%M} UTC"
        facts |= {key: _value(run.figures[key]) for key in ("precision",) if key in run.figures}
    return facts
