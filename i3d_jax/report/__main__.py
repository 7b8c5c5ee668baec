"""Writes a report of a run, or of several side by side: one HTML page that holds everything and fetches nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from i3d_jax.system import files
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run
from i3d_jax.system.files import instead, is_folder, is_standard_output, replaceable, written_whole

EXAMPLE = """\
examples:
  python -m i3d_jax.report --workdir runs/quickstart
  python -m i3d_jax.report --workdir runs/rgb --workdir runs/flow --output rgb_and_flow.html
  python -m i3d_jax.report --workdir runs/quickstart --video long.mp4
  python -m i3d_jax.report --study studies/paper
"""
# What a page is called in the folder that it is of.
NAME = "report.html"


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = _options(arguments)
    # Imported late: --help and mistakes in the arguments need none of it.
    if options.study is not None:
        from i3d_jax.study.page import page_of_study

        text = page_of_study(files.path(options.study))
    else:
        from i3d_jax.report.run_page import page_of_workdirs

        video = None if options.video is None else files.path(options.video)
        text = page_of_workdirs([files.path(one) for one in options.workdir], video=video, tell=_note)
    with written_whole(options.output) as file:
        file.write(text.encode())
    print(f"the report is {options.output} ({len(text.encode()) / 1e6:.1f} MB)", file=sys.stderr)


def _note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr, flush=True)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    options = _parser().parse_args(arguments)
    if options.study is not None and options.video is not None:
        raise UserError("--video is looked at by the networks of --workdir; a study's page has no place for it")
    if options.output is not None and not is_standard_output(options.output):
        _refuse_no_place(options.output)
    if options.output is None and options.study is not None:
        options.output = str(files.path(options.study) / NAME)
    if options.output is None:
        if len(options.workdir) > 1:
            raise UserError("--output names the page of several workdirs, such as --output report.html")
        options.output = str(files.path(options.workdir[0]) / NAME)
    return options


def _refuse_no_place(output: str) -> None:
    """Tells where no file can be written before a long video is looked at."""
    folder = replaceable(output).parent
    if not (files.is_in_bucket(folder) or is_folder(folder)):
        raise UserError(f"{output} cannot be written: a folder was expected at {folder}, found {instead(folder)}")


def _parser() -> Parser:
    parser = Parser(prog="python -m i3d_jax.report", description=__doc__, epilog=EXAMPLE, allow_abbrev=False)
    add = parser.add_argument
    of_what = parser.add_mutually_exclusive_group(required=True)
    of_what.add_argument("--workdir", metavar="DIR", action="append", help="of a run; may be given several times")
    of_what.add_argument("--study", metavar="DIR", help="of a study: the paper's tables beside the published ones")
    add("--output", metavar="FILE", help="the page (default: report.html in the workdir, where there is one)")
    add("--video", metavar="FILE", help="a long video, of which each run's network tells what happens when")
    parser.add_quiet()
    return parser


if __name__ == "__main__":
    run(main)
