"""Scores of each stream alone: the laws that tie them to the network's, and what a run says of them."""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_dataset import LABELS, fields, pixels, write_dataset
from helpers.small_networks import small

from experiments import base
from i3d_jax import models
from i3d_jax.models.network import Clip, Network
from i3d_jax.records.shards import ShardIndex, index_path
from i3d_jax.run import resolve
from i3d_jax.run.summary import stream_rows
from i3d_jax.system.errors import UserError
from i3d_jax.training.partition import Devices
from i3d_jax.training.step import evaluation_step

# By architecture: what its logits are of those of its streams.
WHOLE = {"two_stream_i3d": lambda rgb, flow: rgb + flow, "two_stream": lambda rgb, flow: (rgb + flow) / 2}


@pytest.mark.parametrize("name", WHOLE)
def test_the_streams_make_the_whole_and_are_means_over_windows(name):
    model, variables, inputs = small(name)
    random = np.random.default_rng(3)
    clips = {stream: random.integers(0, 256, (2, *example.shape[1:]), np.uint8) for stream, example in inputs.items()}
    # Videos of two windows: clips 0 and 1, 0 twice, 1 twice; then the RGB of the first beside the flow of the second.
    windows = {"rgb": [[0, 1], [0, 0], [1, 1], [0, 1]], "flow": [[0, 1], [0, 0], [1, 1], [0, 0]]}
    batch = {stream: clips[stream][np.array(numbers)] for stream, numbers in windows.items()}
    logits, streams = jax.device_get(jax.jit(evaluation_step(model))(variables, batch))
    assert streams.keys() == {"rgb", "flow"}
    for own in streams.values():
        scale = np.abs(own).max()
        assert np.abs(own[1] - own[2]).max() > 0.01 * scale
        np.testing.assert_allclose(own[0], (own[1] + own[2]) / 2, atol=1e-5 * scale)
    np.testing.assert_array_equal(streams["rgb"][3], streams["rgb"][0])
    np.testing.assert_array_equal(streams["flow"][3], streams["flow"][1])
    np.testing.assert_allclose(logits, WHOLE[name](**streams), atol=1e-5 * np.abs(logits).max())


def test_two_stream_averages_its_snapshots():
    endpoints = {"RGB/Logits": jnp.array([[[1.0, 2], [3, 6]]]), "Flow/Logits": jnp.array([[[0.0, 8], [0, 0]]])}
    found = small("two_stream")[0].stream_logits(endpoints)
    assert {stream: logits.tolist() for stream, logits in found.items()} == {"rgb": [[2.0, 4.0]], "flow": [[0.0, 4.0]]}


@pytest.mark.parametrize("name", [name for name in models.MODELS if name not in WHOLE])
def test_the_others_have_no_scores_of_streams(name):
    assert models.create(name).stream_logits({}) == {}


class Means(Network):
    """Scores that can be worked out by hand: the mean values of a stream's channels, and a third that is 0."""

    streams = ("rgb", "flow")
    flow_per_frame = 1
    training_clip = test_clip = Clip(3, 1, 16)

    @nn.compact
    def __call__(self, inputs, train=False):
        means = {stream: inputs[stream].mean((1, 2, 3))[:, :2] for stream in self.streams}
        endpoints = {stream: jnp.pad(mean, ((0, 0), (0, 1))) for stream, mean in means.items()}
        return endpoints["rgb"] + endpoints["flow"], endpoints

    def stream_logits(self, endpoints):
        return dict(endpoints)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", [6, 9, 4, 7, 3, 12], split="test", flow=True)


def evaluate(dataset, workdir, *, batch_size, devices, max_damaged_share=0.0):
    config = base.get_config("two_stream_i3d")
    config.data.max_damaged_share = max_damaged_share
    config.data.crop, config.evaluation.frames, config.evaluation.windows = 16, 3, 2
    config.evaluation.batch_size = batch_size
    used = Devices(devices=jax.devices()[:devices])
    evaluation = resolve.evaluation_of(config, workdir, dataset, Means(num_classes=len(LABELS)), used)
    return evaluation({}, 7), dict(np.load(workdir / "predictions" / "test.npz"))


def test_an_evaluation_leaves_the_scores_of_each_stream(dataset, tmp_path):
    figures, stored = evaluate(dataset, tmp_path, batch_size=8, devices=4)
    # The log and the checkpoints take plain numbers.
    assert all(isinstance(value, int | float) for value in figures.values())
    beside = {"classes", "confusion", "protocol"}
    assert stored.keys() == {"video", "label", "logits", "logits_rgb", "logits_flow", *beside}
    # Of video4's three frames the first two and their fields are seen, as 0 1 0, in both windows.
    for stream, images in (("rgb", pixels(4, 3)[:2, 1:17, 2:18, :2]), ("flow", fields(4, 3)[:, 1:17, 2:18])):
        first, second = images.mean((1, 2)) / 127.5 - 1
        np.testing.assert_allclose(stored[f"logits_{stream}"][4], [*(2 * first + second) / 3, 0], atol=1e-6)
    np.testing.assert_allclose(stored["logits"], stored["logits_rgb"] + stored["logits_flow"], atol=1e-6)
    results = json.loads((tmp_path / "results.json").read_text())["test"]
    protocol = json.loads(str(stored["protocol"]))
    beside = {"step", "precision", "top1_interval", "class_accuracy"}
    assert results.keys() == {*figures, *protocol, *beside, "streams"}
    assert protocol.items() <= results.items()
    assert list(results["streams"]) == ["rgb", "flow"]
    for stream, own in results["streams"].items():
        assert own.keys() == {"top1", "top5", "mean_class_accuracy", "loss", "videos"}
        assert own["videos"] == 6
        assert own["top1"] == np.mean(stored[f"logits_{stream}"].argmax(1) == stored["label"])


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (4, 2)])
def test_scores_of_streams_are_the_same_for_any_batch_and_any_number_of_devices(dataset, tmp_path, batch_size, devices):
    _, whole = evaluate(dataset, tmp_path / "whole", batch_size=8, devices=4)
    _, found = evaluate(dataset, tmp_path / "other", batch_size=batch_size, devices=devices)
    for name, values in whole.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_split_of_which_nothing_can_be_scored(tmp_path):
    broken = write_dataset(tmp_path / "dataset", [4, 5], shards=1, split="test", flow=True)
    [shard] = broken.directory.glob("*.tfrecord")
    # Of each record a byte of every image.
    content, end = bytearray(shard.read_bytes()), 0
    for length in ShardIndex.read(index_path(shard)).lengths:
        # Behind a record's header of 12 bytes and its own stands its checksum, of 4.
        end += 12 + length + 4
        for place in range(end - 4 - length, end - 4, 50):
            content[place] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"no video of 'test' could be scored, all 2 are damaged, .* test-0"):
        evaluate(broken, tmp_path / "run", batch_size=2, devices=1, max_damaged_share=1.0)
    assert not (tmp_path / "run").exists()


def test_the_rows_of_the_final_table():
    streams = {"rgb": {"top1": 0.9875, "top5": 1.0}, "flow": {"top1": 0.05, "top5": 0.5}}
    assert stream_rows({"top1": 0.75, "top5": 0.875, "streams": streams}) == [
        ("RGB alone", "top-1  98.8%, top-5 100.0%"),
        ("flow alone", "top-1   5.0%, top-5  50.0%"),
        ("RGB + flow", "top-1  75.0%, top-5  87.5%"),
    ]
    assert stream_rows({"top1": 0.75, "top5": 0.875}) == []
