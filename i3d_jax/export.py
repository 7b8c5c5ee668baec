"""Writes a checkpoint for other programs, and compares what was written with the original.

Targets (--to):
  hub        a folder with config.json, model.safetensors and a model card, as repositories of the Hugging Face Hub have
             them; python -m i3d_jax.convert --source FOLDER --format hub makes it a checkpoint again
  stablehlo  the same folder with network.stablehlo besides, which plain JAX runs on CPUs, GPUs and TPUs without this
             package: clips of the evaluation's size, any number of them
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from i3d_jax import checkpoint
from i3d_jax.importers import hub, stablehlo
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run
from i3d_jax.system.files import instead, is_folder

EXAMPLE = """\
example:
  python -m i3d_jax.export --checkpoint runs/mine --to hub --output mine_hub
  python -m i3d_jax.export --checkpoint runs/mine --to stablehlo --output mine_stablehlo
"""

HUB, STABLEHLO = "hub", "stablehlo"
# Of the largest logit: the program is another one than that of a checkpoint, and sums in another order.
MOST_DIFFERENT = 1e-5


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = _parser().parse_args(arguments)
    if instead(options.output) != "nothing":
        raise UserError(f"{options.output} exists: an export is written to a new folder")
    if not is_folder(options.output.parent):
        raise UserError(f"the folder {options.output.parent} of --output does not exist")
    print(export(options.checkpoint, options.output, program=options.to == STABLEHLO))


def export(source: Path, output: Path, *, program: bool) -> str:
    """Writes a Hub folder, which appears once it has been read back and found the same to the last bit.

    Args:
      source: a checkpoint directory, or a workdir (its newest checkpoint).
      output: the folder, which does not exist.
      program: whether it holds the program too, which then has been run and found the same within `MOST_DIFFERENT`.

    Returns:
      A line for the user: what was written, and what the comparison found.

    Raises:
      UserError: the checkpoint cannot be read, or what was written differs from it.
    """
    source = checkpoint.find(source)
    model, variables, _ = checkpoint.load(source)
    description = checkpoint.Description.read(source)
    temporary = output.with_name(f"{output.name}.tmp-{secrets.randbits(63)}")
    try:
        hub.write(temporary, description, variables)
        found, arrays, _ = hub.read(temporary)
        if found != description or not jax.tree.all(jax.tree.map(_same_bits, variables, arrays)):
            raise UserError(f"what was written for {output} differs from {source}: nothing was kept")
        run = ""
        if program:
            stablehlo.write(temporary, model, description, variables)
            difference = stablehlo.difference(temporary, model, description, variables)
            if not difference <= MOST_DIFFERENT:
                raise UserError(
                    f"the logits of the program differ from those of {source} by {difference:.1e} of the largest, more "
                    f"than {MOST_DIFFERENT:.0e}: nothing was kept"
                )
            run = f"; the program was run, and its logits differ by {difference:.1e} of the largest"
        os.rename(temporary, output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return (
        f"the network of {source} is in {output}: {len(jax.tree.leaves(variables))} arrays, "
        f"{description.num_classes} classes; read back, all are the same to the last bit{run}"
    )


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Says whether two arrays are the same, NaN and the sign of zero included."""
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def _parser() -> Parser:
    parser = Parser(prog="python -m i3d_jax.export", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", type=Path, required=True, help="a checkpoint, or a workdir: its newest one")
    add("--to", choices=(HUB, STABLEHLO), required=True, help="for which program")
    add("--output", metavar="PATH", type=Path, required=True, help="a new folder")
    return parser


if __name__ == "__main__":
    run(main)
