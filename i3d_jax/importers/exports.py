"""Trained networks for other programs: each target's writer and reader, and the comparison that ends every export."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from i3d_jax.importers import hub, onnx, saved_model, stablehlo
from i3d_jax.importers.exported import Original, Program, sample_clips
from i3d_jax.system import terminal
from i3d_jax.system.copies import made_on_this_machine
from i3d_jax.system.errors import UserError

# Of the largest logit: a program is another one than that of a checkpoint, and sums in another order.
MOST_DIFFERENT = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """What an export is for.

    Attributes:
      reader: who reads it, for sentences.
      write: writes a network into a new folder.
      load: reads a folder, for its reader to run.
      has_arrays: whether it is a Hub folder, whose arrays are compared to the last bit.
    """

    reader: str
    write: Callable[[Path, Original], None]
    load: Callable[[Path], Program]
    has_arrays: bool = False


TARGETS = {
    "hub": Target(reader="this package", write=hub.write, load=hub.load, has_arrays=True),
    "stablehlo": Target(reader="JAX", write=stablehlo.write, load=stablehlo.load, has_arrays=True),
    "saved_model": Target(reader="TensorFlow", write=saved_model.write, load=saved_model.load),
    "onnx": Target(reader="ONNX Runtime", write=onnx.write, load=onnx.load),
}


def export(source: Path, output: Path, target: Target, *, video: Path | None = None) -> str:
    """Writes a folder, which appears once its reader has found in it what the network says.

    Args:
      source: a checkpoint directory, or a workdir (its newest checkpoint).
      output: the folder, which does not exist.
      target: what it is for.
      video: a file to compare on besides noise and a drawn clip.

    Returns:
      A line for the user: what was written, and what the comparison found.

    Raises:
      UserError: the checkpoint or the video cannot be read, what the target needs is not installed, the network's
        logits are not finite, or what was written differs from it by more than `MOST_DIFFERENT`.
    """
    original = Original.read(source)
    with made_on_this_machine(output) as target_folder:
        size, most = _write(original, target_folder, target, video)
    arrays = "; read back, all arrays are the same to the last bit" if target.has_arrays else ""
    seen = "noise and a drawn clip" if video is None else f"noise, a drawn clip and {video}"
    return (
        f"the network of {original.source}, {original.description.num_classes} classes, is in {output}, "
        f"{size / 1e6:.1f} MB{arrays}; run by {target.reader} on {seen}, its logits differ by {most:.2g} of the "
        "largest"
    )


def _write(original: Original, output: Path, target: Target, video: Path | None) -> tuple[int, float]:
    """Writes the folder on this machine; returns its bytes, and by how much the logits differ."""
    temporary = output.with_name(f"{output.name}.tmp-{secrets.randbits(63)}")
    try:
        terminal.say(f"writing the network of {original.source} for {target.reader} …")
        target.write(temporary, original)
        if target.has_arrays:
            hub.refuse_other(temporary, original)
        terminal.say(f"running it by {target.reader}, and the network beside it: on a CPU that may take minutes …")
        clips = sample_clips(original, video)
        expected = original.logits(clips)
        if not np.isfinite(expected).all():
            raise UserError(f"the logits of {original.source} are not finite: nothing was kept")
        most = difference(target.load(temporary)(clips), expected)
        if not most <= MOST_DIFFERENT:
            raise UserError(
                f"the logits of what was written differ from those of {original.source} by {most:.2g} of the "
                f"largest, more than {MOST_DIFFERENT:g}: nothing was kept"
            )
        size = sum(path.stat().st_size for path in temporary.rglob("*"))
        os.rename(temporary, output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return size, most


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference of two logits over the largest logit."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
