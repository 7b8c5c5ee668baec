"""The tables beside the published ones: as text, as Markdown, as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from i3d_jax.study import published
from i3d_jax.study.plan import Cell, cells, runs
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import instead, opened, refuse_unreadable

CSV_COLUMNS = ("table", "row", "column", "value", "published", "difference", "runs", "splits", "reason")


@dataclasses.dataclass(frozen=True)
class Filled:
    """A cell and what was found for it.

    Attributes:
      cell: the cell.
      value: in percent; None if there is none.
      reason: why there is none, one sentence.
    """

    cell: Cell
    value: float | None = None
    reason: str | None = None


def fill(needed: Sequence[Cell], measured: Mapping[Cell, float | str]) -> list[Filled]:
    """Fills the cells, those that are worked out from others too.

    Args:
      needed: the cells, sources before what is worked out from them.
      measured: of each cell with runs its value in percent, or why it has none.
    """
    found: dict[tuple[str, str, str], Filled] = {}
    for cell in needed:
        if cell.from_cells:
            filled = _worked_out(Filled(cell), found)
        else:
            outcome = measured[cell]
            filled = Filled(cell, reason=outcome) if isinstance(outcome, str) else Filled(cell, outcome)
        found[cell.table, cell.row, cell.column] = filled
    return list(found.values())


def _reduction(cell: Cell, sources: Sequence[Filled]) -> Filled:
    """By how much, in percent, the better of the transferred networks changes the error of the original one."""
    if lacking := next((source for source in sources if source.value is None), None):
        return Filled(cell, reason=f"{lacking.cell.column} is missing: {lacking.reason}")
    splits = {source.cell.column: _splits([source.cell]) for source in sources}
    if len(set(splits.values())) > 1:
        told = ", ".join(f"{column} of {' '.join(own)}" for column, own in splits.items())
        return Filled(cell, reason=f"its cells are means over other splits: {told}")
    original, *transferred = (100 - source.value for source in sources if source.value is not None)
    if original == 0:
        return Filled(cell, reason=f"{sources[0].cell.column} has no error that could become smaller")
    return Filled(cell, 100 * (min(transferred) - original) / original)


def _splits(sources: Sequence[Cell]) -> tuple[str, ...]:
    """The numbers of the splits that cells are means over."""
    return tuple(dict.fromkeys(str(run.split) for run in runs(sources) if run.split is not None))


def as_text(filled: Sequence[Filled]) -> str:
    """Writes a block for every group of columns: measured beside published, in percent."""
    notes: dict[str | None, int] = {}
    blocks = []
    for table, group, rows, columns, at in _blocks(filled):
        titles = [published.COLUMNS[table][column.partition("/")[2]] for column in columns]
        lines = [["", *titles]]
        for row in rows:
            texts = [_text(at.get((row, column)), notes) for column in columns]
            lines.append([published.ARCHITECTURES[row], *texts])
        widths = [max(len(line[number]) for line in lines) for number in range(len(lines[0]))]
        title = f"{published.TITLES[table]}: {published.GROUPS[table][group]} (measured | published)"
        blocks.append("\n".join([title, *(_row(line, widths) for line in lines)]))
    blocks += ["\n".join(f"[{number}] {reason}" for reason, number in notes.items())] if notes else []
    blocks += _one_source_note(filled)
    return "\n\n".join(blocks)


def _published(cell: Cell) -> str:
    """A cell's published number as text, marked where it was found in one source only; "-" where there is none."""
    if cell.published is None:
        return "-"
    marked = published.of_one_source(cell.table, cell.row, cell.column)
    return f"{cell.published:.1f}" + published.ONE_SOURCE * marked


def _one_source_note(filled: Sequence[Filled]) -> list[str]:
    cells_shown = [one.cell for one in filled]
    marked = any(published.of_one_source(cell.table, cell.row, cell.column) for cell in cells_shown)
    return [published.ONE_SOURCE_NOTE] if marked else []


def _row(texts: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (text.ljust(width) for text, width in zip(texts, widths, strict=True))
    return "  ".join(["  " + first, *others]).rstrip()


def _text(filled: Filled | None, notes: dict[str | None, int]) -> str:
    if filled is None:
        return "-"
    beside = f"{_published(filled.cell):>5}"
    if filled.value is None:
        return f" [{notes.setdefault(filled.reason, len(notes) + 1)}] | {beside}"
    return f"{filled.value:5.1f} | {beside}"


def _blocks(filled: Sequence[Filled]):
    """Yields (table, group, rows, columns, {(row, column): filled}) of every group of columns that has a cell."""
    for table in published.TITLES:
        for group in published.GROUPS[table]:
            own = [one for one in filled if one.cell.table == table and one.cell.column.startswith(f"{group}/")]
            if own:
                at = {(one.cell.row, one.cell.column): one for one in own}
                rows = [row for row in published.ARCHITECTURES if any(place[0] == row for place in at)]
                columns = [column for column in published.columns(table) if any(place[1] == column for place in at)]
                yield table, group, rows, columns, at


def as_markdown(filled: Sequence[Filled], *, heading: str) -> str:
    """Writes a table for every group of columns: the measured number and, in brackets, the published one."""
    lines = [f"# {heading}", "", "Measured in percent, the published number in brackets."]
    reasons: dict[str | None, int] = {}
    for table, group, rows, columns, at in _blocks(filled):
        titles = [published.COLUMNS[table][column.partition("/")[2]] for column in columns]
        lines += ["", f"## {published.TITLES[table]}: {published.GROUPS[table][group]}", ""]
        lines += ["| | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
        for row in rows:
            texts = [_markdown_text(at.get((row, column)), reasons) for column in columns]
            lines.append(f"| {published.ARCHITECTURES[row]} | " + " | ".join(texts) + " |")
    lines += [""] if reasons else []
    lines += [f"- none ({number}): {reason}" for reason, number in reasons.items()]
    lines += [line for note in _one_source_note(filled) for line in ("", note)]
    return "\n".join(lines) + "\n"


def _markdown_text(filled: Filled | None, reasons: dict[str | None, int]) -> str:
    if filled is None:
        return "–"
    beside = _published(filled.cell).replace("-", "–") if filled.cell.published is None else _published(filled.cell)
    if filled.value is None:
        return f"none ({reasons.setdefault(filled.reason, len(reasons) + 1)}) ({beside})"
    return f"{filled.value:.1f} ({beside})"


def as_csv(filled: Sequence[Filled]) -> str:
    """Writes a line for every cell; `value`, `published` and `difference` in percent, empty where there is none."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(CSV_COLUMNS)
    for one in filled:
        cell = one.cell
        difference = None if one.value is None or cell.published is None else one.value - cell.published
        # What a cell that is worked out from others rests on is what theirs rest on.
        sources = [cell]
        if cell.from_cells:
            place = (cell.table, cell.row)
            others = [other.cell for other in filled if (other.cell.table, other.cell.row) == place]
            sources = [other for other in others if other.column in cell.from_cells]
        values = [one.value, cell.published, difference]
        rows.writerow(
            [cell.table, cell.row, cell.column]
            + ["" if value is None else f"{value:.4f}" for value in values]
            + [" ".join(run.name for run in runs(sources)), " ".join(_splits(sources)), one.reason or ""]
        )
    return text.getvalue()


def from_csv(path: Path) -> list[Filled]:
    """Reads the cells that `as_csv` wrote into a file; none where there is no file.

    Raises:
      UserError: it is something else.
    """
    if instead(path) == "nothing":
        return []
    refuse_unreadable(path)
    try:
        with opened(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
            return [_from_row(row) for row in csv.DictReader(text)]
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise UserError(
            f"{path} cannot be read as the table of a study: move it away, or choose another --output"
        ) from error


def _from_row(row: Mapping[str, str]) -> Filled:
    splits = [int(split) for split in row["splits"].split()] or [1]
    place = row["row"], row["column"]
    cell = next(cell for cell in cells(row["table"], splits) if (cell.row, cell.column) == place)
    return Filled(cell, float(row["value"]) if row["value"] else None, row["reason"] or None)


def merge(earlier: Sequence[Filled], filled: Sequence[Filled]) -> list[Filled]:
    """Puts cells in the place of those that were filled earlier, and works out again what rests on them."""
    found = {(one.cell.table, one.cell.row, one.cell.column): one for one in (*earlier, *filled)}
    ordered = sorted(
        found.values(),
        key=lambda one: (
            list(published.TITLES).index(one.cell.table),
            list(published.ARCHITECTURES).index(one.cell.row),
            list(published.columns(one.cell.table)).index(one.cell.column),
        ),
    )
    return [_worked_out(one, found) if one.cell.from_cells else one for one in ordered]


def _worked_out(filled: Filled, found: Mapping[tuple[str, str, str], Filled]) -> Filled:
    cell = filled.cell
    return _reduction(cell, [found[cell.table, cell.row, column] for column in cell.from_cells])
