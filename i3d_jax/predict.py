"""Names the actions in videos, with pixels prepared exactly as those that the checkpoint was trained on."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

import jax
import numpy as np

from i3d_jax import checkpoint
from i3d_jax.errors import UserError, run
from i3d_jax.models import InceptionV1
from i3d_jax.training.step import evaluation_step

EXAMPLE = """\
example:
  python -m i3d_jax.predict clip.mp4 --checkpoint runs/quickstart
"""
BAR_WIDTH = 30


def main(arguments: Sequence[str]) -> int:
    """Runs the command; a video that cannot be read is named, and the others are still scored."""
    options = _parser().parse_args(arguments)
    if options.top_k < 1:
        raise UserError(f"--top_k must be at least 1, found {options.top_k}")
    model, variables, metadata = checkpoint.load(options.checkpoint)
    if isinstance(model, InceptionV1):
        raise UserError(
            f"{options.checkpoint} is a network of single images, inception_v1: it names nothing in a video"
        )
    # Imported late: PyAV and OpenCV are not needed to say that a checkpoint is missing.
    from i3d_jax.ingest.windows import read_windows

    variables = jax.device_put(variables)
    score = jax.jit(evaluation_step(model))
    found, failures = [], 0
    for video in options.videos:
        try:
            windows = read_windows(video, metadata["preprocessing"], streams=model.streams, where=options.checkpoint)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failures += 1
            continue
        logits, _ = score(variables, {stream: pixels[None] for stream, pixels in windows.items()})
        found.append({"video": video, "predictions": best(np.asarray(logits[0]), metadata["labels"], options.top_k)})
        if options.format == "text":
            print(as_text(found[-1]), flush=True)
    if options.format == "json":
        print(json.dumps(found, indent=2, ensure_ascii=False))
    return 2 if failures else 0


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m i3d_jax.predict",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", metavar="VIDEO", nargs="+", help="video files, of any format that FFmpeg reads")
    parser.add_argument("--checkpoint", metavar="DIR", required=True, help="a checkpoint directory or a run's workdir")
    parser.add_argument("--top_k", metavar="K", type=int, default=5, help="classes named (default: %(default)s)")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="for people or for programs (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    run(main)
