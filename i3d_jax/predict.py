"""Names the actions in videos, with pixels prepared exactly as those that the checkpoint was trained on."""

from __future__ import annotations

import argparse
import functools
import operator
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from i3d_jax import checkpoint
from i3d_jax.models.network import Network
from i3d_jax.models.purpose import for_few_runs
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run
from i3d_jax.system.terminal import print_json
from i3d_jax.training.compilation import keep_compiled
from i3d_jax.training.step import evaluation_step

EXAMPLE = """\
example:
  python -m i3d_jax.predict clip.mp4 --checkpoint runs/quickstart

two streams that were trained apart, by the sum of their logits:
  python -m i3d_jax.predict clip.mp4 --checkpoint checkpoints/rgb_imagenet --flow_checkpoint checkpoints/flow_imagenet

The compiled network is kept in i3d_jax/compiled of the user's cache folder ($XDG_CACHE_HOME or ~/.cache), so that the
next start is faster; the environment's JAX_COMPILATION_CACHE_DIR=DIR keeps it elsewhere and
JAX_ENABLE_COMPILATION_CACHE=false nowhere.
"""
BAR_WIDTH = 30


def main(arguments: Sequence[str]) -> int:
    """Runs the command; a video that cannot be read is named, and the others are still scored."""
    options = _parser().parse_args(arguments)
    if options.top_k < 1:
        raise UserError(f"--top_k must be at least 1, found {options.top_k}")
    keep_compiled()
    networks = [checkpoint.load(_found(directory, options.step)) for directory in _directories(options)]
    _refuse_other_networks(networks, _directories(options))
    labels = networks[0][2]["labels"]
    if len(labels) == 1:
        print(f"note: {options.checkpoint} knows {labels[0]!r} alone: every video gets 100% of it", file=sys.stderr)
    scorers = [_scorer(*network, where) for network, where in zip(networks, _directories(options), strict=True)]
    found, failures = [], 0
    for video in options.videos:
        try:
            logits = functools.reduce(operator.add, (score(video) for score in scorers))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failures += 1
            continue
        found.append({"video": video, "predictions": best(logits, labels, options.top_k)})
        if options.format == "text":
            print(as_text(found[-1]), flush=True)
        elif options.format == "jsonl":
            print_json(found.pop(), indent=None)
    if options.format == "json":
        print_json(found)
    return 2 if failures else 0


def _directories(options: argparse.Namespace) -> list[str]:
    return [options.checkpoint] + ([options.flow_checkpoint] if options.flow_checkpoint else [])


def _found(directory: str, step: str) -> Path:
    """Returns a checkpoint directory, and says which one where it is one of several."""
    found = checkpoint.find(directory, int(step) if step.isdecimal() else step)
    if found != Path(directory).resolve():
        steps = checkpoint.steps_in(found.parent)
        best = checkpoint.best_in(found.parent)
        known = "" if best is None else f", the best {best}"
        print(f"{directory}: the checkpoint of step {found.name}; the newest is {steps[-1]}{known}", file=sys.stderr)
    return found


def _refuse_other_networks(networks: Sequence[tuple], directories: Sequence[str]) -> None:
    """Raises a `UserError` for what sees no videos, and for two networks that are not the two streams of one."""
    for (model, _, _), directory in zip(networks, directories, strict=True):
        if not model.sees_videos:
            raise UserError(f"{directory} is a network of single images, inception_v1: it names nothing in a video")
    if len(networks) == 1:
        return
    for flag, stream, (model, _, _), directory in zip(
        ("--checkpoint", "--flow_checkpoint"), ("rgb", "flow"), networks, directories, strict=True
    ):
        if tuple(model.streams) != (stream,):
            raise UserError(
                f"{flag}: with --flow_checkpoint a network of {stream} alone was expected, {directory} is one of "
                f"{' and '.join(model.streams)}"
            )
    theirs, ours = (metadata["labels"] for _, _, metadata in networks)
    checkpoint.refuse_other_labels(theirs, ours, where=directories[0], other=directories[1])


def _scorer(
    model: Network, variables: dict[str, Any], metadata: dict[str, Any], where: str
) -> Callable[[str], np.ndarray]:
    """Returns what gives the logits float32 [classes] of a video file."""
    # Imported late: PyAV and OpenCV are not needed to say that a checkpoint is missing.
    from i3d_jax.video.view import completed
    from i3d_jax.video.windows import read_windows

    variables = jax.device_put(variables)
    step = jax.jit(evaluation_step(model))
    preprocessing, note = completed(metadata["preprocessing"], streams=model.streams, where=where)
    if note:
        print(note, file=sys.stderr)

    def score(video: str) -> np.ndarray:
        if "flow" in model.streams and os.path.isfile(video):
            print(f"computing the flow of {video} …", file=sys.stderr, flush=True)

        def tell(sentence: str) -> None:
            print(f"{video}: {sentence}", file=sys.stderr, flush=True)

        windows = read_windows(video, preprocessing, streams=model.streams, where=where, note=tell)
        with for_few_runs():
            logits, _ = step(variables, {stream: pixels[None] for stream, pixels in windows.items()})
        if not np.isfinite(logits).all():
            raise UserError(
                f"the scores that {where} gives {video} are not finite numbers: its weights are damaged, or its "
                "training went wrong"
            )
        return np.asarray(logits[0])

    return score


def best(logits: np.ndarray, labels: Sequence[str], top_k: int) -> list[dict]:
    """Returns the `top_k` best classes of logits float [classes], each with label, probability (0 to 1) and logit."""
    probabilities = np.exp(logits - logits.max(), dtype=np.float64)
    probabilities /= probabilities.sum()
    order = np.argsort(-logits, kind="stable")[:top_k]
    return [
        {"label": labels[index], "probability": float(probabilities[index]), "logit": float(logits[index])}
        for index in order
    ]


def as_text(prediction: dict) -> str:
    """Writes a video's predictions as lines with a bar for each."""
    lines = [os.fspath(prediction["video"])]
    for one in prediction["predictions"]:
        filled = round(BAR_WIDTH * one["probability"])
        bar = "█" * filled + "·" * (BAR_WIDTH - filled)
        lines.append(f"  {100 * one['probability']:5.1f}%  {bar}  {one['label']}")
    return "\n".join(lines)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m i3d_jax.predict",
        description=__doc__,
        epilog=EXAMPLE,
    )
    parser.add_argument("videos", metavar="VIDEO", nargs="+", help="video files, of any format that FFmpeg reads")
    parser.add_argument("--checkpoint", metavar="DIR", required=True, help="a checkpoint directory or a run's workdir")
    flow_help = "one of flow, trained apart from that of --checkpoint, which is of RGB then: their logits are added"
    parser.add_argument("--flow_checkpoint", metavar="DIR", help=flow_help)
    parser.add_argument("--top_k", metavar="K", type=int, default=5, help="classes named (default: %(default)s)")
    step_help = (
        "which checkpoint of a workdir: newest, best (by top-1 of the evaluations while it was trained) or a number "
        "(default: %(default)s)"
    )
    parser.add_argument("--step", metavar="N", default=checkpoint.NEWEST, help=step_help)
    format_help = (
        "for people; for programs a list at the end, or a line for each video as it is done (default: %(default)s)"
    )
    parser.add_argument("--format", choices=("text", "json", "jsonl"), default="text", help=format_help)
    return parser


if __name__ == "__main__":
    run(main)
