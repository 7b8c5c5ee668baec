"""Writes a checkpoint for other programs, and compares what was written with the original.

Targets (--to):
  hub    a folder with config.json, model.safetensors and a model card, as repositories of the Hugging Face Hub have
         them; python -m i3d_jax.convert --source FOLDER --format hub makes it a checkpoint again
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
from i3d_jax.importers import hub
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run
from i3d_jax.system.files import instead, is_folder

EXAMPLE = """\
example:
  python -m i3d_jax.export --checkpoint runs/mine --to hub --output mine_hub
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = _parser().parse_args(arguments)
    if instead(options.output) != "nothing":
        raise UserError(f"{options.output} exists: an export is written to a new folder")
    if not is_folder(options.output.parent):
        raise UserError(f"the folder {options.output.parent} of --output does not exist")
    print(TARGETS[options.to](options.checkpoint, options.output))


def to_hub(source: Path, output: Path) -> str:
    """Writes a Hub folder, which appears once it has been read back and found the same to the last bit.

    Args:
      source: a checkpoint directory, or a workdir (its newest checkpoint).
      output: the folder, which does not exist.

    Returns:
      A line for the user: what was written, and what the comparison found.

    Raises:
      UserError: the checkpoint cannot be read, or what was written differs from it.
    """
    source = checkpoint.find(source)
    _, variables, _ = checkpoint.load(source)
    description = checkpoint.Description.read(source)
    temporary = output.with_name(f"{output.name}.tmp-{secrets.randbits(63)}")
    try:
        hub.write(temporary, description, variables)
        found, arrays, _ = hub.read(temporary)
        if found != description or not jax.tree.all(jax.tree.map(_same_bits, variables, arrays)):
            raise UserError(f"what was written for {output} differs from {source}: nothing was kept")
        os.rename(temporary, output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return (
        f"the network of {source} is in {output}: {len(jax.tree.leaves(variables))} arrays, "
        f"{description.num_classes} classes; read back, all are the same to the last bit"
    )


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Says whether two arrays are the same, NaN and the sign of zero included."""
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


TARGETS = {"hub": to_hub}


def _parser() -> Parser:
    parser = Parser(prog="python -m i3d_jax.export", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", type=Path, required=True, help="a checkpoint, or a workdir: its newest one")
    add("--to", choices=TARGETS, required=True, help="for which program")
    add("--output", metavar="PATH", type=Path, required=True, help="a new folder")
    return parser


if __name__ == "__main__":
    run(main)
