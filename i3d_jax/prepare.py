"""Prepares a dataset: a folder of videos and their annotations become sharded TFRecords that training reads.

Videos are decoded, turned upright, brought to square pixels, resampled and resized, and with --flow the optical flow
from each frame to the next is stored beside them; a video that is missing or damaged
is skipped and listed with its reason in skipped.csv, and what was mended in a file is said in notes.csv. Started again,
it does only what is missing; with --verify also what the disk has damaged.
With --check nothing is written: it tells what is there. With --index_only a dataset of before gets the index that
training reads single frames by; its shards stay as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.ingest.annotations import DIALECTS, AnnotatedClip, ClassList, read
from i3d_jax.ingest.published_counts import SPECS
from i3d_jax.system import files, signals, terminal
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run

if TYPE_CHECKING:
    from i3d_jax.ingest.preparation import Summary
    from i3d_jax.video.backend_choice import Choice

EXAMPLE = """\
example:
  python -m i3d_jax.prepare --annotations labels.csv --videos videos --output datasets/mine

what is there of UCF-101, before hours of work:
  python -m i3d_jax.prepare --dialect ucf101 --annotations ucfTrainTestlist --videos UCF-101 --check

labels.csv, where start and end (in seconds) may be left out or empty:
  video,label,split,start,end
  cooking/soup.mp4,stirring,train,,
  cooking/long.mp4,chopping,test,12.5,20
"""
USUAL = Preprocessing()
MOST_SHOWN = 10  # Skipped videos named in the summary.
FEW_SHARDS = 64  # So many may be asked for however few videos there are.


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    options, beam_flags = _options(arguments)
    if options.index_only:
        return _index(files.path(options.index_only), options.processes or os.cpu_count() or 1)
    classes = ClassList.read(options.classes) if options.classes else None
    clips = read(options.dialect, options.annotations, options.videos, classes)
    if len(labels := {clip.label for clip in clips}) == 1:
        print(
            f"note: the annotations have one class alone, {labels.pop()!r}; to train on the dataset takes another, "
            "such as videos without the action",
            file=sys.stderr,
        )
    if options.check:
        return _check(clips, options)
    if options.shards and options.shards > max(len(clips), FEW_SHARDS):
        raise UserError(f"--shards must be at most the number of videos, {len(clips)}, found {options.shards}")
    asked = {name: getattr(options, name) for name in ("frame_rate", "short_side", "jpeg_quality")}
    preprocessing = Preprocessing(**{name: value for name, value in asked.items() if value is not None})
    # Imported late: --help and mistakes in the annotations need none of it.
    from i3d_jax.ingest import adding_fields
    from i3d_jax.ingest.options import DatasetOptions
    from i3d_jax.ingest.preparation import prepare_dataset
    from i3d_jax.ingest.runner import shard_maker

    flow = _choose_flow(options.flow_backend or "auto") if options.flow == "tvl1" or options.flow_only else None
    if flow is not None:
        preprocessing = dataclasses.replace(preprocessing, flow=flow.description())
    if flow is None and options.flow_backend:
        print("no flow is computed: --flow_backend goes with --flow tvl1 or --flow_only", file=sys.stderr)
    make_shards = shard_maker(options.runner, flags=beam_flags, processes=options.processes, flow=flow)
    directory = files.path(options.output)
    made = DatasetOptions(
        name=options.name or directory.resolve().name,
        preprocessing=preprocessing,
        shards=options.shards,
        labels=None if classes is None else classes.order(clips),
    )
    if options.flow_only and preprocessing.flow is not None:
        target = adding_fields.read_target(directory, clips, preprocessing.flow)
        adding_fields.refuse_other_options(directory, target, {**asked, "name": options.name, "shards": options.shards})
        if target.complete and not (options.retry_skipped or options.verify):
            adding_fields.refuse_changed(directory, clips, options.videos, target)
            print(f"{directory} has this flow already: nothing to do")
            return 0
        made = target.made
    with signals.advised(lambda: "the finished shards stay; start again to go on"):
        summary = prepare_dataset(
            clips,
            options.videos,
            directory,
            made,
            make_shards=make_shards,
            adds_flow=options.flow_only,
            retry_skipped=options.retry_skipped,
            verify=options.verify,
        )
    _show(summary)
    return 0


def _check(clips: Sequence[AnnotatedClip], options: argparse.Namespace) -> int:
    """Says what is there; returns 0 if that is everything, else 2."""
    # Imported late: --help and mistakes in the annotations need none of it.
    from i3d_jax.ingest.check import check, report

    own = [spec for spec in SPECS.values() if spec.dialect == options.dialect]
    spec = SPECS[options.spec] if options.spec else own[0] if len(own) == 1 else None
    found = check(clips, options.videos, processes=options.processes or os.cpu_count() or 1)
    print("\n".join(report(found, spec)))
    if own and spec is None:
        print(f"To compare with published counts, add --spec {' or '.join(spec.name for spec in own)}")
    return 2 if found.skipped else 0


def _index(directory: Path, processes: int) -> int:
    """Writes the indexes that a dataset lacks; returns 0 if every shard has one then, else 2."""
    # Imported late: --help needs none of it.
    from i3d_jax.ingest.indexing import index_dataset

    with signals.advised(lambda: "the finished indexes stay; start again to go on"):
        found = index_dataset(directory, processes=processes)
    shards = f"{found.written} shard{'s' * (found.written != 1)}"
    print(f"{directory}: wrote the index of {shards}; {found.there} had theirs, {found.left} are left as they are")
    return 2 if found.left else 0


def _choose_flow(backend: str) -> Choice:
    """Chooses who computes the flow and says so on standard error."""
    from i3d_jax.video.backend_choice import choose

    choice = choose(backend)
    computed_by = {"opencv": "OpenCV", "i3d_jax": "JAX"}[choice.implementation]
    terminal.say(f"flow by {computed_by} on the {choice.platform.upper()}: {choice.reason}")
    return choice


def _show(summary: Summary) -> None:
    """Prints what the dataset holds, what is not in it and what to do with it."""
    for split, size in summary.splits.items():
        shards = f"{size.shards} shard{'s' * (size.shards != 1)}"
        print(f"{split}: {size.videos} videos with {size.frames} frames in {shards}, {size.skipped} skipped")
    for skipped in summary.skipped[:MOST_SHOWN]:
        print(f"  skipped {skipped.name}: {skipped.reason}")
    if len(summary.skipped) > MOST_SHOWN:
        print(f"  and {len(summary.skipped) - MOST_SHOWN} more in {summary.directory / 'skipped.csv'}")
    for name, note in summary.notes[:MOST_SHOWN]:
        print(f"  note on {name}: {note}")
    if len(summary.notes) > MOST_SHOWN:
        print(f"  and {len(summary.notes) - MOST_SHOWN} more in {summary.directory / 'notes.csv'}")
    for split, parts in summary.combined.items():
        print(f"{split}: {sum(summary.splits[part].videos for part in parts)} videos, those of {', '.join(parts)}")
    directory = shlex.quote(str(summary.directory))
    train_split = next((split for split in summary.combined if split.startswith("train")), None)
    choice = f" --config.data.train_split={train_split}" if train_split else ""
    print(f"The dataset is in {summary.directory}. To train on it:")
    small = "" if has_accelerator() else ":small"
    print(
        f"  python -m i3d_jax.main --config experiments/custom.py{small} --config.data.directory={directory}{choice}"
        " --workdir DIR"
    )
    if small:
        print("(no accelerator was found here; with one take experiments/custom.py, of the paper's clips)")


def has_accelerator() -> bool:
    """Says whether the machine has a GPU or a TPU, by its devices: JAX, which would take it, is not started."""
    return any(any(Path("/dev").glob(name)) for name in ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*"))


def _options(arguments: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    """Returns the options and what stands after "--", which is for Beam."""
    dashes = arguments.index("--") if "--" in arguments else len(arguments)
    parser = _parser()
    options = parser.parse_args(arguments[:dashes])
    if options.index_only:
        _refuse_beside_index_only(parser, options, arguments[dashes + 1 :])
        return options, ()
    if options.output is None and not options.check:
        parser.error("--output is required, except with --check")
    if options.spec and not options.check:
        parser.error("--spec goes with --check")
    if options.flow_only and options.flow == "none":
        parser.error("--flow_only adds flow, found --flow none")
    return options, arguments[dashes + 1 :]


class _IndexOnly(argparse.Action):
    """Takes the folder, and asks for nothing else: there are no annotations and no videos."""

    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, value: Any, *given: Any) -> None:
        options.index_only = value
        for action in parser._actions:
            action.required = False


def _refuse_beside_index_only(parser: Parser, options: argparse.Namespace, beam_flags: Sequence[str]) -> None:
    usual = vars(parser.parse_args(["--index_only", options.index_only, *_given("--processes", options.processes)]))
    beside = [f"--{name}" for name, value in vars(options).items() if value != usual[name]]
    if found := [*beside, *beam_flags]:
        parser.error(f"beside --index_only --processes and --quiet were expected alone, found {found[0]}")


def _given(flag: str, value: Any) -> list[str]:
    return [] if value is None else [flag, str(value)]


def _parser() -> Parser:
    parser = Parser(
        prog="python -m i3d_jax.prepare",
        description=__doc__,
        epilog=EXAMPLE,
    )
    add = parser.add_argument
    annotations_help = (
        "which actions the videos show; name all files where there are several; for ucf101 and hmdb51 the folder of"
        " the lists will do"
    )
    add("--annotations", metavar="FILE", nargs="+", required=True, help=annotations_help)
    add("--videos", metavar="DIR", required=True, help="the folder of the video files")
    add("--output", metavar="DIR", help="the dataset: a new folder, or one that an earlier run has left")
    add("--dialect", choices=DIALECTS, default="csv", help="of the annotations (default: %(default)s)")
    _add_classes_and_check(parser)
    # None where the user says nothing: then --flow_only keeps what the folder has.
    frame_rate_help = f"frames a second after resampling (default: {USUAL.frame_rate:g})"
    add("--frame_rate", metavar="FPS", type=float, help=frame_rate_help)
    short_side_help = f"the shorter side after resizing (default: {USUAL.short_side})"
    add("--short_side", metavar="PIXELS", type=int, help=short_side_help)
    jpeg_quality_help = f"1 to 100, of the stored frames (default: {USUAL.jpeg_quality})"
    add("--jpeg_quality", metavar="QUALITY", type=int, help=jpeg_quality_help)
    shards_help = "shards of each split (default: one for every 64 videos, with flow for every 16)"
    add("--shards", metavar="N", type=_positive, help=shards_help)
    retry_help = (
        "make again the shards in which videos were skipped that are there: after files were put right without a change"
        " of their size; those that have appeared or changed size are found without it"
    )
    add("--retry_skipped", action="store_true", help=retry_help)
    verify_help = (
        "read the shards that an earlier run has left, compare every record with its checksum, and make damaged shards"
        " again; without it those are found that are missing or have another size"
    )
    add("--verify", action="store_true", help=verify_help)
    index_help = (
        "write the index, in its present format, of a dataset that was prepared before there was one that says where"
        " every frame stands; goes with --processes and --quiet alone"
    )
    add("--index_only", metavar="DIR", action=_IndexOnly, help=index_help)
    add("--name", help="of the dataset (default: the last part of --output)")
    parser.add_quiet()
    _add_flow_and_runner(parser)
    return parser


def _add_flow_and_runner(parser: argparse.ArgumentParser) -> None:
    flow = parser.add_argument_group("optical flow, stored beside the frames")
    flow_help = "TV-L1, which on a CPU takes some seconds of a core for each frame of the default size (default: none)"
    flow.add_argument("--flow", choices=("none", "tvl1"), help=flow_help)
    backend_help = (
        "who computes it: OpenCV on the CPU, JAX on the machine's accelerators, or auto: JAX if this machine has one"
        " (default: auto)"
    )
    flow.add_argument("--flow_backend", choices=("auto", "opencv", "jax"), help=backend_help)
    only_help = "add --flow tvl1 to the dataset that stands at --output; its other options are kept"
    flow.add_argument("--flow_only", action="store_true", help=only_help)
    runner = parser.add_argument_group("where the work is done")
    processes_help = (
        "processes of this machine that read videos (default: one for every core; at most four for JAX on a GPU, one on"
        " a TPU)"
    )
    runner.add_argument("--processes", metavar="N", type=_positive, help=processes_help)
    runner_help = (
        "local, without Apache Beam; direct, Beam with processes of this machine; or another of Beam's runners, such as"
        " DaskRunner, FlinkRunner, SparkRunner or DataflowRunner, with its own flags after --; its workers must see the"
        " same folders (default: %(default)s)"
    )
    runner.add_argument("--runner", metavar="NAME", default="local", help=runner_help)


def _add_classes_and_check(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    classes_help = (
        "a class on each line: those that are wanted, in the order of the labels (blank lines and lines that begin with"
        " # do not count, underscores may stand for blanks); of Kinetics, clips of other classes are left out, and a"
        " line may be a YouTube identifier instead, as in the lists of Mini-Kinetics-200"
    )
    add("--classes", metavar="FILE", nargs="+", help=classes_help)
    check_help = (
        "write nothing, whatever --output and --flow say, but look for every video and open it, without decoding it,"
        " and say for each split how many are there, missing and unreadable, and how many were published; the exit code"
        " is 0 if all are there, else 2"
    )
    add("--check", action="store_true", help=check_help)
    spec_help = "the published dataset to compare with (default: that of the dialect ucf101 or hmdb51)"
    add("--spec", choices=SPECS, help=f"with --check, {spec_help}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of 1 or more was expected, found {text!r}")
    return int(text)


if __name__ == "__main__":
    run(main)
