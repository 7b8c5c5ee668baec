"""What the networks of the runs say of a long video, from its start to its end."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

import i3d_jax
from i3d_jax.inference.answers import answers
from i3d_jax.inference.loaded import STRIDE, WINDOW
from i3d_jax.inference.timeline import Stretch
from i3d_jax.inference.videos import VideosBar
from i3d_jax.report import page, plots
from i3d_jax.report.workdir import Workdir
from i3d_jax.system.errors import UserError
from i3d_jax.video.plans import Sliding

# Labels and strips of the plot, and rows of the table.
MOST_LABELS, MOST_WINDOWS, MOST_ROWS = 8, 600, 300
# Classes of each window that are told apart: others count as 0.
NAMED = 5


def section(runs: Sequence[Workdir], video: Path) -> Markup:
    """Returns a plot and a table for each run that has a checkpoint.

    Raises:
      UserError: none has one, or the video cannot be looked at.
    """
    parts = []
    for run in runs:
        if run.checkpoint is None:
            continue
        network = i3d_jax.load(run.checkpoint)
        # Of networks of shorter clips the evaluation's window, a quarter of it apart.
        window = min(WINDOW, int(network.preprocessing["frames"]))
        plan = Sliding(window, min(STRIDE, max(window // 4, 1)))
        with VideosBar(f"looking at {video.name}", 1, stays=False) as bar:
            [found] = answers([network], [str(video)], plan, bar=bar)
        if isinstance(found, UserError):
            raise found
        moments = found.to_json(NAMED, timeline=True)["timeline"]
        table = _table(found.stretches(), video.name)
        parts += [page.heading(f"{video.name}: {run.name}"), _plot(moments, video.name), table]
    if not parts:
        raise UserError(f"--video {video}: a workdir with a checkpoint was expected, of which to ask the network")
    return page.joined(parts)


def _plot(moments: Sequence[Mapping[str, Any]], name: str) -> Markup:
    totals: dict[str, float] = {}
    for one in moments:
        totals[one["label"]] = totals.get(one["label"], 0) + one["probability"]
    labels = sorted(totals, key=lambda label: -totals[label])[:MOST_LABELS]
    end = moments[-1]["end"]
    spec = {
        "data": {"values": _strips(moments, labels)},
        "mark": {"type": "rect", "aria": False, "color": plots.SERIES[0]},
        "encoding": {
            "x": {
                "field": "s",
                "type": "quantitative",
                "title": "seconds",
                "scale": {"domain": [0, end], "nice": False},
                "axis": {"grid": False, "tickCount": 8},
            },
            "x2": {"field": "e"},
            "y": {
                "field": "label",
                "type": "nominal",
                "title": None,
                "scale": {"domain": labels},
                "axis": {"labelLimit": 150, "grid": True, "tickBand": "extent", "ticks": False},
            },
            "opacity": {
                "field": "p",
                "type": "quantitative",
                "scale": {"domain": [0, 100], "range": [0, 1]},
                "legend": None,
            },
            "tooltip": [
                {"field": "label", "title": "action"},
                {"field": "s", "format": ".1f", "title": "from second"},
                {"field": "p", "format": ".1f", "title": "probability (%)"},
            ],
        },
    }
    told = f"Probability over the seconds of {name}, of {', '.join(labels)}; the table has the stretches"
    title = "The actions that are named most: the stronger the colour, the larger the probability"
    return plots.figure(title, spec, description=told, height=70 + 26 * len(labels))


def _strips(moments: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the probability (%) of labels from one window's middle to the next; of long videos means over several."""
    middles = [(one["start"] + one["end"]) / 2 for one in moments]
    edges = [0.0, *((one + other) / 2 for one, other in itertools.pairwise(middles)), float(moments[-1]["end"])]
    strips = []
    for own in np.array_split(np.arange(len(moments)), min(len(moments), MOST_WINDOWS)):
        for label in labels:
            chances = [
                next((named["probability"] for named in moments[at]["predictions"] if named["label"] == label), 0.0)
                for at in own
            ]
            # What is fainter is not seen.
            if (chance := 100 * float(np.mean(chances))) >= 1:
                start, end = (round(edges[at], 3) for at in (own[0], own[-1] + 1))
                strips.append({"s": start, "e": end, "p": round(chance, 1), "label": label})
    return strips


def _table(stretches: Sequence[Stretch], name: str) -> Markup:
    rows: list[list[page.Cell | str]] = [
        [
            page.Cell(f"{one.start:.1f} to {one.end:.1f} s", one.start),
            one.label,
            page.Cell(page.bar(one.probability, text=f"{100 * one.probability:.1f}%"), one.probability),
        ]
        for one in stretches
    ]
    note = "Neighbouring windows that are named alike, joined."
    if len(rows) > MOST_ROWS:
        note += f" Of {len(rows):,} stretches these are the first {MOST_ROWS}."
    columns = [page.Column("from, to"), page.Column("action"), page.Column("mean probability", numeric=True, bars=True)]
    return page.table(f"What happens when in {name}", columns, rows[:MOST_ROWS], searched=True, note=note)
