"""Reads weights of other programs into a checkpoint, and writes a checkpoint for PyTorch.

Published checkpoints, fetched by name (--pretrained):
  rgb_imagenet, flow_imagenet    Kinetics-400, from ImageNet
  rgb_scratch, flow_scratch      Kinetics-400 alone
  rgb_scratch_kin600             Kinetics-600 alone

Formats of files (--source, --format):
  sonnet_i3d         the published TensorFlow checkpoints of I3D: a prefix, a folder, the .index file or a SavedModel
  flax_i3d           rgb_scratch as another Flax port pickles it: the .ckpt, or the .tar.gz that it comes in
  torch_i3d          the state dict of a PyTorch port of I3D (.pt, .safetensors)
  slim_inception_v1  TF-Slim's Inception-v1, trained on ImageNet
  torch_googlenet    torchvision's GoogLeNet, trained on ImageNet
  hub                a folder that i3d_jax.export --to hub wrote, or a repository that holds one, hf://OWNER/NAME
  native             a checkpoint of ours, to be written for PyTorch by --to
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from i3d_jax import checkpoint, inflation
from i3d_jax.importers import (
    boring_video,
    flax_i3d,
    hub,
    labels,
    pretrained,
    published,
    slim_inception_v1,
    sonnet_i3d,
    torch_export,
    torch_googlenet,
    torch_i3d,
)
from i3d_jax.importers.imported import Imported
from i3d_jax.system import copies, files, terminal
from i3d_jax.system.command_line import Parser, local_path, place
from i3d_jax.system.errors import UserError, run
from i3d_jax.system.files import instead, refuse_no_folder
from i3d_jax.training.compilation import refuse_absent_platform

EXAMPLE = """\
examples:
  python -m i3d_jax.convert --pretrained rgb_scratch --output checkpoints/rgb_scratch
  python -m i3d_jax.convert --source data/checkpoints/rgb_imagenet --format sonnet_i3d --output checkpoints/rgb
  python -m i3d_jax.convert --source inception_v1.ckpt --format slim_inception_v1 --inflate --output checkpoints/start
  python -m i3d_jax.convert --source hf://someone/i3d_rgb@main --output checkpoints/theirs
  python -m i3d_jax.convert --source runs/mine --format native --to torch_i3d --output mine.pt
"""
IMPORTERS = {
    "sonnet_i3d": lambda options: sonnet_i3d.read(options.source, stream=options.stream),
    "flax_i3d": lambda options: flax_i3d.read(options.source, stream=options.stream),
    "torch_i3d": lambda options: torch_i3d.read(options.source, stream=options.stream),
    "slim_inception_v1": lambda options: slim_inception_v1.read(options.source, background=options.background),
    "torch_googlenet": lambda options: torch_googlenet.read(options.source),
}
NATIVE, HUB = "native", "hub"
CACHE = "$XDG_CACHE_HOME/i3d_jax/pretrained, or in ~/.cache"
IMAGE_FORMATS = ("slim_inception_v1", "torch_googlenet")


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = _parser().parse_args(arguments)
    _check(options)
    if options.format == NATIVE:
        terminal.say(f"reading {options.source} …")
        lines = torch_export.write(options.source, options.output, target=options.to, stream=options.stream)
        print("\n".join(lines))
        return
    with _source(options) as named:
        if options.format == HUB:
            _from_hub(options, named)
        else:
            _from_files(options, named)


def _from_files(options: argparse.Namespace, named: Callable[[str], str]) -> None:
    terminal.say(f"reading {named(str(options.source))} …")
    imported = IMPORTERS[options.format](options)
    print(named("\n".join(imported.report(file_format=options.format))))
    release = _release(imported, options)
    names, found_in = labels.labels_of(imported, options.labels)
    print(named(f"labels: {found_in}"))
    weights = {name: named(text) for name, text in imported.weights.provenance().items()}
    provenance = {**weights, "format": options.format, "date": _now(), **release}
    network = imported
    if options.inflate:
        refuse_absent_platform()
        profile = provenance["inflated"] = options.temporal_profile or "average"
        network = boring_video.inflated(imported, stream=options.stream or "rgb", profile=profile)
    checkpoint.save(options.output, network.description(names, provenance), network.variables)
    print(f"the checkpoint of {network.model!r} is in {options.output}")
    if options.inflate:
        terminal.say("running the image network and the video network on a boring video …")
        found = boring_video.deviation(imported, network)
        print(
            f"boring video: a random image, repeated, deviates from the image by at most {found.relative:.1e} of the "
            f"greatest activation over {found.endpoints} endpoints (at {found.endpoint})"
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _from_hub(options: argparse.Namespace, named: Callable[[str], str]) -> None:
    folder = hub.fetched(options.source) if isinstance(options.source, str) else options.source
    description, variables, weights = hub.read(folder)
    source = named(str(options.source))
    if options.stream is not None and (streams := description.create_model().streams) != (options.stream,):
        raise UserError(f"{source} sees {' and '.join(streams)}, --stream {options.stream} was asked for")
    of_files = {name: named(text) for name, text in weights.provenance().items()}
    provenance: dict[str, Any] = {**of_files, "source": source, "format": HUB, "date": _now()}
    provenance |= {"original": description.provenance}
    description = dataclasses.replace(description, provenance=provenance)
    checkpoint.save(options.output, description, variables)
    size = f"{len(weights.arrays)} arrays, {description.num_classes} classes"
    print(f"the checkpoint of {description.model!r} is in {options.output}: {size}, from {source}")


@contextlib.contextmanager
def _source(options: argparse.Namespace) -> Iterator[Callable[[str], str]]:
    """Fetches what --pretrained names, and sets `source`, `format` and `labels` as if the user had given the files.

    A source in a bucket is copied to this machine, with what is named like it and the labels beside it. Yields what
    brings back the source's own name into a text.
    """
    if options.pretrained is None:
        if isinstance(options.source, str) or not files.is_in_bucket(options.source):
            yield str
            return
        source = options.source
        with tempfile.TemporaryDirectory(prefix="i3d_jax-") as folder:
            options.source = copies.copied_like(source, Path(folder), beside="label_map*.txt")

            def named(text: str) -> str:
                return text.replace(folder, str(source.parent))

            try:
                yield named
            except UserError as error:
                raise UserError(named(str(error))) from error
        return
    wanted = pretrained.obtained(
        options.pretrained, mirror=options.mirror, cache=options.cache, with_labels=options.labels is None
    )
    with wanted as found:
        options.source, options.format, options.labels = found.source, found.format, options.labels or found.labels
        yield str


def _release(imported: Imported, options: argparse.Namespace) -> dict[str, str]:
    """Says which checkpoint of the release was read, by its arrays; returns it as `provenance` holds it."""
    if imported.model != "i3d":
        return {}
    found = published.release_of(imported.variables)
    if options.pretrained not in (None, found):
        raise UserError(f"{imported.weights.source} does not hold the arrays of {options.pretrained}")
    if found is None:
        print("release: none of its checkpoints has these arrays")
        return {}
    print(f"release: {found}, by the CRC32C of every array")
    return {"release": found}


def _check(options: argparse.Namespace) -> None:
    """Refuses options that do not go together and an output that is there, before any work."""
    if options.pretrained is not None:
        published.named(options.pretrained)
    elif isinstance(options.source, str):
        if options.format not in (None, HUB):
            raise UserError(f"{options.source} is a Hub folder: it goes with --format {HUB}, or without")
        options.format = HUB
    elif options.format is None:
        raise UserError(
            f"--source needs --format, one of {', '.join((*IMPORTERS, HUB, NATIVE))}: a file's name does not tell"
        )
    images = options.format in IMAGE_FORMATS
    rows = (
        ("--format", options.format, options.pretrained is None, "--source; what --pretrained names has one"),
        ("--mirror", options.mirror, options.pretrained is not None, "--pretrained"),
        ("--cache", options.cache, options.pretrained is not None, "--pretrained"),
        ("--to", options.to, options.format == NATIVE, "--format native"),
        ("--inflate", options.inflate, images, f"the image networks, --format {' or '.join(IMAGE_FORMATS)}"),
        ("--temporal_profile", options.temporal_profile, options.inflate, "--inflate"),
        ("--background", options.background, options.format == "slim_inception_v1", "--format slim_inception_v1"),
        (
            "--labels",
            options.labels,
            options.format not in (NATIVE, HUB),
            "an import; a network of ours has its labels",
        ),
        ("--stream", options.stream, not images or options.inflate, "--inflate where the source is an image network"),
    )
    for option, given, fits, where in rows:
        if given and not fits:
            raise UserError(f"{option} goes with {where}")
    if options.format == NATIVE:
        if not options.to:
            raise UserError(f"--format native needs --to {' or '.join(torch_export.TARGETS)}")
        if instead(options.output) != "nothing":
            raise UserError(f"{options.output} exists: the weights are written to a new file")
        refuse_no_folder(options.output, " of --output")
    else:
        checkpoint.refuse_taken(options.output)


def _place(text: str) -> str | Path:
    return text if text.startswith(hub.SCHEME) else place(text)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m i3d_jax.convert",
        description=__doc__,
        epilog=EXAMPLE,
    )
    add = parser.add_argument
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--pretrained", metavar="NAME", help="a published checkpoint, to be downloaded")
    source_help = "the weights, as a file or folder, or hf://OWNER/NAME[@REVISION]"
    weights.add_argument("--source", metavar="PATH", type=_place, help=source_help)
    add("--format", choices=(*IMPORTERS, HUB, NATIVE), help="of the source")
    add("--output", metavar="PATH", type=place, required=True, help="a new checkpoint folder; with --to, a new file")
    add("--stream", choices=("rgb", "flow"), help="refuses a source of the other; with --inflate, what to make (rgb)")
    add("--labels", metavar="FILE", type=place, help="the classes' names, one a line (default: label_map*.txt near by)")
    add("--background", choices=("drop", "keep"), help="class 0 of TF-Slim (default: dropped from 1001 classes)")
    add("--inflate", action="store_true", help="make an i3d of an image network")
    profile_help = "how --inflate spreads a kernel over time (default: average, as the paper)"
    add("--temporal_profile", choices=inflation.PROFILES, help=profile_help)
    add("--to", choices=torch_export.TARGETS, help="write a checkpoint of ours in this format")
    mirror_help = "where --pretrained finds what the release has in its folder data (default: the release)"
    add("--mirror", metavar="URL", help=mirror_help)
    cache_help = f"where --pretrained keeps what it downloads (default: {CACHE})"
    add("--cache", metavar="DIR", type=local_path, help=cache_help)
    parser.add_quiet()
    return parser


if __name__ == "__main__":
    run(main)
