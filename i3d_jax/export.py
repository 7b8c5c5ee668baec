"""Writes a checkpoint for other programs, and compares what was written with the original.

Targets (--to):
  hub          a folder with config.json, model.safetensors and a model card, as repositories of the Hugging Face Hub
               have them; python -m i3d_jax.convert --source FOLDER --format hub makes it a checkpoint again
  stablehlo    the same folder with network.stablehlo besides, which plain JAX runs on CPUs, GPUs and TPUs
  saved_model  a SavedModel for plain TensorFlow, and what serves its models
  onnx         network.onnx for ONNX Runtime

None of them needs this package. A program takes any number of clips of the size that the checkpoint was evaluated with,
uint8, and gives their logits. config.json has labels and preprocessing, README.md shows how to use what was written.
At the end the other program runs what was written, on noise, on a drawn clip and on --video, and what it says is
compared with what the network says.
"""

from __future__ import annotations

from collections.abc import Sequence

from i3d_jax.importers.exports import TARGETS, export
from i3d_jax.system.command_line import Parser, place
from i3d_jax.system.errors import UserError, run
from i3d_jax.system.files import instead, refuse_no_folder

EXAMPLE = """\
examples:
  python -m i3d_jax.export --checkpoint runs/mine --to hub --output mine_hub
  python -m i3d_jax.export --checkpoint runs/mine --to stablehlo --output mine_stablehlo
  python -m i3d_jax.export --checkpoint runs/mine --to saved_model --output mine_saved_model --video clip.mp4
  python -m i3d_jax.export --checkpoint runs/mine --to onnx --output mine_onnx
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = _parser().parse_args(arguments)
    if instead(options.output) != "nothing":
        raise UserError(f"{options.output} exists: an export is written to a new folder")
    refuse_no_folder(options.output, " of --output")
    print(export(options.checkpoint, options.output, TARGETS[options.to], video=options.video))


def _parser() -> Parser:
    parser = Parser(prog="python -m i3d_jax.export", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", type=place, required=True, help="a checkpoint, or a workdir: its newest one")
    add("--to", choices=TARGETS, required=True, help="for which program")
    add("--output", metavar="PATH", type=place, required=True, help="a new folder")
    video_help = "a video whose first window is compared besides noise and a drawn clip"
    add("--video", metavar="FILE", type=place, help=video_help)
    parser.add_quiet()
    return parser


if __name__ == "__main__":
    run(main)
