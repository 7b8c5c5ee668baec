"""Which runs fill the cells of the paper's tables: each run once, those that others start from before them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from i3d_jax.study import published
from i3d_jax.system.errors import UserError, did_you_mean

# The datasets whose splits are numbered: their runs and cells are of each split.
SPLIT_DATASETS = ("ucf101", "hmdb51")
# What each architecture is trained on for a column of streams. The streams of I3D are trained apart and their logits
# added; RGB and flow of (c) and (d) are one network trained together (paper, section 2).
_VARIANTS = {
    "conv_lstm": {"rgb": ["conv_lstm"]},
    "c3d": {"rgb": ["c3d"]},
    "two_stream": {"rgb": ["two_stream_rgb"], "flow": ["two_stream_flow"], "rgb+flow": ["two_stream"]},
    "fused": {"rgb": ["fused_rgb"], "flow": ["fused_flow"], "rgb+flow": ["fused"]},
    "i3d": {"rgb": ["i3d_rgb"], "flow": ["i3d_flow"], "rgb+flow": ["i3d_rgb", "i3d_flow"]},
}
# The 3D-ConvNet alone has no ImageNet network to start from.
FROM_SCRATCH = ("c3d",)
ONLY_RGB = ("conv_lstm", "c3d")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training run.

    Attributes:
      dataset: "ucf101", "hmdb51", "minikinetics" or "kinetics": the recipe's file and the folder of the data.
      variant: of the recipe, such as "i3d_rgb_fixed".
      split: of UCF-101 and HMDB-51, 1 to 3.
      start: what it starts from: "imagenet", another run, or None for scratch.
    """

    dataset: str
    variant: str
    split: int | None = None
    start: PlannedRun | str | None = None

    @property
    def name(self) -> str:
        """Of its workdir; no two runs have the same."""
        parts = [self.dataset, self.variant]
        if self.split is not None:
            parts.append(f"split{self.split}")
        start = self.start
        if isinstance(start, PlannedRun):
            if start.dataset == "kinetics":
                parts.append("from_kinetics")
            start = start.start
        if self.dataset == "kinetics":
            parts.append("from_imagenet" if start else "from_scratch")
        elif start is None and not self.variant.startswith(FROM_SCRATCH):
            parts.append("from_scratch")
        return "-".join(parts)

    @property
    def needs_flow(self) -> bool:
        """Whether its dataset must have optical flow."""
        return not self.variant.startswith(ONLY_RGB) and "_rgb" not in self.variant


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table.

    Attributes:
      table, row, column: its place, as in `published`.
      published: the published number in percent, None where there is none.
      sums: for each split the runs whose logits are added; of a cell that is worked out from others, nothing.
      from_cells: those others: the columns of the same row.
    """

    table: str
    row: str
    column: str
    published: float | None
    sums: tuple[tuple[PlannedRun, ...], ...] = ()
    from_cells: tuple[str, ...] = ()


def cells(table: str, splits: Sequence[int]) -> list[Cell]:
    """Lists the cells of a table that some run fills, row by row."""
    numbers = published.numbers(table)
    found = []
    for row in published.ARCHITECTURES:
        for column in published.columns(table):
            filling = _filling(table, row, column, splits)
            if filling.get("sums") or filling.get("from_cells"):
                number = numbers.get((row, column))
                found.append(Cell(table=table, row=row, column=column, published=number, **filling))
    return found


def _filling(table: str, row: str, column: str, splits: Sequence[int]) -> dict[str, Any]:
    group, kind = column.split("/")
    if kind == "reduction":
        return {"from_cells": tuple(f"{group}/{other}" for other in published.TRANSFER_COLUMNS if other != kind)}
    if table in ("transfer", "transfer_from_kinetics"):
        dataset = group.removesuffix("_scratch")
        from_imagenet = dataset == group
        source = "minikinetics"
        if table == "transfer_from_kinetics":
            source = "kinetics"
            if from_imagenet and row in FROM_SCRATCH:
                return {}
        stream = "rgb" if row in ONLY_RGB else "rgb+flow"
        protocol = None if kind == "original" else kind
        return {
            "sums": _sums(
                dataset, _VARIANTS[row][stream], splits, protocol=protocol, source=source, from_imagenet=from_imagenet
            )
        }
    variants = _VARIANTS[row].get(kind, [])
    if table == "kinetics":
        if group == "imagenet" and row in FROM_SCRATCH:
            return {}
        return {"sums": _sums("kinetics", variants, splits, from_imagenet=group == "imagenet")}
    return {"sums": _sums(group, variants, splits)}


def _sums(
    dataset: str,
    variants: Sequence[str],
    splits: Sequence[int],
    *,
    protocol: str | None = None,
    source: str = "minikinetics",
    from_imagenet: bool = True,
) -> tuple[tuple[PlannedRun, ...], ...]:
    if not variants:
        return ()
    if dataset not in SPLIT_DATASETS:
        return (tuple(_run(dataset, variant, from_imagenet=from_imagenet) for variant in variants),)
    if protocol is None:
        return tuple(
            tuple(_run(dataset, variant, split, from_imagenet=from_imagenet) for variant in variants)
            for split in splits
        )
    starts = {variant: _run(source, variant, from_imagenet=from_imagenet) for variant in variants}
    return tuple(
        tuple(
            PlannedRun(dataset=dataset, variant=f"{variant}_{protocol}", split=split, start=starts[variant])
            for variant in variants
        )
        for split in splits
    )


def _run(dataset: str, variant: str, split: int | None = None, *, from_imagenet: bool = True) -> PlannedRun:
    start = "imagenet" if from_imagenet and variant not in FROM_SCRATCH else None
    return PlannedRun(dataset=dataset, variant=variant, split=split, start=start)


def chosen(
    tables: Sequence[str], splits: Sequence[int], *, rows: Sequence[str] = (), columns: Sequence[str] = ()
) -> list[Cell]:
    """Lists the cells of tables that are in some of the rows and columns.

    Args:
      tables: of `published.TITLES`.
      splits: of UCF-101 and HMDB-51.
      rows: architectures; none for all.
      columns: "GROUP/COLUMN", or "GROUP" for all columns of it; none for all.

    Raises:
      UserError: there is no such row or column (the nearest is named), or no cell is in both.
    """
    known = list(dict.fromkeys(column for table in tables for column in published.columns(table)))
    known = list(dict.fromkeys(column.partition("/")[0] for column in known)) + known
    for what, asked, there in (("row", rows, published.ARCHITECTURES), ("column", columns, known)):
        for one in asked:
            if one not in there:
                hint = did_you_mean(one, there, cutoff=0)
                raise UserError(f"there is no {what} {one!r}{hint}; the {what}s are {', '.join(there)}")
    found = [
        cell
        for table in tables
        for cell in cells(table, splits)
        if (not rows or cell.row in rows)
        and (not columns or cell.column in columns or cell.column.partition("/")[0] in columns)
    ]
    if not found:
        raise UserError(f"no network is trained for the row {', '.join(rows)} and the column {', '.join(columns)}")
    return found


def with_sources(chosen_cells: Sequence[Cell], splits: Sequence[int]) -> list[Cell]:
    """Returns cells and, before each that is worked out from others of its row, those others; each once."""
    places = {(cell.table, cell.row, cell.column): cell for table in published.TITLES for cell in cells(table, splits)}
    needed: dict[Cell, None] = {}
    for cell in chosen_cells:
        needed |= {places[cell.table, cell.row, column]: None for column in cell.from_cells}
        needed[cell] = None
    return list(needed)


def runs(needed_cells: Iterable[Cell]) -> list[PlannedRun]:
    """Lists the runs of cells, each once, behind the run that it starts from."""
    found: dict[PlannedRun, None] = {}
    for cell in needed_cells:
        for run in (run for one_sum in cell.sums for run in one_sum):
            if isinstance(run.start, PlannedRun):
                found[run.start] = None
            found[run] = None
    return list(found)
