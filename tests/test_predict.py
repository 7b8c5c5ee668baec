"""Two networks trained apart, and flow of which it is not known who computed it."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers.moving_pictures import sliding, write_lossless
from helpers.small_checkpoints import LABELS, save_stream

from i3d_jax import checkpoint, predict
from i3d_jax.inference import writing
from i3d_jax.inference.loaded import LoadedNetwork
from i3d_jax.system.errors import UserError
from i3d_jax.video.tvl1_backends import description

# What is known of the flow of the published weights.
PUBLISHED = {"algorithm": "tvl1", "bound": 20.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    write_lossless(folder / "video.mkv", sliding(10, right=2, down=-1))
    save_stream(folder / "rgb", stream="rgb")
    save_stream(folder / "flow", stream="flow", flow=description("opencv"))
    save_stream(folder / "published", stream="flow", flow=PUBLISHED)
    return folder


def logits(capsys, folder, *more):
    arguments = [str(folder / "video.mkv"), *map(str, more), "--top_k", "3", "--format", "json"]
    assert predict.main(arguments) == 0
    printed = capsys.readouterr()
    [found] = json.loads(printed.out)
    by_label = {one["label"]: one for one in found["predictions"]}
    assert sum(one["probability"] for one in by_label.values()) == pytest.approx(1)
    return np.array([by_label[label]["logit"] for label in LABELS]), printed.err


def test_two_streams_are_the_sum_of_their_logits(folder, capsys):
    rgb, _ = logits(capsys, folder, "--checkpoint", folder / "rgb")
    flow, said = logits(capsys, folder, "--checkpoint", folder / "flow")
    both, _ = logits(capsys, folder, "--checkpoint", folder / "rgb", "--flow_checkpoint", folder / "flow")
    assert np.abs(rgb).max() > 1e-3
    assert np.abs(flow).max() > 1e-3
    np.testing.assert_allclose(both, rgb + flow, rtol=1e-6)
    assert said == f"computing the flow of {folder / 'video.mkv'} …\n"


def test_flow_of_which_nobody_says_who_computed_it_is_opencvs(folder, capsys):
    known, _ = logits(capsys, folder, "--checkpoint", folder / "flow")
    published, said = logits(capsys, folder, "--checkpoint", folder / "published")
    np.testing.assert_array_equal(published, known)
    version = description("opencv")["version"]
    expected = f"{folder / 'published'} does not say who computed its flow: here OpenCV {version} does, by TV-L1"
    assert said.splitlines() == [expected, f"computing the flow of {folder / 'video.mkv'} …"]


def test_a_network_of_one_class_says_so(folder, tmp_path, capsys):
    save_stream(tmp_path / "one", stream="rgb", labels=["jump"])
    assert predict.main([str(folder / "video.mkv"), "--checkpoint", str(tmp_path / "one")]) == 0
    printed = capsys.readouterr()
    assert "100.0%" in printed.out
    assert printed.err == f"note: {tmp_path / 'one'} knows 'jump' alone: every video gets 100% of it\n"


def test_a_workdirs_step_is_chosen_and_said(folder, tmp_path, capsys):
    for step, top1 in ((1, None), (2, 0.75), (10, 0.5)):
        directory = tmp_path / "run" / "checkpoints" / str(step)
        directory.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder / "rgb", directory)
        described = checkpoint.Description.read(directory)
        metrics = None if top1 is None else {"top1": top1}
        dataclasses.replace(described, provenance={"step": step, "metrics": metrics}).write(directory)
    plain, said = logits(capsys, folder, "--checkpoint", folder / "rgb")
    assert said == ""
    for asked, taken in (((), 10), (("--step", "newest"), 10), (("--step", "best"), 2), (("--step", "1"), 1)):
        found, said = logits(capsys, folder, "--checkpoint", tmp_path / "run", *asked)
        np.testing.assert_array_equal(found, plain)
        assert said == f"{tmp_path / 'run'}: the checkpoint of step {taken}; the newest is 10, the best 2\n"
    arguments = [str(folder / "video.mkv"), "--checkpoint", str(tmp_path / "run"), "--step"]
    for step in ("3", "worst"):
        with pytest.raises(UserError, match=rf"run has no checkpoint '?{step}'?: there are 1, 2, 10"):
            predict.main([*arguments, step])
    with pytest.raises(UserError, match="is one checkpoint: a workdir was expected, of which to take the step best"):
        predict.main([str(folder / "video.mkv"), "--checkpoint", str(folder / "rgb"), "--step", "best"])


def test_lines_of_json_come_as_the_videos_are_done(folder, capsys, monkeypatch):
    """The second is printed when the first has been already."""
    printed = []
    monkeypatch.setattr(writing, "print_json", lambda value, **options: printed.append((value["video"], len(printed))))
    video = str(folder / "video.mkv")
    scored = LoadedNetwork.logits
    monkeypatch.setattr(LoadedNetwork, "logits", lambda *given: printed.append("scored") or scored(*given))
    predict.main([video, "nowhere.mp4", video, "--checkpoint", str(folder / "rgb"), "--format", "jsonl"])
    assert printed == ["scored", (video, 1), "scored", (video, 3)]
    assert "no video 'nowhere.mp4'" in capsys.readouterr().err
    monkeypatch.undo()
    predict.main([video, video, "--checkpoint", str(folder / "rgb"), "--format", "jsonl", "--top_k", "1"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["video"] for line in lines] == [video, video]
    assert [len(line["predictions"]) for line in lines] == [1, 1]


def test_flow_of_another_kind_is_refused(folder, tmp_path):
    save_stream(tmp_path / "other", stream="flow", flow={**PUBLISHED, "bound": 10.0})
    with pytest.raises(UserError, match=r"flow\.bound 10\.0 against 20\.0"):
        predict.main([str(folder / "video.mkv"), "--checkpoint", str(tmp_path / "other")])


def test_networks_that_are_not_the_two_streams_of_one(folder, tmp_path):
    save_stream(tmp_path / "others", stream="flow", flow=PUBLISHED, labels=("left", "right", "down"))
    for first, second, words in (
        ("rgb", folder / "rgb", "--flow_checkpoint: .* a network of flow alone was expected, .* is one of rgb"),
        ("flow", folder / "flow", "--checkpoint: .* a network of rgb alone was expected, .* is one of flow"),
        ("rgb", tmp_path / "others", "have other classes: number 2 is 'up' against 'down'"),
        ("rgb", tmp_path / "nothing", "nothing does not exist"),
    ):
        arguments = ["--checkpoint", str(folder / first), "--flow_checkpoint", str(second)]
        with pytest.raises(UserError, match=words):
            predict.main([str(folder / "video.mkv"), *arguments])
