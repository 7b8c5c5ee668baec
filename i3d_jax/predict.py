"""Names the actions in videos of any length, with pixels prepared as those that the checkpoint was trained on."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from i3d_jax import checkpoint
from i3d_jax.inference import inputs
from i3d_jax.system import files, terminal
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run
from i3d_jax.training.compilation import keep_compiled
from i3d_jax.training.precision import PRECISIONS

EXAMPLE = """\
examples:
  python -m i3d_jax.predict clip.mp4 --checkpoint runs/quickstart
  python -m i3d_jax.predict long.mp4 --checkpoint checkpoints/rgb_imagenet --timeline
  python -m i3d_jax.predict videos/ --checkpoint checkpoints/rgb_imagenet --format csv --output scores.csv

two streams that were trained apart, by the sum of their logits:
  python -m i3d_jax.predict clip.mp4 --checkpoint checkpoints/rgb_imagenet --flow_checkpoint checkpoints/flow_imagenet

The compiled network is kept in i3d_jax/compiled of the user's cache folder ($XDG_CACHE_HOME or ~/.cache), so that the
next start is faster; the environment's JAX_COMPILATION_CACHE_DIR=DIR keeps it elsewhere and
JAX_ENABLE_COMPILATION_CACHE=false nowhere.
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; a video that cannot be read is named, and the others are still scored."""
    options = _parser().parse_args(arguments)
    _check(options)
    paths = inputs.video_paths(options.videos)
    if options.save_video and len(paths) != 1:
        raise UserError(f"--save_video is of one video, found {len(paths)}")
    keep_compiled()
    directories = _directories(options)
    found = [_found(directory, options.step) for directory in directories]
    # Imported late: PyAV and OpenCV are not needed to say that a checkpoint is missing.
    from i3d_jax.inference.answers import Answer, answers
    from i3d_jax.inference.captions import save_video
    from i3d_jax.inference.loaded import LoadedNetwork, refuse_other_streams
    from i3d_jax.inference.videos import VideosBar
    from i3d_jax.inference.writing import Writer, standard_output_to
    from i3d_jax.video.plans import Sliding, Spread

    networks = [
        LoadedNetwork(own, name=name, precision=options.precision) for own, name in zip(found, directories, strict=True)
    ]
    refuse_other_streams(networks)
    if len(networks) == 2:
        checkpoint.refuse_other_labels(
            networks[0].labels, networks[1].labels, where=networks[0].name, other=networks[1].name
        )
    for network in networks:
        for note in network.notes:
            print(note, file=sys.stderr)
    if len(networks[0].labels) == 1:
        label = networks[0].labels[0]
        print(f"note: {options.checkpoint} knows {label!r} alone: every video gets 100% of it", file=sys.stderr)
    plan = Sliding(options.window, options.stride) if options.timeline else Spread(options.windows)
    end = options.end if options.first_seconds is None else (options.start or 0) + options.first_seconds
    writer = Writer(options.format, options.top_k, options.timeline)
    failures = 0
    with (
        standard_output_to(options.output),
        VideosBar("predicting", len(paths), stays=False) as bar,
    ):
        for answer in answers(networks, paths, plan, start=options.start, end=end, bar=bar):
            if isinstance(answer, Answer):
                writer.add(answer)
                if options.save_video:
                    save_video(options.save_video, answer, float(networks[0].view.stored.frame_rate))
            else:
                print(f"error: {answer}", file=sys.stderr)
                failures += 1
        writer.finish()
    return 2 if failures else 0


def _check(options: argparse.Namespace) -> None:
    """Raises a `UserError` for arguments that do not go together, or are out of range."""
    if options.top_k < 1:
        raise UserError(f"--top_k must be at least 1, found {options.top_k}")
    if options.windows is not None and options.windows < 1:
        raise UserError(f"--windows must be at least 1, found {options.windows}")
    for flag in ("start", "end", "first_seconds"):
        seconds = getattr(options, flag)
        least = "0 or more" if flag == "start" else "above 0"
        if seconds is not None and (not math.isfinite(seconds) or seconds < 0 or (flag != "start" and not seconds)):
            raise UserError(f"--{flag} must be {least} seconds, found {seconds:g}")
    if options.end is not None and options.first_seconds is not None:
        raise UserError("--end and --first_seconds both say where to stop: one was expected")
    if options.end is not None and options.end <= (options.start or 0):
        raise UserError(f"--end must be after --start, {options.start or 0:g} s, found {options.end:g}")
    if options.timeline and options.windows is not None:
        raise UserError("--windows spreads windows over a video, a --timeline has one every --stride frames")
    if not options.timeline and (options.window is not None or options.stride is not None):
        raise UserError("--window and --stride are of a --timeline, which was not asked for")
    if options.timeline:
        options.window = 64 if options.window is None else options.window
        options.stride = 16 if options.stride is None else options.stride


def _directories(options: argparse.Namespace) -> list[str]:
    return [options.checkpoint] + ([options.flow_checkpoint] if options.flow_checkpoint else [])


def _found(directory: str, step: str) -> Path:
    """Returns a checkpoint directory, and says which one where it is one of several."""
    found = checkpoint.find(directory, int(step) if step.isdecimal() else step)
    if found != files.path(directory).resolve():
        steps = checkpoint.steps_in(found.parent)
        best = checkpoint.best_in(found.parent)
        known = "" if best is None else f", the best {best}"
        terminal.say(f"{directory}: the checkpoint of step {found.name}; the newest is {steps[-1]}{known}")
    return found


def _parser() -> Parser:
    parser = Parser(
        prog="python -m i3d_jax.predict",
        description=__doc__,
        epilog=EXAMPLE,
    )
    parser.add_argument("videos", metavar="VIDEO", nargs="+", help=inputs.HELP)
    parser.add_argument("--checkpoint", metavar="DIR", required=True, help="a checkpoint directory or a run's workdir")
    flow_help = "one of flow, trained apart from that of --checkpoint, which is of RGB then: their logits are added"
    parser.add_argument("--flow_checkpoint", metavar="DIR", help=flow_help)
    parser.add_argument("--top_k", metavar="K", type=int, default=5, help="classes named (default: %(default)s)")
    step_help = (
        "which checkpoint of a workdir: newest, best (by top-1 of the evaluations while it was trained) or a number "
        "(default: %(default)s)"
    )
    parser.add_argument("--step", metavar="N", default=checkpoint.NEWEST, help=step_help)
    windows_help = (
        "of each video, evenly spread, whose logits are averaged: of the length that the checkpoint was evaluated with "
        "(default: as many as cover the video; 1: the first)"
    )
    parser.add_argument("--windows", metavar="N", type=int, help=windows_help)
    timeline_help = "also says when: the classes of one window after the other; text joins neighbours of one label"
    parser.add_argument("--timeline", action="store_true", help=timeline_help)
    parser.add_argument("--window", metavar="FRAMES", type=int, help="of the timeline, a window's frames (default: 64)")
    parser.add_argument("--stride", metavar="FRAMES", type=int, help="from one window to the next (default: 16)")
    parser.add_argument("--start", metavar="SECONDS", type=float, help="leaves out what is before")
    parser.add_argument("--end", metavar="SECONDS", type=float, help="leaves out what is after")
    parser.add_argument("--first_seconds", metavar="SECONDS", type=float, help="looks at so many alone")
    format_help = (
        "for people; for programs a list at the end, a line for each video as it is done, or a table "
        "(default: %(default)s)"
    )
    parser.add_argument("--format", choices=("text", "json", "jsonl", "csv"), default="text", help=format_help)
    parser.add_argument("--output", metavar="FILE", help="gets what would be printed, whole or not at all")
    save_help = "gets the video with the three best classes of each moment drawn on it, as FILE's suffix says: .mp4"
    parser.add_argument("--save_video", metavar="FILE", help=save_help)
    precision_help = (
        "highest: float32 on every device; default: as the device is quickest, to 1e-3 of the logits on GPUs "
        "(default: %(default)s)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="highest", help=precision_help)
    parser.add_quiet()
    return parser


if __name__ == "__main__":
    run(main)
