"""What the runs and cells of a study have come to, told by its folder alone: no dataset has to be there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i3d_jax import checkpoint
from i3d_jax.evaluation import results
from i3d_jax.evaluation.accuracy import bootstrap_interval, top_k
from i3d_jax.evaluation.fusion import fuse
from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.study import published, table
from i3d_jax.study.plan import Cell, PlannedRun, cells, runs
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_file, is_folder, read_object
from i3d_jax.training.optimizer import make_plateau

NOT_BEGUN = "not begun"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunState:
    """What a run has come to.

    Attributes:
      run: the run.
      workdir: where it stands, or would.
      text: "finished", "under way", "not begun", or why its folder cannot be read.
      step: of its newest checkpoint, 0 before the first.
      total_steps: of its recipe; None if it has not begun.
      split: that its figures are of.
      figures: of the last step, as `results.json` holds them; None before its end.
      narrow: whether the network has fewer channels than the paper's.
    """

    run: PlannedRun
    workdir: Path
    text: str = NOT_BEGUN
    step: int = 0
    total_steps: int | None = None
    split: str | None = None
    figures: Mapping[str, Any] | None = None
    narrow: bool = False

    @property
    def report(self) -> Path | None:
        """Its own page, where there is one."""
        path = self.workdir / "report.html"
        return path if is_file(path) else None


def of_run(output: Path, run: PlannedRun) -> RunState:
    """Looks at the workdir of a run in a study's folder."""
    workdir = output / "runs" / run.name
    if not is_file(workdir / "config.json"):
        return RunState(run=run, workdir=workdir)
    try:
        return _begun(run, workdir)
    except (UserError, KeyError, TypeError) as error:
        return RunState(run=run, workdir=workdir, text=f"cannot be read: {error}")


def _begun(run: PlannedRun, workdir: Path) -> RunState:
    config = read_object(workdir / "config.json")
    checkpoints = workdir / "checkpoints"
    step = max(checkpoint.steps_in(checkpoints), default=0) if is_folder(checkpoints) else 0
    state = RunState(
        run=run,
        workdir=workdir,
        text="under way",
        step=step,
        total_steps=config["total_steps"],
        narrow=config["model"]["width_multiplier"] != 1,
    )
    split = config["evaluation"]["split"] or (run.split and f"test0{run.split}")
    found = results.read(workdir / "results.json")
    figures = {name: own for name, own in found.items() if split in (None, name) and own["step"] == step}
    if not figures or not _is_last(config, checkpoints / str(step), step):
        return state
    split, own = next(iter(figures.items()))
    return dataclasses.replace(state, text="finished", split=split, figures=own)


def _is_last(config: Mapping[str, Any], directory: Path, step: int) -> bool:
    optimizer = config["optimizer"]
    if step == config["total_steps"] or not optimizer["plateau_stop"]:
        return step == config["total_steps"]
    plateau = make_plateau(
        patience=optimizer["plateau_patience"], factor=optimizer["plateau_factor"], stop=optimizer["plateau_stop"]
    )
    return plateau.ends(checkpoint.Description.read(directory).provenance.get("rate_scale", 1.0))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a cell has come to.

    Attributes:
      filled: its number in percent, or why there is none.
      interval: where it lies at 95%, in percent, by resampling the videos; None where that is not known.
    """

    filled: table.Filled
    interval: tuple[float, float] | None = None


def of_tables(output: Path) -> tuple[list[Outcome], dict[str, RunState]]:
    """Returns every cell of the tables that a study has begun, and the runs that they need by name.

    A finished run's own figures come before those of `table.csv`, which may be of an earlier time.

    Raises:
      UserError: `table.csv` is something else, or there is neither a table nor a run.
    """
    earlier = {_place(one.cell): one for one in table.from_csv(output / "table.csv")}
    there = {path.name for path in (output / "runs").iterdir()} if is_folder(output / "runs") else set()
    if not earlier and not there:
        raise UserError(f"a study was expected in {output}, with table.csv or runs/; found neither")
    shown = _shown(earlier, there)
    states = {run.name: of_run(output, run) for run in runs(shown)}
    outcomes: dict[tuple[str, str, str], Outcome] = {}
    for cell in shown:
        if not cell.from_cells:
            outcomes[_place(cell)] = _outcome(cell, earlier.get(_place(cell)), states)
    plain = {place: outcome.filled for place, outcome in outcomes.items()}
    for one in table.merge(list(plain.values()), [table.Filled(cell) for cell in shown if cell.from_cells]):
        outcomes.setdefault(_place(one.cell), Outcome(one))
    return [outcomes[_place(cell)] for cell in shown], states


def _place(cell: Cell) -> tuple[str, str, str]:
    return cell.table, cell.row, cell.column


def _shown(earlier: Mapping[tuple[str, str, str], table.Filled], there: set[str]) -> list[Cell]:
    """Every cell of each table that has a number already, or a run of which no table before it has need."""
    splits = sorted({int(split) for name in there for split in "123" if f"-split{split}" in name}) or [1]
    shown: list[Cell] = []
    before: set[str] = set()
    for name in published.TITLES:
        own = cells(name, splits)
        needed = {run.name for run in runs(own)}
        if any(place[0] == name for place in earlier) or there & (needed - before):
            # A number is of the splits that it was filled with.
            shown += [earlier[_place(cell)].cell if _place(cell) in earlier else cell for cell in own]
        before |= needed
    return shown


def _outcome(cell: Cell, earlier: table.Filled | None, states: Mapping[str, RunState]) -> Outcome:
    lacking = [run.name for one in cell.sums for run in one if states[run.name].figures is None]
    if lacking:
        if earlier is not None:
            return Outcome(earlier)
        told = [f"{name} {states[name].text}" for name in lacking if states[name].text != NOT_BEGUN]
        return Outcome(table.Filled(cell, reason="; ".join(told) or NOT_BEGUN))
    try:
        scored = [_scored([states[run.name] for run in one]) for one in cell.sums]
    except UserError as error:
        return Outcome(table.Filled(cell, reason=str(error)))
    value = sum(top1 for top1, _ in scored) / len(scored)
    return Outcome(table.Filled(cell, value), scored[0][1] if len(scored) == 1 else None)


def _scored(states: Sequence[RunState]) -> tuple[float, tuple[float, float] | None]:
    """The top-1 accuracy in percent, and its interval, of a run or of the sum of two."""
    if len(states) == 1:
        figures = states[0].figures
        assert figures is not None
        if "top1_interval" not in figures:
            return 100 * figures["top1"], None
        lowest, highest = figures["top1_interval"]
        return 100 * figures["top1"], (100 * lowest, 100 * highest)
    files = [state.workdir / "predictions" / f"{state.split}.npz" for state in states]
    first, second = map(Predictions.load, files)
    fused = fuse(first, second, names=[str(file) for file in files])
    lowest, highest = bootstrap_interval(fused.logits, fused.label)
    return 100 * top_k(fused.logits, fused.label, 1), (100 * lowest, 100 * highest)
