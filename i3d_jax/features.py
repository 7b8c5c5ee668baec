"""Computes features of videos of any length: a vector for each window, in files that other programs read."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from i3d_jax import checkpoint
from i3d_jax.inference import inputs
from i3d_jax.inference.presets import DENSE, FORMATS, POOLS, PRESETS, Preset, frame_rate_of
from i3d_jax.system import files
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, install_hint, run
from i3d_jax.training.compilation import keep_compiled
from i3d_jax.training.precision import PRECISIONS

if TYPE_CHECKING:
    from i3d_jax.inference.extraction import Compute

EXAMPLE = """\
examples:
  python -m i3d_jax.features videos/ --checkpoint checkpoints/rgb_imagenet --output features
  python -m i3d_jax.features videos/ --checkpoint checkpoints/rgb_imagenet \\
      --flow_checkpoint checkpoints/flow_imagenet --preset thumos --output features
  python -m i3d_jax.features --dataset datasets/ucf101 --split test01 --checkpoint runs/ucf101 --output features

Started again it makes the files that are missing. Of several machines each takes a share: --shard 1/4 to --shard 4/4.
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; a video that cannot be read is named, and the others are still done."""
    own, flags = (list(arguments), [])
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    options = _parser().parse_args(own)
    options.beam_flags = flags
    if bool(options.videos) == bool(options.dataset):
        raise UserError("videos, or --dataset with --split, were expected: one of both")
    if bool(options.dataset) != bool(options.split):
        raise UserError("--dataset and --split go together")
    preset = _preset(options)
    paths = inputs.video_paths(options.videos) if options.videos else []
    keep_compiled()
    # Imported late: PyAV and OpenCV are not needed to say what is wrong with the command.
    from i3d_jax.inference.extraction import Extraction, extract

    extraction = Extraction(
        checkpoints=tuple(
            str(checkpoint.find(directory, int(options.step) if options.step.isdecimal() else options.step))
            for directory in (options.checkpoint, options.flow_checkpoint)
            if directory
        ),
        output=files.path(options.output),
        preset=preset,
        preset_name=options.preset,
        endpoint=options.endpoint,
        pooled=options.pool == "mean",
        precision=options.precision,
    )
    failures = extract(
        extraction,
        paths,
        dataset=options.dataset,
        split=options.split,
        shard=options.shard,
        compute=_compute(options),
    )
    return 2 if failures else 0


def _compute(options: argparse.Namespace) -> Compute | None:
    """Returns what computes the features by a runner of Beam's; None for this process."""
    if options.runner == "local":
        if options.beam_flags:
            raise UserError(
                f"what stands after -- is for a --runner of Beam's, found {options.beam_flags[0]!r} with --runner local"
            )
        return None
    if options.dataset:
        raise UserError(f"--runner {options.runner} is for video files: a --dataset is done by --runner local")
    try:
        from i3d_jax.inference import beam
        from i3d_jax.ingest.beam import refuse_unusable
    except ModuleNotFoundError as error:
        raise UserError(
            f"--runner {options.runner} needs Apache Beam, and {error.name} is not installed; {install_hint('beam')}"
        ) from error
    refuse_unusable(options.runner, options.beam_flags)
    return beam.computing(runner=options.runner, flags=options.beam_flags, processes=options.processes)


def _preset(options: argparse.Namespace) -> Preset:
    """Returns the preset with what is asked for instead."""
    preset = PRESETS[options.preset]
    asked = {
        "window": options.window,
        "stride": options.stride,
        "crops": options.crops,
        "format": options.format,
    }
    changes = {name: value for name, value in asked.items() if value is not None}
    if options.frame_rate is not None:
        changes |= {"frame_rate": frame_rate_of(options.frame_rate), "as_trained": False}
    if options.crops is not None and options.crops > 1 and "{crop}" not in preset.name and preset.transposed:
        raise UserError(f"the preset {options.preset} has one crop, found --crops {options.crops}")
    return dataclasses.replace(preset, **changes)


def _parser() -> Parser:
    parser = Parser(prog="python -m i3d_jax.features", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("videos", metavar="VIDEO", nargs="*", help=inputs.HELP)
    parser.add_argument("--dataset", metavar="DIR", help="in place of videos: the frames of a prepared dataset")
    parser.add_argument("--split", metavar="SPLIT", help="of the dataset")
    parser.add_argument("--checkpoint", metavar="DIR", required=True, help="a checkpoint directory or a run's workdir")
    flow_help = "one of flow beside that of --checkpoint, which is of RGB then: RGB's values, then flow's"
    parser.add_argument("--flow_checkpoint", metavar="DIR", help=flow_help)
    step_help = "which checkpoint of a workdir: newest, best or a number (default: %(default)s)"
    parser.add_argument("--step", metavar="N", default=checkpoint.NEWEST, help=step_help)
    parser.add_argument("--output", metavar="DIR", required=True, help="a folder: gets NAME.npz and NAME.json of each")
    preset_help = (
        "windows, pixels and files as programs expect them: " + ", ".join(PRESETS) + " (default: %(default)s); the "
        "flags below change it"
    )
    parser.add_argument("--preset", metavar="NAME", choices=PRESETS, default=DENSE, help=preset_help)
    parser.add_argument("--window", metavar="FRAMES", type=int, help="frames that a vector stands for")
    parser.add_argument("--stride", metavar="FRAMES", type=int, help="from one vector to the next")
    rate_help = "frames a second that videos are brought to: 25, another number, or native for every frame of the file"
    parser.add_argument("--frame_rate", metavar="N", help=rate_help)
    crops_help = "of each frame: the centre, three along it, corners and centre, or these and their mirrors"
    parser.add_argument("--crops", type=int, choices=(1, 3, 5, 10), help=crops_help)
    endpoint_help = "the layer, by its name (default: what the classifier sees: I3D's last pool, 1024 values)"
    parser.add_argument("--endpoint", metavar="NAME", default="", help=endpoint_help)
    pool_help = "of the layer: its mean over time and space, or all of it (default: %(default)s)"
    parser.add_argument("--pool", choices=POOLS, default="mean", help=pool_help)
    format_help = "of the files: npz, npy, or one h5 for all videos (default: the preset's)"
    parser.add_argument("--format", choices=FORMATS, help=format_help)
    parser.add_argument("--shard", metavar="I/N", help="does one of N shares of the videos")
    runner_help = "who computes: local, or a runner of Apache Beam, whose own flags go last, behind --"
    parser.add_argument("--runner", metavar="RUNNER", default="local", help=runner_help)
    processes_help = "of this machine, with --runner direct (default: %(default)s)"
    parser.add_argument("--processes", metavar="N", type=int, default=1, help=processes_help)
    precision_help = "highest: float32 on every device; default: as the device is quickest (default: %(default)s)"
    parser.add_argument("--precision", choices=PRECISIONS, default="highest", help=precision_help)
    parser.add_quiet()
    return parser


if __name__ == "__main__":
    run(main)
