"""Accuracies by hand, and predictions that come back from their file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from i3d_jax.evaluation import results
from i3d_jax.evaluation.accuracy import mean_class_accuracy, mean_loss, score, top_k
from i3d_jax.evaluation.predictions import predict
from i3d_jax.system.errors import UserError

# Four videos, three classes: right, second, third, right.
LOGITS = np.array([[3, 1, 0], [2, 1, 0], [2, 1, 0], [0, 1, 5]], np.float32)
LABELS = np.array([0, 1, 2, 2])


@pytest.mark.parametrize(("k", "share"), [(1, 0.5), (2, 0.75), (3, 1.0), (5, 1.0)])
def test_top_k(k, share):
    assert top_k(LOGITS, LABELS, k) == share


def test_equal_scores_go_to_the_first_class():
    assert top_k(np.zeros((2, 3)), np.array([0, 2]), 1) == 0.5


def test_mean_class_accuracy_counts_classes_not_videos():
    # Class 0: 1 of 1, class 1: 0 of 1, class 2: 1 of 2.
    assert mean_class_accuracy(LOGITS, LABELS) == pytest.approx(0.5)
    assert mean_class_accuracy(LOGITS[[0, 2, 3, 3]], LABELS[[0, 2, 3, 3]]) == pytest.approx((1 + 2 / 3) / 2)


def test_mean_loss_by_hand_and_for_large_logits():
    assert mean_loss(np.array([[np.log(3), 0]]), np.array([1])) == pytest.approx(np.log(4))
    assert mean_loss(np.array([[1e4, 0]]), np.array([1])) == pytest.approx(1e4)


def test_score_names_everything():
    assert score(LOGITS, LABELS).keys() == {"top1", "top5", "mean_class_accuracy", "loss", "videos"}
    assert score(LOGITS, LABELS)["videos"] == 4


def batches(size):
    for begin in range(0, 4, size):
        rows = np.arange(begin, begin + size)
        mask = rows < 4
        rows = rows.clip(max=3)
        yield {"video": np.array([f"ü {row}.mp4" for row in rows]), "label": LABELS[rows], "mask": mask, "rows": rows}


@pytest.mark.parametrize("size", [1, 3, 4])
def test_predictions_leave_the_padding_out(size, tmp_path):
    # The step may give more rows than the batch has: those that fill up the devices.
    def score_batch(batch):
        logits = np.pad(LOGITS[batch["rows"]], ((0, 2), (0, 0)))
        return logits, {"rgb": logits + 1, "flow": logits[:, ::-1]}

    found = predict(score_batch, batches(size), 3)
    found.save(tmp_path / "predictions" / "test.npz")
    stored = np.load(tmp_path / "predictions" / "test.npz")
    np.testing.assert_array_equal(stored["logits"], LOGITS)
    np.testing.assert_array_equal(stored["logits_rgb"], LOGITS + 1)
    np.testing.assert_array_equal(stored["logits_flow"], LOGITS[:, ::-1])
    np.testing.assert_array_equal(stored["label"], LABELS)
    assert stored["video"].tolist() == ["ü 0.mp4", "ü 1.mp4", "ü 2.mp4", "ü 3.mp4"]
    assert stored["logits"].dtype == np.float32


@pytest.mark.parametrize("of_a_stream", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value, of_a_stream):
    def score_batch(batch):
        wrong = np.where(batch["rows"] == 2, value, 0)[:, None]
        return (0 * batch["rows"][:, None], {"rgb": wrong}) if of_a_stream else (wrong, {})

    with pytest.raises(UserError, match=r"the video ü 2\.mp4 are not finite"):
        predict(score_batch, batches(4), 1)


def test_results_keep_the_other_splits(tmp_path):
    results.record(tmp_path / "results.json", "test", {"top1": 0.5})
    results.record(tmp_path / "results.json", "validation", {"top1": 0.25})
    results.record(tmp_path / "results.json", "test", {"top1": 0.75})
    assert json.loads((tmp_path / "results.json").read_text()) == {"test": {"top1": 0.75}, "validation": {"top1": 0.25}}
