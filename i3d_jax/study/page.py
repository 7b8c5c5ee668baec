"""The page of a study: the paper's tables beside the published ones, cell by cell, and the runs behind them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from i3d_jax.report import page
from i3d_jax.study import published
from i3d_jax.study.plan import PlannedRun
from i3d_jax.study.state import NOT_BEGUN, Outcome, RunState, of_tables

NARROW_NOTE = (
    "Networks here have fewer channels than the paper's: their numbers cannot be compared with the published ones"
    " (docs/experiments.md)."
)


def page_of_study(output: Path) -> str:
    """Returns the page of a study, finished or not, by what its folder holds.

    Args:
      output: the folder; links to the runs' own pages are relative to it.

    Raises:
      UserError: it is no study's folder.
    """
    outcomes, states = of_tables(output)
    names = dict.fromkeys(one.filled.cell.table for one in outcomes)
    sections = [
        page.Section(published.TITLES[name], _table(name, [o for o in outcomes if o.filled.cell.table == name], states))
        for name in names
    ]
    sections.append(page.Section("Runs", _runs(states.values(), output)))
    title = f"The paper's tables: {output.resolve().name}"
    return page.document(title, lead=_lead(outcomes, states), sections=sections)


def _lead(outcomes: Sequence[Outcome], states: Mapping[str, RunState]) -> Markup:
    differences = [
        one.filled.value - one.filled.cell.published
        for one in outcomes
        if one.filled.value is not None and one.filled.cell.published is not None and not one.filled.cell.from_cells
    ]
    of_chance = [_of_chance(one) for one in outcomes]
    narrow = any(one.narrow for one in states.values())
    finished = sum(one.figures is not None for one in states.values())
    return page.render(
        "study_lead.html",
        measured=sum(one.filled.value is not None for one in outcomes),
        cells=len(outcomes),
        median=f"{_median(differences):+.1f}".replace("-", "−") if differences and not narrow else "–",
        within=sum(one is True for one in of_chance),
        compared=sum(one is not None for one in of_chance),
        finished=finished,
        runs=len(states),
        under_way=[one for one in states.values() if one.text == "under way"],
        note=NARROW_NOTE if narrow else "",
    )


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _of_chance(outcome: Outcome) -> bool | None:
    """Whether the published number lies within the interval of the measured one; None where either is missing."""
    number = outcome.filled.cell.published
    if outcome.interval is None or number is None:
        return None
    lowest, highest = outcome.interval
    return lowest <= number <= highest


def _table(name: str, outcomes: Sequence[Outcome], states: Mapping[str, RunState]) -> Markup:
    at = {(one.filled.cell.row, one.filled.cell.column): one for one in outcomes}
    reasons: dict[str, int] = {}
    groups = []
    for group, title in published.GROUPS[name].items():
        columns = [column for column in published.columns(name) if column.partition("/")[0] == group]
        columns = [column for column in columns if any(place[1] == column for place in at)]
        rows = [
            (published.ARCHITECTURES[row], [_cell(at.get((row, column)), states, reasons) for column in columns])
            for row in published.ARCHITECTURES
            if any((row, column) in at for column in columns)
        ]
        titles = [published.COLUMNS[name][column.partition("/")[2]] for column in columns]
        groups.append({"title": title, "columns": titles, "rows": rows})
    marked = any(published.of_one_source(name, *place) for place in at)
    return page.render(
        "study_table.html",
        name=name,
        groups=groups,
        reasons=reasons,
        one_source=published.ONE_SOURCE_NOTE if marked else "",
    )


def _cell(outcome: Outcome | None, states: Mapping[str, RunState], reasons: dict[str, int]) -> dict[str, Any] | None:
    """What the template shows of a cell; None where the paper has none."""
    if outcome is None:
        return None
    filled = outcome.filled
    number, value = filled.cell.published, filled.value
    marked = published.of_one_source(filled.cell.table, filled.cell.row, filled.cell.column)
    shown: dict[str, Any] = {
        "published": None if number is None else _text(number) + published.ONE_SOURCE * marked,
        "value": None if value is None else _text(value),
        "links": [],
    }
    if value is None:
        reason = filled.reason or NOT_BEGUN
        # What is worked out from cells that have not begun has not either.
        named = None if reason.endswith(NOT_BEGUN) else reasons.setdefault(reason, len(reasons) + 1)
        return {**shown, "reason": named}
    if number is not None:
        of_chance = _of_chance(outcome)
        shown["difference"] = _text(value - number, signed=True)
        shown["kind"] = "" if of_chance is not False else ("up" if value > number else "down")
    if outcome.interval is not None:
        lowest, highest = outcome.interval
        shown["interval"] = f"{lowest:.1f}–{highest:.1f}"
        shown |= {"low": f"{lowest:.2f}", "wide": f"{highest - lowest:.2f}", "at": f"{value:.2f}"}
        shown["tick"] = None if number is None else f"{number:.2f}"
    for run in (run for one_sum in filled.cell.sums for run in one_sum):
        shown["links"].append((_of_which(run), _link(states[run.name])))
    return shown


def _text(number: float, *, signed: bool = False) -> str:
    return (f"{number:+.1f}" if signed else f"{number:.1f}").replace("-", "−")


def _of_which(run: PlannedRun) -> str:
    stream = next((title for part, title in (("_rgb", "RGB"), ("_flow", "flow")) if part in run.variant), "run")
    return stream if run.split is None else f"{stream}, split {run.split}"


def _link(state: RunState) -> str | None:
    """The way from the study's folder to a run's own page, where there is one."""
    return None if state.report is None else f"runs/{state.run.name}/{state.report.name}"


def _runs(states: Sequence[RunState] | Any, output: Path) -> Markup:
    columns = [
        page.Column("Run"),
        page.Column("State", filtered=True),
        page.Column("Dataset", filtered=True),
        page.Column("Starts from"),
        page.Column("Step", numeric=True),
        page.Column("Top-1, %", numeric=True),
        page.Column("95%"),
        page.Column("Videos", numeric=True),
    ]
    rows = [_row(state) for state in states]
    without = any(state.figures is not None and state.report is None for state in states)
    command = f"python -m i3d_jax.report --workdir {shlex.quote(str(output / 'runs' / 'NAME'))}"
    note = f"A run without a link has no page of its own yet: {command} writes it." if without else ""
    return page.table("Each run is trained once, whatever cells it fills.", columns, rows, searched=True, note=note)


def _row(state: RunState) -> list[page.Cell | str]:
    run, figures, link = state.run, state.figures or {}, _link(state)
    name = run.name if link is None else Markup('<a href="{}">{}</a>').format(link, run.name)
    start = (
        run.start.name if isinstance(run.start, PlannedRun) else {"imagenet": "ImageNet", None: "scratch"}[run.start]
    )
    top1, interval = figures.get("top1"), figures.get("top1_interval")
    step = "–" if state.total_steps is None else f"{state.step:,} of {state.total_steps:,}"
    return [
        page.Cell(name, run.name),
        state.text,
        run.dataset,
        start,
        page.Cell(step, "" if state.total_steps is None else state.step),
        page.Cell("–", "") if top1 is None else page.Cell(f"{100 * top1:.1f}", top1),
        "–" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}",
        page.Cell(str(figures["videos"]), figures["videos"]) if figures else page.Cell("–", ""),
    ]
