"""A checkpoint from elsewhere is scored on a dataset whose classes are some of its own, by their names."""

from __future__ import annotations

import functools
import json
import re

import numpy as np
import pytest
from helpers.small_checkpoints import save_stream

from i3d_jax import main
from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.drawn import actions
from i3d_jax.ingest.annotations import read
from i3d_jax.ingest.local import make_shards
from i3d_jax.ingest.options import DatasetOptions
from i3d_jax.ingest.preparation import prepare_dataset
from i3d_jax.system import progress
from i3d_jax.system.errors import UserError
from i3d_jax.video.write import write_video


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A test video of each of the eight actions, of 48 pixels."""
    folder = tmp_path_factory.mktemp("dataset")
    annotations = actions.draw_dataset(folder, actions.plan({"test": 1}, seed=1), write_video)
    options = DatasetOptions(name="small", preprocessing=Preprocessing(short_side=48))
    making = functools.partial(make_shards, processes=1)
    prepare_dataset(read("csv", annotations, folder), folder, folder / "dataset", options, make_shards=making)
    return open_dataset(folder / "dataset")


def told(text):
    """How many of the eight videos were scored, line by line."""
    return [int(number) for number in re.findall(r"^scoring test: (\d+) of 8 videos(?=,| in|$)", text, re.MULTILINE)]


def evaluate(dataset, directory, workdir, *, variant="small", **more):
    keys = {"data.directory": dataset.directory, "data.crop": 32, "evaluation.frames": 9, "evaluation.split": "test"}
    keys |= {"report": False, **{f"evaluation.{name}": value for name, value in more.items()}}
    changes = [f"--config.{key}={value}" for key, value in keys.items()]
    where = ["--workdir", str(workdir), "--mode", "evaluate", "--checkpoint", str(directory)]
    main.main(["--config", f"experiments/custom.py:{variant}", *where, *changes])


def files(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_classes_are_found_by_their_names(dataset, tmp_path):
    """They stand elsewhere among others, in another spelling."""
    others = ["abseiling", *(label.upper().replace(" ", "_") for label in reversed(dataset.labels)), "zumba"]
    save_stream(tmp_path / "network", stream="rgb", labels=others)
    before = files(tmp_path / "network")
    evaluate(dataset, tmp_path / "network", tmp_path / "figures")
    assert files(tmp_path / "network") == before
    found = np.load(tmp_path / "figures" / "predictions" / "test.npz")
    assert found["classes"].tolist() == ["abseiling", *reversed(dataset.labels), "zumba"]
    assert found["logits"].shape == (8, 10)
    # The videos are named after their actions.
    for video, label in zip(found["video"], found["label"], strict=True):
        assert str(video).startswith(found["classes"][label].replace(" ", "_"))
    figures = json.loads((tmp_path / "figures" / "results.json").read_text())["test"]
    assert figures["top1"] == np.mean(found["logits"].argmax(1) == found["label"])
    assert figures["videos"] == 8


def test_what_cannot_be_scored(dataset, tmp_path):
    save_stream(tmp_path / "network", stream="rgb", labels=[*dataset.labels[1:], "zumba"])
    with pytest.raises(UserError, match=f"1 of the 8 classes of .* are none of .*, the first '{dataset.labels[0]}'"):
        evaluate(dataset, tmp_path / "network", tmp_path / "figures")
    save_stream(tmp_path / "other", stream="rgb", labels=dataset.labels)
    for workdir in (tmp_path / "other", tmp_path):
        with pytest.raises(UserError, match="holds checkpoints of its own: another folder was expected"):
            evaluate(dataset, tmp_path / "other", workdir)
    with pytest.raises(UserError, match="--checkpoint goes with --mode evaluate and with --workdir"):
        main.main(["--config", "experiments/custom.py:small", "--checkpoint", str(tmp_path / "other")])


def test_the_protocol_is_printed_and_stands_beside_the_figures(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    save_stream(tmp_path / "network", stream="rgb", labels=dataset.labels)
    ten = {"protocol": "windows", "windows": 2, "crops": 10, "average": "probabilities"}
    evaluate(dataset, tmp_path / "network", tmp_path / "ten", batch_size=4, **ten)
    printed, progress_lines = capsys.readouterr()
    assert told(progress_lines) == [4, 8, 8]
    assert "  protocol     windows: 2 windows of 9 frames, 10 crops, probabilities averaged\n" in printed
    figures = json.loads((tmp_path / "ten" / "results.json").read_text())["test"]
    found = np.load(tmp_path / "ten" / "predictions" / "test.npz")
    protocol = {**ten, "frames": 9, "stride": 1}
    assert json.loads(str(found["protocol"])) == protocol
    assert {**protocol, "precision": "highest", "expected": 8, "videos": 8, "damaged": 0}.items() <= figures.items()
    # They are probabilities: the softmax of what is stored leaves it as it is.
    np.testing.assert_allclose(np.exp(found["logits"]).sum(1), 1, rtol=1e-5)
    lowest, highest = figures["top1_interval"]
    assert lowest <= figures["top1"] <= highest
    assert f"top-1 {100 * figures['top1']:.1f}% (95%: {100 * lowest:.1f} to {100 * highest:.1f})" in printed
    # Each class has one video: its accuracy is 0 or 1, and stands on the diagonal.
    assert list(figures["class_accuracy"]) == list(dataset.labels)
    assert list(figures["class_accuracy"].values()) == np.diag(found["confusion"]).tolist()


def test_a_whole_video_of_any_length_is_not_for_every_network(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    save_stream(tmp_path / "network", stream="rgb", labels=dataset.labels)
    with pytest.raises(UserError, match=r"'dense' takes videos of any length.*; C3D sees clips of a length of its own"):
        evaluate(dataset, tmp_path / "network", tmp_path / "figures", variant="c3d", protocol="dense")
    evaluate(dataset, tmp_path / "network", tmp_path / "figures", protocol="dense", batch_size=4)
    assert told(capsys.readouterr().err) == [4, 8, 8]
    figures = json.loads((tmp_path / "figures" / "results.json").read_text())["test"]
    assert {"protocol": "dense", "stride": 1, "average": "logits"}.items() <= figures.items()
    assert not {"frames", "windows", "crops"} & figures.keys()
