"""With the published weights at hand: real clips are named, and Fréchet distances of the publications come out.

The arrays of rgb_scratch stand beside a developer's checkout as another port pickled them. Written as TensorFlow writes
them, they are the release's files to the byte, which a server on this machine then offers to `--pretrained`.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import chex
import cv2
import jax
import numpy as np
import pytest
from helpers.foreign_checkpoints import FLAX_LEAVES, write_tensorflow
from helpers.mirrors import served

from i3d_jax import checkpoint
from i3d_jax.importers import flax_i3d, pickled_arrays, published
from i3d_jax.inference.answers import answers
from i3d_jax.inference.loaded import LoadedNetwork
from i3d_jax.video.plans import Sliding
from i3d_jax.video.write import write_video

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT.parent / "shared" / "reference"
NAME = "rgb_scratch"
# The clips, what they show, and the least probability of it.
CLIPS = {
    "v_CricketShot_g04_c01_rgb.gif": "playing cricket",
    "arm_wrestling.mp4": "arm wrestling",
    "flipping_a_pancake.mkv": "flipping pancake",
    "cleaning_pool.mp4": "cleaning pool",
}
LEAST = 0.95
# Squared distances of the logits of an all-zero and an all-one video, by frames: what the Fréchet Video Distance of two
# sets without variance is. Published by the reference in TensorFlow (30 frames) and by its torchscript port (16).
DISTANCES = {30: 151.39244, 16: 152.9175}


def python(*arguments):
    """Runs Python as a user does, without the quick compilation of the tests, and returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"NO_PROXY": "127.0.0.1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def weights():
    path = REFERENCE / "weights" / "i3d-kinetics-400.ckpt"
    if not path.is_file():
        pytest.skip("the published weights are not on this machine")
    return path


@pytest.fixture(scope="module")
def data(weights, tmp_path_factory):
    """The release's folder `data` with rgb_scratch, rebuilt."""
    folder = tmp_path_factory.mktemp("release") / "data"
    leaves = {"/".join(value): f"{name}" for name, value in FLAX_LEAVES.items()}
    arrays = {}
    with open(weights, "rb") as file:
        for path, array in pickled_arrays.read(file, weights).items():
            collection, *unit, layer, leaf = path.split("/")
            name = "/".join(unit).replace("Mixed_5b/Branch_2/Conv3d_0b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3")
            array = array.reshape(-1) if collection == "batch_stats" else array
            arrays[f"RGB/inception_i3d/{name}/{leaves[f'{collection}/{layer}/{leaf}']}"] = array
    write_tensorflow(folder / "checkpoints" / NAME / "model.ckpt", dict(sorted(arrays.items())))
    (folder / "label_map.txt").write_bytes((REFERENCE / "label_map_kinetics400.txt").read_bytes())
    return folder


@pytest.fixture(scope="module")
def rgb(data):
    """The checkpoint that `convert --pretrained rgb_scratch` makes."""
    output = data.parent / "rgb"
    with served(data) as mirror:
        options = ("--pretrained", NAME, "--mirror", mirror.address, "--cache", data.parent / "cache")
        told = python("-m", "i3d_jax.convert", *options, "--output", output)
    assert "release: rgb_scratch, by the CRC32C of every array" in told
    return output


def test_it_is_the_release_by_every_sum(rgb, weights):
    metadata = json.loads((rgb / "model.json").read_text())
    assert metadata["provenance"]["release"] == NAME
    pickled = flax_i3d.read(weights, stream="rgb").variables
    chex.assert_trees_all_equal(checkpoint.load(rgb)[1], pickled)
    assert published.release_of(pickled) == NAME


@pytest.mark.long
def test_real_clips_are_named(rgb, real_videos):
    clips = [real_videos / name for name in CLIPS]
    told = json.loads(python("-m", "i3d_jax.predict", *clips, "--checkpoint", rgb, "--format", "json", "--top_k", 1))
    found = {Path(one["video"]).name: one["predictions"][0] for one in told}
    assert {name: best["label"] for name, best in found.items()} == CLIPS
    assert min(best["probability"] for best in found.values()) >= LEAST


@pytest.mark.long
def test_a_change_in_a_long_video_is_found_within_a_stride(rgb, real_videos, tmp_path):
    """Two real clips, one behind the other."""
    clips = {"arm_wrestling.mp4": "arm wrestling", "cleaning_pool.mp4": "cleaning pool"}
    pieces = []
    for name in clips:
        with av.open(str(real_videos / name)) as container:
            frames = itertools.islice(container.decode(video=0), 56)
            pieces += [cv2.resize(frame.to_ndarray(format="rgb24"), (340, 256)) for frame in frames]
    write_video(tmp_path / "both.mp4", np.stack(pieces), 25)
    network = LoadedNetwork(rgb)
    [answer] = answers([network], [str(tmp_path / "both.mp4")], Sliding(window=32, stride=16))
    first, second = answer.stretches()
    assert [first.label, second.label] == list(clips.values())
    assert abs(first.end - 56 / 25) <= 16 / 25


@pytest.mark.long
def test_the_distance_of_videos_without_content_that_a_port_publishes(rgb):
    model, variables, _ = checkpoint.load(rgb)
    # Pixels of 0 and 255 are -1 and 1 to the network.
    videos = np.stack([np.full((16, 224, 224, 3), value, np.float32) for value in (-1, 1)])
    zeros, ones = jax.jit(lambda clips: model.apply(variables, {"rgb": clips})[0])(videos)
    assert float(((zeros - ones) ** 2).sum()) == pytest.approx(DISTANCES[16], abs=0.02)


@pytest.mark.long
def test_the_published_frechet_video_distance(rgb, tmp_path):
    """By the command, which takes these weights without being told to; the sets have no variance."""
    for name, value in (("zeros", 0), ("ones", 255)):
        np.save(tmp_path / f"{name}.npy", np.full((2, 30, 64, 64, 3), value, np.uint8))
    sets = [tmp_path / "zeros.npy", tmp_path / "ones.npy"]
    options = ("--checkpoint", rgb, "--frames", 30, "--batch_size", 2, "--format", "json")
    told = json.loads(python("-m", "i3d_jax.fvd", *sets, *options))
    assert told["fvd"] == pytest.approx(DISTANCES[30], abs=0.001)
    assert told["checkpoint"] == NAME
