"""Prepares a dataset: a folder of videos and their annotations become sharded TFRecords that training reads.

Videos are decoded, turned upright, brought to square pixels, resampled and resized, and with --flow the optical flow
from each frame to the next is stored beside them; a video that is missing or damaged
is skipped and listed with its reason in skipped.csv. Started again, it does only what is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.errors import run
from i3d_jax.ingest.annotations import DIALECTS, read

if TYPE_CHECKING:
    from i3d_jax.ingest.dataset import Summary
    from i3d_jax.ingest.flow_backend import Choice

EXAMPLE = """\
example:
  python -m i3d_jax.prepare --annotations labels.csv --videos videos --output datasets/mine

labels.csv, where start and end (in seconds) may be left out or empty:
  video,label,split,start,end
  cooking/soup.mp4,stirring,train,,
  cooking/long.mp4,chopping,test,12.5,20
"""
USUAL = Preprocessing()
MOST_SHOWN = 10  # Skipped videos named in the summary.


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    arguments, beam_flags = _split_at_dashes(arguments)
    options = _parser().parse_args(arguments)
    asked = {name: getattr(options, name) for name in ("frame_rate", "short_side", "jpeg_quality")}
    preprocessing = Preprocessing(**{name: value for name, value in asked.items() if value is not None})
    clips = [clip for file in options.annotations for clip in read(options.dialect, file, options.videos)]
    # Imported late: --help and mistakes in the annotations need none of it.
    from i3d_jax.ingest import flow_only
    from i3d_jax.ingest.dataset import prepare_dataset
    from i3d_jax.ingest.runner import shard_maker

    flow = _choose_flow(options.flow_backend) if options.flow == "tvl1" or options.flow_only else None
    if flow is not None:
        preprocessing = dataclasses.replace(preprocessing, flow=flow.description())
    make_shards = shard_maker(options.runner, flags=beam_flags, processes=options.processes, flow=flow)
    name, shards, directory = options.name, options.shards, Path(options.output)
    if options.flow_only:
        target = flow_only.read_target(directory, clips, preprocessing.flow)
        flow_only.refuse_other_options(directory, target, {**asked, "name": name, "shards": shards})
        if target.complete:
            print(f"{directory} has this flow already: nothing to do")
            return
        name, preprocessing, shards = target.name, target.preprocessing, target.shards
    summary = prepare_dataset(
        clips,
        options.videos,
        directory,
        name=name or directory.resolve().name,
        preprocessing=preprocessing,
        make_shards=make_shards,
        shards=shards,
        adds_flow=options.flow_only,
    )
    _show(summary)


def _split_at_dashes(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Returns what stands before "--" and what stands after it."""
    if "--" not in arguments:
        return arguments, ()
    dashes = arguments.index("--")
    return arguments[:dashes], arguments[dashes + 1 :]


def _choose_flow(backend: str) -> Choice:
    """Chooses who computes the flow and says so on standard error."""
    from i3d_jax.ingest.flow_backend import choose

    choice = choose(backend)
    computed_by = {"opencv": "OpenCV", "i3d_jax": "JAX"}[choice.implementation]
    print(f"flow by {computed_by} on the {choice.platform.upper()}: {choice.reason}", file=sys.stderr)
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
    directory = shlex.quote(str(summary.directory))
    print(f"The dataset is in {summary.directory}. To train on it:")
    print(f"  python -m i3d_jax.main --config experiments/custom.py --config.data.directory={directory} --workdir DIR")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m i3d_jax.prepare",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    annotations_help = "which actions the videos show; Kinetics has a file for each split: name them all"
    add("--annotations", metavar="FILE", nargs="+", required=True, help=annotations_help)
    add("--videos", metavar="DIR", required=True, help="the folder of the video files")
    add("--output", metavar="DIR", required=True, help="the dataset: a new folder, or one that an earlier run has left")
    add("--dialect", choices=DIALECTS, default="csv", help="of the annotations (default: %(default)s)")
    # None where the user says nothing: then --flow_only keeps what the folder has.
    frame_rate_help = f"frames a second after resampling (default: {USUAL.frame_rate:g})"
    add("--frame_rate", metavar="FPS", type=float, help=frame_rate_help)
    short_side_help = f"the shorter side after resizing (default: {USUAL.short_side})"
    add("--short_side", metavar="PIXELS", type=int, help=short_side_help)
    jpeg_quality_help = f"1 to 100, of the stored frames (default: {USUAL.jpeg_quality})"
    add("--jpeg_quality", metavar="QUALITY", type=int, help=jpeg_quality_help)
    shards_help = "shards of each split (default: one for every 64 videos, with flow for every 16)"
    add("--shards", metavar="N", type=_positive, help=shards_help)
    add("--name", help="of the dataset (default: the last part of --output)")
    _add_flow_and_runner(parser)
    return parser


def _add_flow_and_runner(parser: argparse.ArgumentParser) -> None:
    flow = parser.add_argument_group("optical flow, stored beside the frames")
    flow_help = (
        "TV-L1, which on a CPU takes some seconds of a core for each frame of the default size (default: %(default)s)"
    )
    flow.add_argument("--flow", choices=("none", "tvl1"), default="none", help=flow_help)
    backend_help = (
        "who computes it: OpenCV on the CPU, JAX on the machine's accelerators, or auto: JAX if this machine has one"
        " (default: %(default)s)"
    )
    flow.add_argument("--flow_backend", choices=("auto", "opencv", "jax"), default="auto", help=backend_help)
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
        " FlinkRunner, SparkRunner or DataflowRunner, with its own flags after --; its workers must see the same"
        " folders (default: %(default)s)"
    )
    runner.add_argument("--runner", metavar="NAME", default="local", help=runner_help)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of 1 or more was expected, found {text!r}")
    return int(text)


if __name__ == "__main__":
    run(main)
