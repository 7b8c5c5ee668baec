"""Curves over the steps of training, which the reader can look into more closely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from i3d_jax.report import page, plots
from i3d_jax.report.workdir import Workdir

# Points of a curve: more than a screen has columns for it.
MOST_POINTS = 600
# The split of the training's own steps, which alone have these values.
TRAIN = "train"
CURVES = (
    ("loss", "Loss", "nats"),
    ("top1", "Top-1", "%"),
    ("learning_rate", "Learning rate", ""),
    ("gradient_norm", "Norm of the gradient", ""),
)
THROUGHPUT = (
    ("clips_per_second", "Throughput", "clips a second"),
    ("data_wait_share", "Waiting for data", "% of time"),
)
_PERCENT = ("top1", "data_wait_share")


def charts(runs: Sequence[Workdir], what: Sequence[tuple[str, str, str]], *, zoom: bool) -> Markup:
    """Returns plots of values in `metrics.jsonl`, one each, with all runs in it; nothing where there are no values.

    Args:
      runs: whose curves.
      what: (the value's name, the title, the unit) of each.
      zoom: whether there are fields that choose the steps shown, of all of them at once.
    """
    steps = [line["step"] for run in runs for line in run.metrics]
    made = [one for key, title, unit in what if (one := _chart(runs, key, title, unit, steps))]
    if not made:
        return page.paragraph("metrics.jsonl holds no such values.", kind="note")
    return page.render("curves.html", charts=made, zoom=zoom and len(set(steps)) > 1, first=min(steps), last=max(steps))


def _chart(runs: Sequence[Workdir], key: str, title: str, unit: str, steps: Sequence[int]) -> Markup | None:
    values: list[dict[str, Any]] = []
    told = []
    looks: dict[str, tuple[str, Sequence[int]]] = {}
    factor = 100 if key in _PERCENT else 1
    for own, run in enumerate(runs):
        for part, split in enumerate(dict.fromkeys(line["split"] for line in run.metrics)):
            points = [
                (line["step"], factor * line[key]) for line in run.metrics if line["split"] == split and key in line
            ]
            if not points:
                continue
            name = {"train": "training"}.get(split, split)
            name = name if len(runs) == 1 else f"{run.name}, {name}"
            # Of several runs each has one colour in all plots and tables; no two curves have the same dashes.
            colour = own if len(runs) > 1 else part
            looks[name] = plots.SERIES[colour % len(plots.SERIES)], plots.DASHES[len(looks) % len(plots.DASHES)]
            values += [{"step": step, "value": value, "curve": name} for step, value in thinned(points)]
            told.append(
                f"{name} from {points[0][1]:.4g} at step {points[0][0]} to {points[-1][1]:.4g} at {points[-1][0]}"
            )
    if not values:
        return None
    shown = f"{title} ({unit})" if unit else title
    return plots.figure(
        shown,
        _spec(
            values,
            looks,
            shown,
            steps,
            log=key in ("learning_rate", "gradient_norm") and all(v["value"] > 0 for v in values),
        ),
        description=f"{shown} over the steps of training: {'; '.join(told)}",
        height=260,
    )


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Returns points of a curve, at most `MOST_POINTS`: means over neighbours, at the last step of each group."""
    if len(points) <= MOST_POINTS:
        return list(points)
    groups = np.array_split(np.arange(len(points)), MOST_POINTS)
    return [(points[own[-1]][0], float(np.mean([points[number][1] for number in own]))) for own in groups]


def _spec(
    values: Sequence[Mapping[str, Any]],
    looks: Mapping[str, tuple[str, Sequence[int]]],
    title: str,
    steps: Sequence[int],
    *,
    log: bool,
) -> dict[str, Any]:
    curves = list(looks)
    alone = [name for name in curves if sum(one["curve"] == name for one in values) < 3]
    several = len(curves) > 1
    colours, dashes = [colour for colour, _ in looks.values()], [list(dash) for _, dash in looks.values()]
    told = [{"field": "step", "title": "step"}, {"field": "value", "title": title, "format": ".4~g"}]
    encoding: dict[str, Any] = {
        "x": {
            "field": "step",
            "type": "quantitative",
            "title": "step",
            "scale": {"domain": [{"expr": "first"}, {"expr": "last"}], "nice": False},
            "axis": {"tickCount": 6, "grid": False, "format": "~s" if max(steps) >= 10_000 else ",d"},
        },
        "y": {
            "field": "value",
            "type": "quantitative",
            "title": None,
            "scale": {"type": "log"} if log else {"zero": False},
            "axis": {"tickCount": 3 if log else 5, "format": ".4~g"},
        },
        "color": {
            "field": "curve",
            "type": "nominal",
            "scale": {"domain": curves, "range": colours},
            "legend": {"columns": 1} if several else None,
        },
        "tooltip": [{"field": "curve", "title": "curve"}, *told],
    }
    dashed = {"field": "curve", "scale": {"domain": curves, "range": dashes}}
    layers: list[dict[str, Any]] = [
        {
            "params": [{"name": "brush", "select": {"type": "interval", "encodings": ["x"]}}],
            "mark": {"type": "line", "clip": True, "strokeWidth": 2, "aria": False},
            "encoding": {"strokeDash": dashed} if several else {},
        }
    ]
    if alone:
        # An evaluation or two make no line.
        points = {"type": "point", "filled": True, "size": 70, "opacity": 1, "aria": False}
        layers.append({"transform": [{"filter": {"field": "curve", "oneOf": alone}}], "mark": points})
    return {
        "params": [{"name": "first", "value": min(steps)}, {"name": "last", "value": max(max(steps), min(steps) + 1)}],
        "data": {"values": list(values)},
        "transform": [{"filter": "datum.step >= first && datum.step <= last"}],
        "encoding": encoding,
        "layer": layers,
    }
