"""Prepares a dataset: a folder of videos and their annotations become sharded TFRecords that training reads.

Videos are decoded, turned upright, brought to square pixels, resampled and resized, and with --flow the optical flow
from each frame to the next is stored beside them; a video that is missing or damaged
is skipped and listed with its reason in skipped.csv. Started again, it does only what is missing.
With --check nothing is written: it tells what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from i3d_jax.data.datasets import SPECS
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.errors import run
from i3d_jax.ingest.annotations import DIALECTS, ClassList, Clip, read

if TYPE_CHECKING:
    from i3d_jax.ingest.local import Summary

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
MOST_SHOWN = 10  # Skipped videos named in the summary.


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    options = _options(arguments)
    classes = ClassList.read(options.classes) if options.classes else None
    clips = read(options.dialect, options.annotations, options.videos, classes)
    if options.check:
        return _check(clips, options)
    preprocessing = Preprocessing(
        frame_rate=options.frame_rate, short_side=options.short_side, jpeg_quality=options.jpeg_quality
    )
    if options.flow == "tvl1":
        preprocessing = _with_flow(preprocessing)
    # Imported late: --help and mistakes in the annotations need none of it.
    from i3d_jax.ingest.local import prepare_dataset

    summary = prepare_dataset(
        clips,
        options.videos,
        options.output,
        name=options.name or Path(options.output).resolve().name,
        preprocessing=preprocessing,
        processes=options.processes,
        shards=options.shards,
        labels=classes and classes.order(clips),
    )
    _show(summary)
    return 0


def _check(clips: Sequence[Clip], options: argparse.Namespace) -> int:
    """Says what is there; returns 0 if that is everything, else 2."""
    # Imported late: --help and mistakes in the annotations need none of it.
    from i3d_jax.ingest.check import check, report

    own = [spec for spec in SPECS.values() if spec.dialect == options.dialect]
    spec = SPECS[options.spec] if options.spec else own[0] if len(own) == 1 else None
    found = check(clips, options.videos, processes=options.processes)
    print("\n".join(report(found, spec)))
    if own and spec is None:
        print(f"To compare with published counts, add --spec {' or '.join(spec.name for spec in own)}")
    return 2 if found.skipped else 0


def _with_flow(preprocessing: Preprocessing) -> Preprocessing:
    # Imported late: --help needs no OpenCV.
    from i3d_jax.ingest.flow import description

    return dataclasses.replace(preprocessing, flow=description())


def _show(summary: Summary) -> None:
    """Prints what the dataset holds, what is not in it and what to do with it."""
    for split, size in summary.splits.items():
        shards = f"{size.shards} shard{'s' * (size.shards != 1)}"
        print(f"{split}: {size.videos} videos with {size.frames} frames in {shards}, {size.skipped} skipped")
    for skipped in summary.skipped[:MOST_SHOWN]:
        print(f"  skipped {skipped.name}: {skipped.reason}")
    if len(summary.skipped) > MOST_SHOWN:
        print(f"  and {len(summary.skipped) - MOST_SHOWN} more in {summary.directory / 'skipped.csv'}")
    for split, parts in summary.combined.items():
        print(f"{split}: {sum(summary.splits[part].videos for part in parts)} videos, those of {', '.join(parts)}")
    directory = shlex.quote(str(summary.directory))
    train_split = next((split for split in summary.combined if split.startswith("train")), None)
    choice = f" --config.data.train_split={train_split}" if train_split else ""
    print(f"The dataset is in {summary.directory}. To train on it:")
    print(
        f"  python -m i3d_jax.main --config experiments/custom.py --config.data.directory={directory}{choice}"
        " --workdir DIR"
    )


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.output is None and not options.check:
        parser.error("--output is required, except with --check")
    if options.spec and not options.check:
        parser.error("--spec goes with --check")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m i3d_jax.prepare",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    usual = Preprocessing()
    frame_rate_help = "frames a second after resampling (default: %(default)s)"
    add("--frame_rate", metavar="FPS", type=float, default=usual.frame_rate, help=frame_rate_help)
    short_side_help = "the shorter side after resizing (default: %(default)s)"
    add("--short_side", metavar="PIXELS", type=int, default=usual.short_side, help=short_side_help)
    jpeg_quality_help = "1 to 100, of the stored frames (default: %(default)s)"
    add("--jpeg_quality", metavar="QUALITY", type=int, default=usual.jpeg_quality, help=jpeg_quality_help)
    flow_help = (
        "optical flow, stored beside the frames: none, or TV-L1 by OpenCV, which takes some seconds of a core for each"
        " frame of the default size (default: %(default)s)"
    )
    add("--flow", choices=("none", "tvl1"), default="none", help=flow_help)
    processes_help = "processes that read videos (default: one for every core, here %(default)s)"
    add("--processes", metavar="N", type=_positive, default=os.cpu_count() or 1, help=processes_help)
    add("--shards", metavar="N", type=_positive, help="shards of each split (default: one for every 64 videos)")
    add("--name", help="of the dataset (default: the last part of --output)")
    return parser


def _add_classes_and_check(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    classes_help = (
        "a class on each line: those that are wanted, in the order of the labels (blank lines and lines that begin with"
        " # do not count, underscores may stand for blanks); of Kinetics, clips of other classes are left out, and a"
        " line may be a YouTube identifier instead, as in the lists of Mini-Kinetics-200"
    )
    add("--classes", metavar="FILE", nargs="+", help=classes_help)
    check_help = (
        "write nothing, but look for every video and open it, without decoding it, and say for each split how many are"
        " there, missing and unreadable, and how many were published; the exit code is 0 if all are there, else 2"
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
