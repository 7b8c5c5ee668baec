"""Fills the paper's tables: trains what their cells need and puts the results beside the published ones.

Pretraining, transfer, fusion of the streams and the splits: each run once, one after the other, each in its own
workdir. Started again it goes on where it stopped. Several processes, usually one on each host, make each run together.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from i3d_jax.study import published, table
from i3d_jax.study.plan import Cell, PlannedRun, chosen, runs, with_sources
from i3d_jax.system import cluster, hosts, lock
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run
from i3d_jax.system.files import path as place
from i3d_jax.system.files import written_whole

if TYPE_CHECKING:
    from i3d_jax.study.runs import Study

EXAMPLE = """\
examples:
  python -m i3d_jax.study --table accuracy --rows i3d --columns ucf101 --ucf101 datasets/ucf101 \\
      --imagenet checkpoints/imagenet --output studies/ucf101
  python -m i3d_jax.study --table transfer --splits 1 2 3 --ucf101 datasets/ucf101 --hmdb51 datasets/hmdb51 \\
      --minikinetics datasets/minikinetics --imagenet checkpoints/imagenet --output studies/transfer --dry_run
  python -m i3d_jax.study --miniature --output studies/miniature

A row is an architecture, a column GROUP/COLUMN, such as ucf101/rgb+flow or hmdb51/fixed, or a whole GROUP. --rows and
--columns together choose the cells where they cross. docs/experiments.md has the recipes and what each needs.
"""
TABLES = {
    "accuracy": ["accuracy"],
    "transfer": ["transfer"],
    "kinetics": ["kinetics"],
    "all": ["accuracy", "transfer", "kinetics"],
}
MINIATURE_TABLES = ["accuracy", "transfer"]
# By what was pretrained on: the table that stands for "transfer".
SOURCES = {"minikinetics": "transfer", "kinetics": "transfer_from_kinetics"}
# Nobody should take the one column for an attempt at the other.
DRAWN_NOTE = (
    "Measured with narrow networks on small data; the published numbers are of full networks on the real datasets and"
    " cannot be compared with them (docs/experiments.md)."
)
DATASETS = ("ucf101", "hmdb51", "minikinetics", "kinetics")
FLAGS = {name: f"--{name}" for name in (*DATASETS, "imagenet")}
# Keys that the study itself sets.
PER_RUN = ("init_from", "data.directory", "data.train_split", "transfer.protocol", "model.name", "model.stream")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; 2 if a run failed."""
    options, overrides = _options(arguments)
    named = TABLES[options.table] if options.table else MINIATURE_TABLES
    tables = [SOURCES[options.source] if table == "transfer" else table for table in named]
    shown = chosen(tables, options.splits, rows=options.rows, columns=options.columns)
    needed = with_sources(shown, options.splits)
    if options.dry_run:
        _list(_study(options, overrides), runs(needed))
        return 0
    cluster.join(options)
    with cluster.explained():
        given = {f"--{name}": value for name, value in vars(options).items() if name not in cluster.FLAGS}
        hosts.refuse_different({**given, "--config.KEY=VALUE": overrides}, what="arguments")
        output = place(options.output)
        # Of several processes the first holds the folder, for all of them.
        with lock.held(output) if hosts.is_first() else contextlib.nullcontext():
            return _fill(_study(options, overrides), needed, report=not options.no_report)


def _study(options: argparse.Namespace, overrides: Sequence[str]) -> Study:
    from i3d_jax.study.runs import Study

    return Study(
        output=place(options.output),
        datasets={name: place(getattr(options, name)) for name in DATASETS if getattr(options, name) is not None},
        imagenet=None if options.imagenet is None else place(options.imagenet),
        overrides=overrides,
        miniature=options.miniature,
    )


def _fill(study: Study, needed: Sequence[Cell], *, report: bool) -> int:
    """Trains what the cells need and writes the tables; returns the exit code."""
    # Imported late, as what `_study` imports: --help and mistakes in what is chosen need none of it.
    from i3d_jax.study.runs import accuracy, check, train_all

    if study.miniature:
        study = _with_drawn(study)
    ordered = runs(needed)
    # Before hours of training.
    earlier = table.from_csv(study.output / "table.csv")
    check(study, ordered, asked=FLAGS)
    failures = train_all(study, ordered)
    if hosts.is_first():
        measured = {cell: accuracy(study, cell, failures) for cell in needed if cell.sums}
        note = DRAWN_NOTE if study.miniature else ""
        _write(study.output, table.fill(needed, measured), earlier, note)
        if report:
            _write_page(study.output)
    for failed, reason in failures.items():
        hosts.warn(f"failed: {failed.name}: {reason}")
    return 2 if failures else 0


def _list(study: Study, ordered: Sequence[PlannedRun]) -> None:
    """Prints the command of every run; what is not named stands in capitals, but for what a miniature draws itself.

    What is named is looked at first, as before the runs themselves.
    """
    from i3d_jax.study.miniature import DRAWN
    from i3d_jax.study.runs import check

    check(study, ordered, asked=FLAGS, all_named=False)
    places = {name: Path(name.upper()) for name in (*DATASETS, "imagenet")}
    if study.miniature:
        places |= {name: study.output / "datasets" / name for name in DRAWN} | {"imagenet": study.output / "imagenet"}
    named = dataclasses.replace(
        study, datasets={**places, **study.datasets}, imagenet=study.imagenet or places["imagenet"]
    )
    # All before the first is printed: they say what is wrong with a change.
    named.last_checkpoint(ordered[0])
    commands = [named.command(one) for one in ordered]
    print("\n".join("python -m i3d_jax.main " + shlex.join(command) for command in commands))
    open_places = [str(place) for name, place in places.items() if str(place) == name.upper()]
    if used := [place for place in open_places if any(f"={place}" in part for part in itertools.chain(*commands))]:
        print(f"{', '.join(used)} stand for folders that were not named", file=sys.stderr)


def _with_drawn(study: Study) -> Study:
    """Draws and prepares the miniature datasets, as far as none are named and none are there."""
    from i3d_jax import prepare
    from i3d_jax.study.miniature import DRAWN, Size, image_network, make
    from i3d_jax.video.write import write_video

    size, datasets, imagenet = Size(), study.datasets, study.imagenet
    if not set(DRAWN) <= set(datasets):
        folder = study.output / "datasets"

        def draw() -> None:
            make(folder, size, prepare=prepare.main, write_video=write_video)

        hosts.by_first(draw)
        datasets = {**{name: folder / name for name in DRAWN}, **datasets}
    if imagenet is None:
        imagenet = image_network(study.output / "imagenet", size)
    return dataclasses.replace(study, datasets=datasets, imagenet=imagenet)


def _write(output: Path, filled: Sequence[table.Filled], earlier: Sequence[table.Filled], note: str) -> None:
    """Prints the tables and writes `table.md` and `table.csv`, which keep the other cells that were filled earlier.

    If there is a note it stands on the first two.
    """
    every = table.merge(earlier, filled)
    markdown = table.as_markdown(every, heading="Measured beside published")
    texts = {"table.md": markdown + (f"\n{note}\n" if note else ""), "table.csv": table.as_csv(every)}
    for name, text in texts.items():
        with written_whole(output / name) as file:
            file.write(text.encode())
    print(table.as_text(filled))
    if note:
        print(f"\n{note}")
    print(f"\nAlso in {output / 'table.md'} and {output / 'table.csv'}")


def _write_page(output: Path) -> None:
    """Writes `report.html`; where that fails, what was measured stands, and a sentence says why there is no page."""
    try:
        from i3d_jax.study.page import page_of_study

        with written_whole(output / "report.html") as file:
            file.write(page_of_study(output).encode())
    # Whatever it is: days of training have ended well.
    except Exception as error:
        print(f"warning: {output / 'report.html'} could not be written: {error}", file=sys.stderr)
    else:
        print(f"and, to be read, in {output / 'report.html'}")


def _options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options and the changes of every recipe."""
    options, overrides = _parser().parse_known_args(arguments)
    for argument in overrides:
        if not argument.startswith("--config.") or "=" not in argument:
            raise UserError(f"unknown argument {argument!r}; a key of every recipe is set by --config.KEY=VALUE")
        key = argument.removeprefix("--config.").partition("=")[0]
        if key in PER_RUN:
            raise UserError(f"--config.{key} is another in every run and cannot be set for all of them")
    if not options.miniature and options.table is None:
        raise UserError(f"expected --table {'|'.join(TABLES)}, or --miniature")
    options.splits = list(dict.fromkeys(options.splits))
    return options, overrides


def _parser() -> Parser:
    parser = Parser(
        prog="python -m i3d_jax.study",
        description=__doc__,
        epilog=EXAMPLE,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--table", choices=TABLES, help="accuracy: each dataset; transfer: from --source; kinetics; or all")
    source_help = (
        "what transferred networks were trained on: miniKinetics (the paper's first version, the default) or Kinetics "
        "(its third, with and without ImageNet)"
    )
    add("--source", choices=SOURCES, default="minikinetics", help=source_help)
    add("--rows", metavar="ROW", nargs="+", default=[], help=f"of {', '.join(published.ARCHITECTURES)} (default: all)")
    add("--columns", metavar="COLUMN", nargs="+", default=[], help="such as ucf101 or hmdb51/rgb (default: all)")
    add(
        "--output",
        metavar="DIR",
        required=True,
        help="gets runs/NAME/ of every run, table.md, table.csv and report.html",
    )
    add("--dry_run", action="store_true", help="print the commands of the runs and do nothing")
    add("--no_report", action="store_true", help="leave report.html out")
    miniature_help = (
        "narrow networks and few steps, on three datasets that are drawn where none are named; without --table it fills"
        " accuracy and transfer"
    )
    add("--miniature", action="store_true", help=miniature_help)
    parser.add_quiet()
    data = parser.add_argument_group("what the chosen cells need")
    for name in DATASETS:
        data.add_argument(FLAGS[name], metavar="DIR", help=f"{name} as `python -m i3d_jax.prepare` wrote it")
    imagenet_help = "an image network that `python -m i3d_jax.convert` wrote; all but the 3D-ConvNet start from it"
    data.add_argument(FLAGS["imagenet"], metavar="CHECKPOINT", help=imagenet_help)
    splits_help = "of UCF-101 and HMDB-51; a cell is the mean over them (default: 1, as published)"
    data.add_argument("--splits", metavar="N", type=int, nargs="+", choices=(1, 2, 3), default=[1], help=splits_help)
    cluster.add_flags(parser)
    parser.add_argument_group("--config.KEY=VALUE", "changes a key of the recipe in every run (experiments/base.py)")
    return parser


if __name__ == "__main__":
    run(main, leave=cluster.leave)
