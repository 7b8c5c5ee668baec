"""Protocols: what a video's scores are by each, what figures say of theirs, and how evaluation keeps devices busy."""

from __future__ import annotations

import dataclasses
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_dataset import fields, pixels, write_dataset
from helpers.small_networks import small

from experiments import base
from i3d_jax.clips import Sampling
from i3d_jax.data import pipeline
from i3d_jax.data.pipeline import BatchOptions
from i3d_jax.data.preprocessing import crops
from i3d_jax.evaluation import results
from i3d_jax.evaluation.accuracy import bootstrap_interval, class_accuracy, confusion
from i3d_jax.evaluation.predictions import Predictions, in_flight
from i3d_jax.evaluation.protocol import Protocol, text
from i3d_jax.ingest.published_counts import SPECS
from i3d_jax.run import recipe, resolve
from i3d_jax.run.summary import figures_text
from i3d_jax.system.errors import UserError
from i3d_jax.training.partition import Devices
from i3d_jax.training.precision import computed_in
from i3d_jax.training.step import evaluation_step, scaled

LENGTHS = [6, 9, 4, 7]
BOTH = BatchOptions(batch_size=2, sampling=Sampling(frames=3), streams=("rgb", "flow"), crop=16, max_damaged_share=0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", LENGTHS, split="test", flow=True)


@pytest.mark.parametrize("number", [1, 3, 5, 10])
def test_a_batch_holds_the_crops_of_each_window(dataset, number):
    batches = list(pipeline.evaluation_batches(dataset, "test", BOTH, windows=2, crops=number))
    whole = {"rgb": pixels(1, 9), "flow": fields(1, 9)}
    for stream, images in whole.items():
        found = batches[0][stream][1]
        assert found.shape == (2 * number, 3, 16, 16, images.shape[-1])
        # Nine frames have eight fields: the second window begins at the sixth.
        for window, begin in enumerate((0, 5)):
            rounding = "nearest" if stream == "flow" else None
            expected = crops(images[begin : begin + 3], 16, number, flow_rounding=rounding)
            np.testing.assert_array_equal(found[window * number : (window + 1) * number], expected)


def test_crops_of_frames_that_the_network_sees_smaller(dataset):
    options = dataclasses.replace(BOTH, streams=("rgb",), crop=8, network_short_side=9)
    of_five, of_one = (next(pipeline.evaluation_batches(dataset, "test", options, windows=1, crops=n)) for n in (5, 1))
    np.testing.assert_array_equal(of_five["rgb"][:, 2], of_one["rgb"][:, 0])


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_scores_are_the_averages_of_what_the_network_gives_for_each(average):
    model, variables, _ = small("two_stream_i3d")
    random = np.random.default_rng(0)
    batch = {
        stream: random.integers(0, 256, (2, 6, *shape), np.uint8) for stream, shape in model.input_shapes(9, 32).items()
    }
    logits, streams = jax.device_get(jax.jit(evaluation_step(model, average=average))(variables, batch))
    apply = jax.jit(model.apply)
    for video in range(2):
        every = [
            apply(variables, {stream: scaled(values[video, view])[None] for stream, values in batch.items()})
            for view in range(6)
        ]
        one_by_one = np.float64([one[0][0] for one in every]), np.float64([one[1]["RGB/Logits"][0] for one in every])
        for found, own in zip((logits[video], streams["rgb"][video]), one_by_one, strict=True):
            if average == "logits":
                np.testing.assert_allclose(found, own.mean(0), rtol=1e-5, atol=1e-5)
                continue
            probabilities = np.exp(own) / np.exp(own).sum(1, keepdims=True)
            np.testing.assert_allclose(np.exp(found), probabilities.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(
    ("precision", "dtype", "exact"),
    [("highest", "float32", True), ("default", "float32", False), ("highest", "bfloat16", False)],
)
def test_a_float32_network_multiplies_in_float32_on_every_device(precision, dtype, exact, platform):
    model, variables, inputs = small("two_stream_i3d")
    step = evaluation_step(model.clone(dtype=jnp.dtype(dtype)), precision=precision)
    batch = {stream: np.zeros((1, 1, *values.shape[1:]), np.uint8) for stream, values in inputs.items()}
    lowered = jax.jit(step).trace(variables, batch).lower(lowering_platforms=(platform,)).as_text()
    products = re.findall(r"stablehlo\.(?:dot_general|convolution).*", lowered)
    # Of each stream three in the stem, on TPUs a fourth that orders columns; six in each Mixed block; the classifier.
    assert len(products) == 2 * (3 + (platform == "tpu") + 2 * 6 + 1)
    assert {"HIGHEST" in product for product in products} == {exact}
    with pytest.raises(UserError, match="one of highest, default, found 'high'"):
        computed_in("high")


LOGITS = np.array([[3, 1, 0], [2, 1, 0], [2, 1, 0], [0, 1, 5], [0, 2, 1]], np.float32)
RIGHT = np.array([0, 1, 2, 2, 2])


def test_who_is_taken_for_whom_by_hand():
    assert confusion(LOGITS, RIGHT).tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 1]]
    assert class_accuracy(LOGITS, RIGHT) == {0: 1.0, 1: 0.0, 2: 1 / 3}
    # A class without videos has no accuracy.
    assert class_accuracy(LOGITS[:1], RIGHT[:1]) == {0: 1.0}


def test_the_interval_is_that_of_drawn_videos_and_of_the_binomial():
    """60 of 80 right: 95% of draws have 52 to 67 right (the binomial's quantiles, by its exact distribution)."""
    labels = np.zeros(80, int)
    logits = np.eye(2)[(np.arange(80) >= 60).astype(int)]
    found = bootstrap_interval(logits, labels)
    assert found == bootstrap_interval(logits, labels)
    random = np.random.default_rng(5)
    means = [(random.integers(0, 80, 80) < 60).mean() for _ in range(4000)]
    np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975]), atol=0.013)
    np.testing.assert_allclose(found, [52 / 80, 67 / 80], atol=0.013)
    assert bootstrap_interval(logits[:60], labels[:60]) == (1.0, 1.0)
    assert np.isnan(bootstrap_interval(logits[:0], labels[:0])).all()


def test_a_batch_is_in_flight_while_the_next_is_read():
    done = []

    def reading():
        for number in range(3):
            done.append(f"read {number}")
            yield {"number": np.array(number)}

    def start(batch):
        done.append(f"start {batch['number']}")
        return int(batch["number"])

    for _, number in in_flight(start, reading()):
        done.append(f"fetch {number}")
    expected = "read 0, start 0, read 1, start 1, fetch 0, read 2, start 2, fetch 1, fetch 2"
    assert ", ".join(done) == expected
    assert list(in_flight(start, [])) == []


def test_kinetics_validation_on_a_pod_leaves_no_device_without_a_video(dataset, monkeypatch):
    """64 hosts of 4 devices: 19,906 videos are 78 rounds of 256, of which the last alone is padded, by 62."""
    monkeypatch.setattr(jax, "process_count", lambda: 64)
    monkeypatch.setattr(jax, "process_index", lambda: 63)
    videos = SPECS["kinetics400"].splits["val"]
    places = [None] * videos
    reader = types.SimpleNamespace(places=places, damaged={}, read=lambda place, choose: None)
    monkeypatch.setattr(pipeline, "open_reader", lambda *given: reader)
    devices = types.SimpleNamespace(count=256)
    for asked, rows in ((1, 4), (8, 4), (256, 4), (257, 8)):
        config = base.get_config()
        config.evaluation.batch_size = asked
        network = resolve.create_model(config, 400)
        options = resolve.evaluation_of(config, None, dataset, network, devices).options
        assert (options.rows, options.hosts) == (rows, 64)
        assert options.rounds(videos) == (78 if rows == 4 else 39)
    # Every device has a row of its own in each round, and each video is in one row of one host.
    options = dataclasses.replace(options, batch_size=256)
    seen = [dataclasses.replace(options, host=host).global_row(np.arange(78 * 4)) for host in range(64)]
    assert sorted(np.concatenate(seen).tolist()) == list(range(78 * 256))


def evaluation(dataset, workdir, **changes):
    config = base.get_config("two_stream_i3d")
    config.update_from_flattened_dict({"data.crop": 32, "evaluation.frames": 9, **changes})
    return resolve.evaluation_of(config, workdir, dataset, None, Devices(devices=jax.devices()[:1]))


def test_figures_of_before_are_those_of_the_whole_video(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "_batch_options", lambda *given: BOTH)
    results.record(tmp_path / "results.json", "test", {"top1": 0.5, "step": 7, "frames": 3, "windows": 2})
    assert evaluation(dataset, tmp_path, **{"evaluation.windows": 2}).is_stored(7)
    for other in (
        {"evaluation.windows": 1},
        {"evaluation.windows": 2, "evaluation.protocol": "windows"},
        {"evaluation.windows": 2, "evaluation.protocol": "dense"},
    ):
        assert not evaluation(dataset, tmp_path, **other).is_stored(7)
    old = {"top1": 0.5, "top5": 1.0, "mean_class_accuracy": 0.5, "loss": 1.0, "videos": 4, "damaged": 0}
    assert figures_text("test", old).startswith("test: top-1 50.0%, top-5")
    assert "top-1 50.0% (95%: 25.0 to 75.0), top-5" in figures_text("test", {**old, "top1_interval": [0.25, 0.75]})


def test_a_run_of_before_goes_on_with_plateau(tmp_path):
    """Its configuration says nothing of protocols; another than its own changes what the rate follows from."""
    config = base.get_config()
    config.optimizer.schedule = "plateau"
    values = json.loads(config.to_json())
    for key in ("protocol", "crops", "average", "precision"):
        del values["evaluation"][key]
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "checkpoints" / "7" / "tree").mkdir(parents=True)
    (tmp_path / "checkpoints" / "7" / "model.json").write_text("{}")
    recipe.refuse_other(config, tmp_path)
    config.evaluation.protocol = "windows"
    with pytest.raises(UserError, match=r"evaluation\.protocol was 'whole_video' and is 'windows'"):
        recipe.refuse_other(config, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"name": "whole_vidio"},
            r"protocol must be one of whole_video, windows, dense, found .*did you mean 'whole_video'",
        ),
        ({"name": "windows", "crops": 2}, "crops must be one of 1, 3, 5, 10, found 2"),
        ({"name": "windows", "average": "scores"}, "average must be one of logits, probabilities, found 'scores'"),
        ({"name": "whole_video", "crops": 3}, "crops 3 goes with evaluation.protocol 'windows': 1 was expected with"),
        ({"name": "dense", "average": "probabilities"}, "'windows': 'logits' was expected with 'dense'"),
        ({"name": "windows", "windows": 0}, "windows must be 1 or more, found 0"),
    ],
)
def test_protocols_that_there_are_not(changes, words):
    with pytest.raises(UserError, match=words):
        Protocol(**changes)


def test_a_protocol_in_words():
    ten = Protocol(name="windows", windows=2, crops=10, average="probabilities").described(
        Sampling(frames=64, stride=2)
    )
    assert text(ten) == "windows: 2 windows of 64 frames, one in 2, 10 crops, probabilities averaged"
    paper = Protocol().described(Sampling(frames=250))
    assert text(paper) == "whole_video: 1 window of 250 frames, the centre crop, logits averaged"
    assert text(Protocol(name="dense").described(Sampling(frames=250))) == "dense: all frames of each video at once"


def test_predictions_keep_their_protocol_and_what_was_taken_for_what(tmp_path):
    described = Protocol().described(Sampling(frames=250))
    Predictions(np.array(list("abcde")), RIGHT, LOGITS, {}, protocol=described).save(tmp_path / "test.npz")
    assert Predictions.load(tmp_path / "test.npz").protocol == described
    assert np.load(tmp_path / "test.npz")["confusion"].tolist() == confusion(LOGITS, RIGHT).tolist()
    np.savez(tmp_path / "other.npz", video=np.array(list("abcde")), label=RIGHT, logits=LOGITS, protocol="[1]")
    with pytest.raises(UserError, match=r"other.npz: a protocol, as JSON of an object, was expected, found \[1\]"):
        Predictions.load(tmp_path / "other.npz")
