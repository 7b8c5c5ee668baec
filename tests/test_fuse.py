"""Fusing two streams: sums worked out by hand, and files that do not go together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from i3d_jax import fuse as command
from i3d_jax.evaluation.fusion import fuse
from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.system.errors import UserError

VIDEOS = ("a.mp4", "b.mp4", "c.mp4", "d.mp4")
# RGB is right on a and b, flow on b and c; their sum on a, b and c; with flow counting three times, on b and c alone.
RGB = Predictions(
    np.array(VIDEOS), np.array([0, 1, 2, 2]), np.array([[5, 1, 0], [0, 2, 1], [3, 0, 2], [4, 0, 0]], np.float32), {}
)
# Its videos stand in another order.
FLOW = Predictions(
    np.array(["c.mp4", "a.mp4", "d.mp4", "b.mp4"]),
    np.array([2, 0, 2, 1]),
    np.array([[0, 1, 4], [1, 3, 0], [3, 0, 1], [0, 3, 1]], np.float32),
    {},
)


def test_the_sum_by_hand():
    fused = fuse(RGB, FLOW, names=("rgb", "flow"))
    assert list(fused.video) == list(VIDEOS)
    assert list(fused.label) == [0, 1, 2, 2]
    np.testing.assert_array_equal(fused.logits, [[6, 4, 0], [0, 5, 2], [3, 1, 6], [7, 0, 1]])
    weighted = fuse(RGB, FLOW, (1, 3), names=("rgb", "flow"))
    np.testing.assert_array_equal(weighted.logits, [[8, 10, 0], [0, 11, 4], [3, 3, 14], [13, 0, 3]])


def test_the_command_prints_the_accuracies_and_writes_what_it_can_read_again(tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("rgb.npz", "flow.npz", "sum.npz")]
    RGB.save(tmp_path / "rgb.npz")
    FLOW.save(tmp_path / "flow.npz")
    command.main([*files[:2], "--output", files[2]])
    rgb, flow, total, where = capsys.readouterr().out.splitlines()
    # Classes 0, 1 and 2 have one, one and two videos: (1 + 1 + 0) / 3 for RGB, (0 + 1 + 1/2) / 3 and (1 + 1 + 1/2) / 3.
    assert "top-1  50.0%, top-5 100.0%, mean class accuracy  66.7%, 4 videos" in rgb
    assert "top-1  50.0%, top-5 100.0%, mean class accuracy  50.0%, 4 videos" in flow
    assert "top-1  75.0%, top-5 100.0%, mean class accuracy  83.3%, 4 videos" in total
    assert where.endswith(files[2])
    again = Predictions.load(files[2])
    np.testing.assert_array_equal(again.logits, [[6, 4, 0], [0, 5, 2], [3, 1, 6], [7, 0, 1]])
    command.main([*files[:2], "--weights", "1,3"])
    assert "top-1  50.0%" in capsys.readouterr().out.splitlines()[2]


def changed(predictions, **arrays):
    fields = {"video": predictions.video, "label": predictions.label, "logits": predictions.logits, "stream_logits": {}}
    return Predictions(**{**fields, **{name: np.array(values) for name, values in arrays.items()}})


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (changed(FLOW, video=["c.mp4", "a.mp4", "e.mp4", "b.mp4"]), "only rgb has 'd.mp4'"),
        (changed(FLOW, video=["c.mp4", "a.mp4", "a.mp4", "b.mp4"]), "flow has the video 'a.mp4' twice"),
        (changed(FLOW, label=[2, 0, 1, 1]), "'d.mp4' has the label 2 in rgb and 1 in flow"),
        (changed(FLOW, logits=np.zeros((4, 5), np.float32)), "rgb has scores of 3 classes, flow of 5"),
        (changed(FLOW, video=np.zeros(0, str), label=np.zeros(0, int), logits=np.zeros((0, 3))), "flow has no videos"),
    ],
)
def test_predictions_that_do_not_go_together(other, words):
    with pytest.raises(UserError, match=words):
        fuse(RGB, other, names=("rgb", "flow"))


def test_more_videos_in_the_second_are_named():
    with pytest.raises(UserError, match=r"only flow has 'c\.mp4' and 1 more"):
        fuse(changed(RGB, video=VIDEOS[:2], label=[0, 1], logits=RGB.logits[:2]), FLOW, names=("rgb", "flow"))


@pytest.mark.parametrize(
    ("weights", "words"),
    [("1", "two weights"), ("0,0", "not both 0"), ("1,nan", "finite"), ("1;1", "comma"), ("1,2,3", "two weights")],
)
def test_weights_that_are_none(tmp_path, weights, words):
    RGB.save(tmp_path / "rgb.npz")
    with pytest.raises(UserError, match=words):
        command.main([str(tmp_path / "rgb.npz"), str(tmp_path / "rgb.npz"), "--weights", weights])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"features": np.zeros(3)}, "video, label and logits were expected, found features"),
        ({"video": RGB.video, "label": RGB.label, "logits": RGB.logits[:3]}, r"found .* float32 \[3, 3\]"),
        ({"video": RGB.video, "label": RGB.label + 0.5, "logits": RGB.logits}, r"float64 \[4\]"),
        ({"video": RGB.video, "label": RGB.label + 1, "logits": RGB.logits}, "found 3 for the video 'c.mp4'"),
        ({"video": RGB.video, "label": RGB.label, "logits": np.full((4, 3), np.nan)}, "finite logits"),
    ],
)
def test_files_of_something_else(tmp_path, arrays, words):
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(UserError, match=words):
        Predictions.load(tmp_path / "other.npz")


def test_a_file_that_is_no_npz_or_not_there(tmp_path):
    (tmp_path / "text.npz").write_text("no array")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name, words in (("text.npz", "cannot be read"), ("cut.npz", "cannot be read"), ("no.npz", "found nothing")):
        with pytest.raises(UserError, match=words):
            Predictions.load(tmp_path / name)
    with pytest.raises(UserError, match="found a folder"):
        Predictions.load(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        Predictions.load(tmp_path / "one.npy")


def test_class_names_go_along_and_have_to_be_the_same(tmp_path):
    rgb, flow = (dataclasses.replace(one, classes=np.array(["up", "down", "ü"])) for one in (RGB, FLOW))
    rgb.save(tmp_path / "rgb.npz")
    again = Predictions.load(tmp_path / "rgb.npz")
    assert again.classes.tolist() == ["up", "down", "ü"]
    for second in (flow, FLOW):
        assert fuse(again, second, names=("rgb", "flow")).classes.tolist() == ["up", "down", "ü"]
    other = dataclasses.replace(flow, classes=np.array(["up", "ü", "down"]))
    with pytest.raises(UserError, match="rgb and flow have other classes: number 1 is 'down' against 'ü'"):
        fuse(rgb, other, names=("rgb", "flow"))
    dataclasses.replace(rgb, classes=np.array(["up", "down"])).save(tmp_path / "rgb.npz")
    with pytest.raises(UserError, match=r"rgb.npz: the names of 3 classes were expected, found <U4 \[2\]"):
        Predictions.load(tmp_path / "rgb.npz")


def test_two_protocols_do_not_add(tmp_path):
    """Files of the time before do not say theirs, and go with any."""
    paper = {"protocol": "whole_video", "stride": 1, "frames": 250, "windows": 1, "crops": 1, "average": "logits"}
    ten = {**paper, "protocol": "windows", "crops": 10}
    rgb, flow = dataclasses.replace(RGB, protocol=paper), dataclasses.replace(FLOW, protocol=paper)
    assert fuse(rgb, flow, names=("rgb", "flow")).protocol == paper
    assert fuse(RGB, flow, names=("rgb", "flow")).protocol == paper
    rgb.save(tmp_path / "rgb.npz")
    dataclasses.replace(FLOW, protocol=ten).save(tmp_path / "flow.npz")
    words = "scored by other protocols: protocol 'whole_video' against 'windows'; crops 1 against 10"
    with pytest.raises(UserError, match=words):
        command.main([str(tmp_path / "rgb.npz"), str(tmp_path / "flow.npz")])
    with pytest.raises(UserError, match="frames 250 against 'absent'"):
        fuse(rgb, dataclasses.replace(FLOW, protocol={"protocol": "dense"}), names=("rgb", "flow"))
