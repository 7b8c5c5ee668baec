"""Workdirs whose files are damaged or hold odd names: a sentence, or a page that says what it lacks."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers import workdirs
from helpers.workdirs import Page

from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.system.errors import UserError

pytest.importorskip("jinja2", reason="the extra `report` is not installed")

from i3d_jax.report import plots
from i3d_jax.report.run_page import page_of_workdirs


@pytest.fixture(autouse=True)
def _without_the_programs(monkeypatch):
    monkeypatch.setattr(plots, "bundle", lambda: "")


def change(path, *place, value):
    content = json.loads(path.read_text())
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("top1", "high", r"top1, top5, mean_class_accuracy \(0 to 1\) and loss of 'test' were expected"),
        ("top5", 1.5, "top1, top5, mean_class_accuracy"),
        ("loss", True, "top1, top5, mean_class_accuracy"),
        ("videos", "many", "a whole number was expected as 'videos' of 'test', found 'many'"),
        ("step", [], "a whole number was expected as 'step'"),
        ("stride", None, "a whole number was expected as 'stride'"),
        ("protocol", 5, "a text was expected as 'protocol'"),
        ("top1_interval", [0.5], "two shares of 0 to 1, the smaller first, was expected as 'top1_interval'"),
        ("top1_interval", [0.9, 0.1], "two shares"),
    ],
)
def test_figures_of_other_kinds(tmp_path, key, value, expected):
    run = workdirs.leave(tmp_path / "run")
    change(run / "results.json", "test", key, value=value)
    with pytest.raises(UserError, match=expected):
        page_of_workdirs([run])


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe\x00", b'{"test": {"top1": NaN}}', b'{"test": null}'])
def test_results_that_are_none(tmp_path, content):
    run = workdirs.leave(tmp_path / "run")
    (run / "results.json").write_bytes(content)
    with pytest.raises(UserError, match=r"results\.json"):
        page_of_workdirs([run])


def damaged_predictions():
    logits = np.zeros((4, 3), np.float32)
    yield {"logits_rgb": logits[:2]}, r"logits_rgb was expected to be float \[4, 3\], found float32 \[2, 3\]"
    yield {"logits_rgb": logits * np.nan}, "finite logits_rgb were expected"
    yield {"video": np.arange(4)}, r"texts video \[N\]"
    yield {"label": np.array([0, 0, 1, 7], np.int32)}, "labels of 3 classes were expected, found 7"
    yield {"video": np.zeros(0, np.str_), "label": np.zeros(0, int), "logits": logits[:0]}, "holds no videos"


@pytest.mark.parametrize(("arrays", "expected"), damaged_predictions())
def test_without_predictions_that_are_damaged(tmp_path, arrays, expected):
    run = workdirs.leave(tmp_path / "run")
    path = run / "predictions/test.npz"
    with np.load(path) as stored:
        whole = dict(stored)
    np.savez(path, **{**whole, **arrays})
    found = Page(page_of_workdirs([run]))
    assert any(re.search(expected, warning) for warning in found.warnings)
    assert "All figures" in found.tables
    assert "Accuracy by class" not in found.tables


def test_predictions_of_other_scores_are_told(tmp_path):
    run = workdirs.leave(tmp_path / "run")
    change(run / "results.json", "test", "top1", value=0.75)
    found = Page(page_of_workdirs([run]))
    assert any("a top-1 of 75.0% there, of 50.0% here" in warning for warning in found.warnings)


def test_what_of_the_curves_cannot_be_read_is_told(tmp_path):
    run = workdirs.leave(tmp_path / "run")
    path = run / "metrics.jsonl"
    # The last line is cut short, which a run at work may leave.
    assert not any("lines of" in warning for warning in Page(page_of_workdirs([run])).warnings)
    path.write_bytes(
        b'{"step": -1, "split": "train"}\n\xff\n{"step": 5, "split": "train", "loss": "x"}\n' + path.read_bytes()
    )
    found = Page(page_of_workdirs([run]))
    assert any(f"Without 2 of 6 lines of {path}, which cannot be read" in warning for warning in found.warnings)


@pytest.mark.parametrize("value", ["x", -1, [], None])
def test_a_recipe_of_other_kinds(tmp_path, value):
    run = workdirs.leave(tmp_path / "run")
    for key in ("batch_size", "total_steps"):
        change(run / "config.json", key, value=value)
    change(run / "config.json", "evaluation", "split", value=[])
    found = Page(page_of_workdirs([run]))
    assert found.tables["Medians over training"][1][-1] == "–"


def test_odd_names_are_text_of_their_own(tmp_path):
    names = ("a\x00\x1b[31m", "\u202eright to left", "caf\udce9")
    text = page_of_workdirs([workdirs.leave(tmp_path / "run", classes=names, videos=[*names, "4"])])
    rows = [row[0] for row in Page(text).tables["Accuracy by class"][1:]]
    assert sorted(rows) == ["a\\x00\\x1b[31m", "\u202eright to left"]
    assert "<bdi>\u202eright to left</bdi>" in text
    assert "caf\\xe9" in text
    assert text.encode()


def test_classes_of_one_name_stay_two(tmp_path):
    found = Page(page_of_workdirs([workdirs.leave(tmp_path / "run", classes=("same", "same", ""))]))
    assert [row[:2] for row in found.tables["Accuracy by class"][1:]] == [["same class 0", "2"], ["same class 1", "2"]]


def test_streams_that_do_not_fit_are_refused(tmp_path):
    one = Predictions(
        np.array(["a"]), np.array([0]), np.zeros((1, 2), np.float32), {"rgb": np.zeros((2, 2), np.float32)}
    )
    one.save(tmp_path / "one.npz")
    with pytest.raises(UserError, match="logits_rgb was expected"):
        Predictions.load(tmp_path / "one.npz")
