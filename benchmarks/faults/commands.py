"""Mutants of inputs given to the commands themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from . import mutants, reading
from .processes import Ended, run, violation
from .tried import Campaign, Tried, half_written

# The kinds of `reading`, and which command reads each.
KINDS = (
    "video", "annotations", "archive (npz)", "shard", "checkpoint", "model.json", "dataset.json", "configuration",
    "foreign checkpoint", "shard index", "recipe", "hub folder", "statistics", "features",
)  # fmt: skip


def give(campaign: Campaign, number: int) -> Tried:
    """Gives a command a mutant: it is used, or skipped and counted, or refused in one sentence with exit code 2."""
    kind = KINDS[number % len(KINDS)]
    folder = campaign.folder / f"command_{number}"
    # The mutant of that kind, from numbers of its own.
    place = list(reading.KINDS).index(kind) + len(reading.KINDS) * (1_000_000 + number)
    _, damaged, what, draw = reading.prepared(place, campaign.seed, campaign.materials, folder / "input")
    output = folder / "output"
    materials = campaign.materials
    video = str(sorted(materials.videos().glob("*.mp4"))[0])
    if kind == "video":
        if draw.random() < 0.5:
            arguments = materials.prepare_arguments(output, folder / "input")
        else:
            checkpoint = ["--checkpoint", str(materials.trained()), "--format", "json"]
            arguments = ["-m", "i3d_jax.predict", str(damaged), *checkpoint]
    elif kind in ("checkpoint", "model.json"):
        arguments = ["-m", "i3d_jax.predict", video, "--checkpoint", str(folder / "input"), "--format", "json"]
    elif kind == "annotations":
        dialects = {"kinetics.csv": "kinetics", "labels.csv": "csv", "growing_test_split1.txt": "hmdb51"}
        dialect = dialects.get(damaged.name, "ucf101")
        named = damaged.with_name("trainlist01.txt") if dialect == "ucf101" else damaged
        names = ["--annotations", str(named), "--videos", str(materials.videos()), "--dialect", dialect]
        arguments = ["-m", "i3d_jax.prepare", *names, "--output", str(output), "--short_side=40", "--processes=1"]
    elif kind in ("shard", "dataset.json", "shard index"):
        arguments = materials.main_arguments(output, folder / "input", steps=2)
    elif kind == "configuration":
        key = draw.choice(("total_steps", "batch_size", "data.frames", "optimizer.name", "model.dtype", "seed"))
        change = f"--config.{key}={draw.choice(mutants.ODD_TEXTS)}".replace("\x00", "")
        what = f"{change:.60}"
        arguments = [*materials.main_arguments(output, steps=2), change]
    elif kind == "archive (npz)":
        other = materials.small() / "predictions.npz"
        arguments = ["-m", "i3d_jax.fuse", str(damaged), str(other), "--output", str(folder / "sum.npz")]
    elif kind == "recipe":
        data = f"--config.data.directory={materials.dataset()}"
        arguments = ["-m", "i3d_jax.main", "--config", str(damaged), data, "--workdir", str(output)]
    elif kind == "hub folder":
        given = ["--source", str(folder / "input"), "--format", "hub", "--output", str(output)]
        predicted = [video, "--checkpoint", str(folder / "input"), "--format", "json"]
        arguments = ["-m", *draw.choice((["i3d_jax.convert", *given], ["i3d_jax.predict", *predicted]))]
    elif kind == "statistics":
        other = materials.small() / "statistics0.npz"
        arguments = ["-m", "i3d_jax.fvd", str(other), str(damaged), "--format", "json"]
    elif kind == "features":
        # Of a folder that is resumed: written in place, so it is no link.
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder / "input", output)
        arguments = materials.features_arguments(output)
    else:
        names = {".ckpt": "flax_i3d", ".gz": "flax_i3d", ".pt": "torch_i3d", ".safetensors": "torch_i3d"}
        form = "sonnet_i3d" if damaged.name.startswith("model.ckpt") else names[damaged.suffix]
        arguments = ["-m", "i3d_jax.convert", "--source", str(damaged), "--format", form, "--output", str(output)]
    ended = run(arguments, folder / "logs")
    wrong = violation(ended) or _wrong_output(ended, folder, output)
    return Tried(kind=kind, number=number, what=f"{what}: exit code {ended.code}", violated=wrong)


def _wrong_output(ended: Ended, folder: Path, output: Path) -> str | None:
    """Says what is wrong with what a command has written; None where nothing is."""
    if output.exists() and (left := half_written(output)):
        return f"half-written: {', '.join(left[:3])}"
    if ended.code == 2 and (output / "model.json").exists():
        return "a checkpoint after exit code 2"
    if ended.output.startswith(("[", "{")):
        try:
            json.loads(ended.output, parse_constant=_refuse)
        except ValueError as error:
            return f"standard output is no JSON: {error}"
    if "\x1b" in ended.output + ended.errors:
        return "an escape sequence for terminals was printed"
    for path in output.rglob("*.jsonl") if output.exists() else ():
        for line in path.read_text().splitlines():
            json.loads(line, parse_constant=_refuse)
    shutil.rmtree(folder / "input", ignore_errors=True)
    return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} in JSON")
