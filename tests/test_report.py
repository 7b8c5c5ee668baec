"""The page of runs, by workdirs made by hand: figures, what is confused, what is missing, and what it must not hold."""

from __future__ import annotations

import base64
import io
import json
import re
import sys

import numpy as np
import pytest
from helpers import workdirs
from helpers.small_dataset import write_dataset
from helpers.workdirs import Page

import i3d_jax.report
from i3d_jax.report import __main__ as report
from i3d_jax.report import own
from i3d_jax.system.errors import UserError

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("vl_convert", reason="the extra `report` is not installed")

from PIL import Image

from i3d_jax.report import classes, curves, filters, plots, timelines
from i3d_jax.report.run_page import page_of_workdirs


@pytest.fixture(autouse=True)
def _without_the_programs(monkeypatch):
    """Putting the plots' programs together takes seconds; here nothing draws."""
    monkeypatch.setattr(plots, "bundle", lambda: "")


def made(*folders) -> tuple[str, Page]:
    text = page_of_workdirs(folders, tell=report._note)
    return text, Page(text)


def test_figures_by_hand(tmp_path):
    _, found = made(workdirs.leave(tmp_path / "run"))
    # Two of four right; of three classes the right one is always among five; of each class one of two.
    # The loss: the mean of ln(e^3 + 2) - 3, ln(e^4 + 2), ln(e^2 + e + 1) - 2 and ln(e^9 + 2).
    losses = [np.log(np.exp(3) + 2) - 3, np.log(np.exp(4) + 2), np.log(np.exp(2) + np.e + 1) - 2, np.log(np.exp(9) + 2)]
    row = found.tables["All figures"][1]
    assert row == ["run", "50.0%", "25.0 to 75.0", "100.0%", "50.0%", f"{np.mean(losses):.3f}", "4"]
    assert found.tables["Accuracy by class"][1:] == [["a", "2", "50.0%"], ["b", "2", "50.0%"]]
    assert sorted(found.tables["Classes that are taken for others"][1:]) == [
        ["a", "b", "1", "50%"],
        ["b", "a", "1", "50%"],
    ]
    assert found.tables["Medians over training"][1] == ["run", "40.0", "5.0%", "4 s"]


def test_the_surest_mistake_comes_first(tmp_path):
    text, _ = made(workdirs.leave(tmp_path / "run"))
    wrong = re.findall(r'<p class="note">(video\d)</p>', text.partition("Most surely wrong")[2])
    # Of scores 9, 0, 0 the probability is larger than of 0, 4, 0.
    assert wrong[:2] == ["video3", "video1"]
    assert sorted(wrong[2:]) == ["video0", "video2"]


def test_two_runs_sorted_by_gain(tmp_path):
    better = [[3, 0, 0], [4, 0, 0], [2, 0, 1], [9, 0, 0]]
    first, second = workdirs.leave(tmp_path / "one"), workdirs.leave(tmp_path / "two", logits=better)
    _, found = made(first, second)
    # "a" from one of two to both, "b" from one of two to none.
    assert [(row[0], row[-1]) for row in found.tables["Accuracy by class"][1:]] == [("a", "+50.0"), ("b", "−50.0")]
    agreement = {row[0]: row[1] for row in found.tables["Which of the 4 videos are named right by which"][1:]}
    assert agreement == {"both": "1", "one alone": "1", "two alone": "1", "neither": "1"}
    rows = {row[0]: row for row in found.tables["The recipe"]}
    assert rows["data.directory"][-1] == "differs"
    assert rows["model.name"] == ["model.name", "i3d", "i3d", "same"]


def test_both_streams_together(tmp_path):
    """Alone each has two of four right, and their sum three."""
    flow = [[2, 0, 0], [1, 0, 0], [0, 9, 0], [0, 12, 0]]
    # The videos stand in another order there.
    order = [3, 1, 0, 2]
    logits, labels = [flow[at] for at in order], [workdirs.LABELS[at] for at in order]
    runs = [
        workdirs.leave(tmp_path / "rgb"),
        workdirs.leave(
            tmp_path / "flow", logits=logits, labels=labels, stream="flow", videos=[f"video{at}" for at in order]
        ),
    ]
    text, found = made(*runs)
    # 0, 4 against 1, 0 stays wrong; 9 against 12 is put right.
    assert found.tables["All figures"][3][:2] == ["rgb + flow", "75.0%"]
    assert "Both: rgb + flow" in text


def test_other_classes_are_named(tmp_path):
    first = workdirs.leave(tmp_path / "one")
    second = workdirs.leave(tmp_path / "two", classes=("a", "b", "d"), stream="flow")
    _, found = made(first, second)
    assert "only one has 'c'; only two has 'd'" in found.warnings[0] + found.warnings[1]
    assert any("cannot be taken together" in warning for warning in found.warnings)


NASTY = "</script><script>alert(1)</script><marquee x='\"&"


def test_names_are_text(tmp_path):
    text, found = made(workdirs.leave(tmp_path / "run", classes=(NASTY, "b", "c"), videos=[NASTY, "1", "2", "3"]))
    assert found.tables["Accuracy by class"][1][0] == NASTY
    assert "alert(1)</script" not in text
    assert "marquee" not in [tag for tag, _ in found.elements]


def test_nothing_is_fetched(tmp_path):
    text, found = made(workdirs.leave(tmp_path / "run"))
    for tag, attributes in found.elements:
        for name in ("src", "srcset", "href", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert "url(" not in text
    assert "@import" not in text
    policy = next(one["content"] for tag, one in found.elements if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_ten_thousand_classes(tmp_path):
    random = np.random.default_rng(0)
    labels = random.permutation(10_000)[:700]
    run = workdirs.leave(
        tmp_path / "run",
        logits=random.normal(size=(700, 10_000)).astype(np.float32),
        labels=labels,
        classes=[f"class number {number}" for number in range(10_000)],
    )
    text, found = made(run)
    assert len(text) < 2_000_000
    assert len(found.tables["Accuracy by class"]) == 1 + classes.MOST_CLASSES
    assert "Of the 700 classes that have a video these are the 300 with the lowest accuracy and the 300 with" in text
    assert len(found.tables["Confusion matrix of run"]) == 1 + classes.MOST_IN_MATRIX
    assert "these are the 110 that are confused most" in text


def test_unfinished_and_without_predictions(tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    workdirs.leave_metrics(unfinished)
    text, found = made(unfinished)
    assert "Not evaluated yet; at step 20" in text
    assert any("The run has not been evaluated yet" in warning for warning in found.warnings)
    without = workdirs.leave(tmp_path / "without")
    (without / "predictions/test.npz").unlink()
    _, found = made(without)
    assert found.tables["All figures"][1][1] == "50.0%"
    assert "Accuracy by class" not in found.tables
    assert "a file of predictions was expected at" in capsys.readouterr().err


@pytest.fixture
def shown(tmp_path):
    """A run of a dataset of four videos."""
    write_dataset(tmp_path / "dataset", [9, 5, 30, 4], split="test", shards=2)
    names = [f"video{number}" for number in range(4)]
    run = workdirs.leave(
        tmp_path / "run",
        videos=names,
        labels=[0, 1, 2, 0],
        classes=("left", "right", "up"),
        dataset=tmp_path / "dataset",
    )
    return run, tmp_path / "dataset"


def moving(found: Page) -> dict[str, Image.Image]:
    images = [one for tag, one in found.elements if tag == "img" and "data-still" in one]
    return {
        re.search(r"video\d", one["alt"])[0]: Image.open(io.BytesIO(base64.b64decode(one["src"].partition(",")[2])))
        for one in images
    }


def test_animations_are_of_the_videos(shown):
    run, _ = shown
    _, found = made(run)
    assert {name: (image.n_frames, image.size) for name, image in moving(found).items()} == {
        "video0": (9, (21, 18)),
        "video1": (5, (21, 18)),
        "video2": (24, (21, 18)),
        "video3": (4, (21, 18)),
    }
    assert all("width" in one and "height" in one and one["alt"] for tag, one in found.elements if tag == "img")


def test_a_dataset_that_has_moved(shown, capsys):
    run, dataset = shown
    dataset.rename(dataset.with_name("elsewhere"))
    _, found = made(run)
    assert moving(found) == {}
    assert "Without animations, since the dataset is not there" in found.warnings[-1] + found.warnings[0]
    assert "Without animations" in capsys.readouterr().err


def test_a_video_that_no_longer_decodes(shown, capsys):
    run, dataset = shown
    shard = sorted(dataset.glob("test-*.tfrecord"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 255
    shard.write_bytes(content)
    _, found = made(run)
    assert len(moving(found)) == 3
    assert "cannot be shown" in capsys.readouterr().err


def test_the_command_writes_the_page_whole(tmp_path, capsys):
    run = workdirs.leave(tmp_path / "run")
    (run / "report.html").write_text("of before")
    report.main(["--workdir", str(run)])
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert f"the report is {run / 'report.html'}" in capsys.readouterr().err


def refused(tmp_path):
    run = workdirs.leave(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    broken = workdirs.leave(tmp_path / "broken")
    (broken / "results.json").write_text(json.dumps({"test": {"top1": "high"}}))
    yield [tmp_path / "absent"], "a workdir was expected at"
    yield [tmp_path / "empty"], "is no workdir: it has none of config.json"
    yield [run, run, "--output", tmp_path / "page"], "found one twice"
    yield [run, broken], "--output names the page of several workdirs"
    yield [broken], "of 'test' were expected"
    yield [run, "--output", tmp_path], "cannot be written: a file was expected there"
    yield [run, "--output", tmp_path / "absent/page.html"], "cannot be written: a folder was expected at"
    yield [run, "--video", tmp_path / "long.mp4"], "a workdir with a checkpoint was expected"


def test_what_is_refused(tmp_path):
    for words, sentence in refused(tmp_path):
        arguments = []
        flags = list(map(str, words))
        while flags:
            arguments += [flags.pop(0), flags.pop(0)] if flags[0].startswith("--") else ["--workdir", flags.pop(0)]
        with pytest.raises(UserError, match=re.escape(sentence)):
            report.main(arguments)
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_classes_that_are_confused_stand_together():
    counts = np.eye(6, dtype=int) * 10
    for one, other in ((0, 3), (1, 5), (2, 4)):
        counts[one, other] = counts[other, one] = 8
    order = classes.clustered(counts)
    assert sorted(order) == list(range(6))
    assert {frozenset(order[at : at + 2]) for at in (0, 2, 4)} == {frozenset(pair) for pair in ((0, 3), (1, 5), (2, 4))}


def test_a_long_curve_keeps_its_mean():
    points = [(step, float(step % 7)) for step in range(1, 6001)]
    found = curves.thinned(points)
    assert len(found) == curves.MOST_POINTS
    assert found[-1][0] == 6000
    assert np.mean([value for _, value in found]) == pytest.approx(np.mean([value for _, value in points]))


def test_filters_are_drawn():
    kernel = np.zeros((7, 7, 7, 3, 5), np.float32)
    kernel[2, 0, 0, :, 4] = [2, -2, 0]
    pictures = filters.drawn(kernel)
    # Five in a square of three columns, in two rows, a pixel apart.
    assert [picture.shape for picture in pictures] == [(15, 23, 3)] * 7
    assert pictures[2][8, 8].tolist() == [255, 0, 128]
    assert (pictures[3][8:15, 8:15] == 128).all()
    flow = np.zeros((1, 3, 3, 2, 1), np.float32)
    flow[0, 0, 0, 0], flow[0, 1, 1, 0] = 0.5, -0.5
    [picture] = filters.drawn(flow)
    assert [picture[at, at].tolist() for at in range(3)] == [[255, 0, 0], [0, 255, 255], [255, 255, 255]]


@pytest.mark.parametrize(("shape", "stream", "steps"), [((7, 7, 20, 4), "flow", 10), ((7, 7, 3, 4), "RGB", 1)])
def test_first_layers_of_images(shape, stream, steps):
    found = filters.first_layers({"a": {"kernel": np.ones(shape)}, "b": {"kernel": np.ones((3, 3, 4, 8))}})
    assert {name: kernel.shape[0] for name, kernel in found.items()} == {stream: steps}


@pytest.mark.parametrize("missing", ["jinja2", "vl_convert"])
def test_a_run_is_finished_without_its_page(tmp_path, monkeypatch, capsys, missing):
    run = workdirs.leave(tmp_path / "run")
    (run / "report.html").write_text("of an earlier evaluation")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, missing, None)
    for name in [name for name in sys.modules if name.startswith("i3d_jax.report.") and not name.endswith("own")]:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(i3d_jax.report, name.rpartition(".")[2])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own.write(run, None, "test")
    assert re.search(rf"warning: \S+report.html is not written: .*{missing}", capsys.readouterr().err)
    assert not (run / "report.html").exists()


def moment(start: float, *named: tuple[str, float]) -> dict:
    predictions = [{"label": label, "probability": chance} for label, chance in named]
    return {
        "start": start,
        "end": start + 2,
        "label": named[0][0],
        "probability": named[0][1],
        "predictions": predictions,
    }


def test_a_timeline_has_no_gaps_and_keeps_short_actions(monkeypatch):
    moments = [moment(0, ("a", 0.9), ("b", 0.1)), moment(1, ("a", 0.7)), moment(2, ("b", 0.8)), moment(3, ("b", 0.6))]
    found = timelines._strips(moments, ["a", "b"])
    # Of a window's middle to the middle between neighbours: 1.5, 2.5 and 3.5, up to the end.
    assert [(one["s"], one["e"], one["p"]) for one in found if one["label"] == "a"] == [(0, 1.5, 90), (1.5, 2.5, 70)]
    assert [(one["s"], one["e"], one["p"]) for one in found if one["label"] == "b"] == [
        (0, 1.5, 10),
        (2.5, 3.5, 80),
        (3.5, 5, 60),
    ]
    monkeypatch.setattr(timelines, "MOST_WINDOWS", 2)
    halves = timelines._strips(moments, ["a", "b"])
    assert [(one["s"], one["e"], one["p"], one["label"]) for one in halves] == [
        (0, 2.5, 80, "a"),
        (0, 2.5, 5, "b"),
        (2.5, 5, 70, "b"),
    ]
