"""Fréchet Video Distance of two sets of videos, with everything that the number depends on.

A set is a folder of videos, at any depth; a folder of folders of images, each the frames of a video; an array, .npy or
.npz, uint8 [N, T, H, W, 3]; a dataset of prepare, as DATASET:SPLIT where it has several; or saved statistics: a file of
--save_statistics, or a folder of those of all shards.

Protocols fix how frames are resized, which are taken, and the covariance:
  reference       google-research's, by which the first publications report
  styleganv       StyleGAN-V's fvd2048_16f
  cdfvd           cd-fvd 0.1.1
  common_metrics  common_metrics_on_video_quality
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from i3d_jax.fvd.protocols import PROTOCOLS
from i3d_jax.system import progress
from i3d_jax.system.command_line import Parser
from i3d_jax.system.errors import UserError, run
from i3d_jax.system.files import instead, path
from i3d_jax.system.terminal import print_json

EXAMPLE = """\
examples:
  python -m i3d_jax.fvd real generated.npy --checkpoint checkpoints/rgb_scratch
  python -m i3d_jax.fvd real first --compare second third.npy --checkpoint checkpoints/rgb_scratch --format json

one set's features once for all, here by two processes, of which this is the first:
  python -m i3d_jax.fvd real --checkpoint checkpoints/rgb_scratch --shard 0/2 --save_statistics statistics/0.npz
  python -m i3d_jax.fvd statistics generated.npy --checkpoint checkpoints/rgb_scratch
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = _parser().parse_args(arguments)
    _check(options)
    # Imported late: neither help nor a wrong flag waits for JAX.
    from i3d_jax.fvd import distance, networks
    from i3d_jax.fvd.options import GENERATED, REAL
    from i3d_jax.training.compilation import keep_compiled

    keep_compiled()
    chosen = _chosen(options)
    names = [options.real, *([options.generated] if options.generated else []), *options.compare]
    opened = [distance.opened(name, chosen) for name in names]
    if options.repeats > 1:
        distance.refuse_same_repeats(opened, chosen)
    network = None
    if options.checkpoint:
        network = networks.open_network(options.checkpoint, allow_checkpoint=options.allow_checkpoint)
    sides = [GENERATED if number else REAL for number in range(len(names))]
    for source, side, name in zip(opened, sides, names, strict=True):
        distance.refuse_beforehand(source, chosen, network, side=side, name=name)

    def found(number: int) -> list[Any]:
        """The statistics of a set, for each repeat."""
        side, name = sides[number], names[number]
        return distance.repeated(opened[number], chosen, network, options.repeats, side=side, name=name, watch=_bar)

    real = found(0)
    if options.save_statistics:
        real[0].save(options.save_statistics)
        if not options.generated:
            count, of = len(real[0].features), real[0].description["videos"]
            print(f"the statistics of {count} of {of} videos are in {options.save_statistics}")
            return
    measured = [
        distance.measured(real, found(number), names=(names[0], names[number]), extrapolate=options.extrapolate)
        for number in range(1, len(names))
    ]
    measured.sort(key=float)
    if options.format == "json":
        first = next(one for one in measured if one.generated == options.generated)
        ranked = {"ranking": [one.to_json() for one in measured]} if options.compare else {}
        print_json({**first.to_json(), **ranked})
    else:
        print("\n".join(as_text(measured)))


def as_text(measured: Sequence[Any]) -> list[str]:
    """Returns lines for people on distances of one real set, the least first."""
    lines = []
    told = measured[0].to_json()
    several = len(measured) > 1
    for rank, one in enumerate(measured, 1):
        lines.append(f"{f'{rank}. ' if several else ''}FVD {one.fvd:.6g}{_spread(one)}{f'  {one.generated}' * several}")
        if one.extrapolated is not None:
            lines.append(f"  for infinitely many videos {one.extrapolated:.6g} (extrapolated along 1/N)")
    checkpoint = told["checkpoint"] or "none of the published ones"
    rows = {
        "protocol": told["protocol"],
        "videos": f"{told['videos']['real']} real, {told['videos']['generated']} generated",
        "clips": f"{told['clips']}, {told['frames']} frames, stride {told['stride']}, seed {told['seed']}",
        "resize": told["resize"],
        "features": f"{told['layer']}, averaged over time",
        "covariance": f"ddof {told['ddof']}",
        "checkpoint": f"{checkpoint}, CRC32C {told['crc32c']} of all arrays",
    }
    lines += [f"  {name:11}{value}" for name, value in rows.items()]
    warnings = dict.fromkeys(warning for one in measured for warning in one.warnings)
    return lines + [f"warning: {warning}" for warning in warnings]


def _spread(one: Any) -> str:
    if one.deviation is not None:
        return f" +- {one.deviation:.3g} (standard deviation of {len(one.repeats)} repeats)"
    if one.interval is None:
        return ""
    interval = one.interval
    return f"  (95% interval {interval.low:.6g} to {interval.high:.6g}, of {interval.resamples} bootstrap resamples)"


def _bar(clips: Iterator[Any], count: int | None, name: str) -> Iterator[Any]:
    return progress.over(clips, f"features of {name}", total=count, unit="videos")


def _chosen(options: argparse.Namespace) -> Any:
    from i3d_jax.fvd.options import ALL, Options

    frames = options.frames
    if frames is not None and frames != ALL:
        if not frames.isdecimal():
            raise UserError(f"--frames: a whole number or {ALL!r} was expected, found {frames!r}")
        frames = int(frames)
    return Options(
        protocol=options.protocol,
        frames=frames,
        stride=options.stride,
        clips=options.clips,
        seed=options.seed,
        videos=options.videos,
        shard=_shard(options.shard),
        batch_size=options.batch_size,
    )


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal()) or not int(parts) or int(number) > int(parts):
        raise UserError(f"--shard must be I/N, as 0/8 up to 7/8 or 1/8 up to 8/8, found {text!r}")
    # Counted from 0 or from 1: all of them together are the whole both ways.
    return int(number) % int(parts), int(parts)


def _check(options: argparse.Namespace) -> None:
    """Refuses options that do not go together, before any work."""
    if options.repeats < 1:
        raise UserError(f"--repeats must be at least 1, found {options.repeats}")
    if not options.generated and not options.save_statistics:
        raise UserError("GENERATED was expected, to compare REAL with, or --save_statistics FILE")
    rows = (
        ("--shard", options.shard, not options.generated, "REAL alone and --save_statistics"),
        ("--compare", options.compare, options.generated, "GENERATED"),
        ("--extrapolate", options.extrapolate, options.generated, "GENERATED"),
        ("--repeats", options.repeats > 1, not options.save_statistics, "no --save_statistics, which is of one draw"),
        ("--extrapolate", options.extrapolate, options.repeats == 1, "a single repeat"),
    )
    for option, given, fits, where in rows:
        if given and not fits:
            raise UserError(f"{option} goes with {where}")
    if options.save_statistics:
        if options.save_statistics.suffix != ".npz":
            raise UserError(f"--save_statistics: a file .npz was expected, found {options.save_statistics}")
        if (found := instead(options.save_statistics)) not in ("nothing", "a file"):
            raise UserError(f"--save_statistics: a file was expected at {options.save_statistics}, found {found}")


def _parser() -> Parser:
    parser = Parser(prog="python -m i3d_jax.fvd", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("real", metavar="REAL", help="the set to compare with")
    add("generated", metavar="GENERATED", nargs="?", help="the set to be judged")
    add("--compare", metavar="OTHER", nargs="+", default=[], help="more sets to be judged: all are ranked")
    add("--checkpoint", metavar="DIR", help="the published rgb_scratch (convert --pretrained); statistics need none")
    add("--allow_checkpoint", action="store_true", help="take another network, whose distances compare with nobody's")
    protocol_help = "whose way of computing it (default: %(default)s)"
    add("--protocol", choices=tuple(PROTOCOLS), default="reference", help=protocol_help)
    add("--frames", metavar="T", help="of each clip, 9 or more, or all (default: what the protocol has: 16, or all)")
    stride_help = "frames of the video from one of the clip to the next (default: %(default)s)"
    add("--stride", metavar="S", type=int, default=1, help=stride_help)
    add("--clips", choices=("first", "random"), help="where a clip begins (default: what the protocol has)")
    add("--seed", metavar="N", type=int, default=0, help="of all draws (default: %(default)s)")
    add("--videos", metavar="N", type=int, help="of each set, drawn (default: what the protocol has, mostly all)")
    repeats_help = "draw anew so many times, and print mean and standard deviation (default: %(default)s)"
    add("--repeats", metavar="R", type=int, default=1, help=repeats_help)
    add("--extrapolate", action="store_true", help="estimate the distance of infinitely many videos, too")
    add("--batch_size", metavar="B", type=int, default=8, help="clips at a time (default: %(default)s)")
    add("--save_statistics", metavar="FILE", type=path, help="gets the features of REAL, to be given in its place")
    add("--shard", metavar="I/N", help="with --save_statistics: one of N shares of the videos")
    format_help = "for people or for programs (default: %(default)s)"
    add("--format", choices=("text", "json"), default="text", help=format_help)
    parser.add_quiet()
    return parser


if __name__ == "__main__":
    run(main)
