"""What the tests of `convert` share: the command, the release's folder with the golden weights, and what they give."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np

from helpers.foreign_checkpoints import SEEDS, golden_arrays, write_tensorflow
from helpers.golden import GOLDEN
from i3d_jax import checkpoint, convert

KINETICS = [f"action {number}" for number in range(400)]


def run(**options):
    """Runs the command with options as keywords; True is a flag."""
    arguments = []
    for name, value in options.items():
        arguments += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    convert.main(arguments)


@functools.cache
def jitted(model):
    return jax.jit(model.apply)


def reproduces_the_golden_file(directory, stream):
    model, variables, _ = checkpoint.load(directory)
    assert model.stream == stream
    golden = np.load(next(GOLDEN.glob(f"golden_{stream}_seed*.npz")))
    clip = np.random.default_rng([SEEDS[stream], 7]).uniform(-1, 1, golden["input_shape"]).astype(np.float32)
    logits, endpoints = jitted(model)(variables, {stream: clip})
    for found, expected in ((logits, golden["logits"]), (endpoints["features"], golden["features"])):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def write_release(data: Path, streams: Iterable[str]) -> Path:
    """Writes the release's folder `data` with the golden weights of these streams."""
    for stream in streams:
        write_tensorflow(data / "checkpoints" / f"{stream}_imagenet" / "model.ckpt", golden_arrays(stream))
    (data / "label_map.txt").write_text("\n".join(KINETICS))
    (data / "label_map_600.txt").write_text("\n".join(map(str, range(600))))
    return data


def inflated(capsys, **options):
    """Runs `--inflate`; returns (model, variables, metadata) and the deviation that it prints last."""
    run(inflate=True, **options)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("boring video: a random image, repeated, deviates from the image by at most ")
    return *checkpoint.load(options["output"]), float(last.split("at most ")[1].split()[0])
