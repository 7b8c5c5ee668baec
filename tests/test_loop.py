"""The loop with a stand-in step: what is logged, evaluated and kept, and when."""

from __future__ import annotations

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from i3d_jax.system.errors import UserError
from i3d_jax.system.terminal import duration
from i3d_jax.training.logs import MetricsFile
from i3d_jax.training.loop import Cadence, Callbacks, EvaluationStopped, NonFinite, Step, train
from i3d_jax.training.state import TrainState


class Kept(list):
    def save(self, state, metrics):
        self.append((int(state.step), metrics))

    def note(self, step, metrics):
        assert self[-1] == (step, None)
        self[-1] = (step, metrics)


def run(*, first=0, losses=None, kept=None, stopped=(), due=False, **cadence):
    """Trains with losses 1, 2, 3, … (or `losses`) of one clip each; returns what was written and kept."""
    written, kept = [], Kept() if kept is None else kept
    state = TrainState(jnp.int32(first), jnp.int32(first), {}, {}, {})

    def step(state, batch):
        loss = float(state.step + 1) if losses is None else losses[int(state.step)]
        sums = {"loss": (np.float32(loss), 1.0), "top1": (1.0, 2.0), "gradient_norm": (np.float32(1), 1.0)}
        return state.replace(step=state.step + 1, clips=state.clips + batch), sums

    def evaluate(state):
        if int(state.step) in stopped:
            raise EvaluationStopped
        return {"top1": float(state.step)}

    final = train(
        state,
        itertools.repeat(1),
        step=Step(take=step),
        cadence=Cadence(**{"total_steps": 10, "log_every": 4, "evaluate_every": 0, "checkpoint_every": 5, **cadence}),
        learning_rate=lambda step: 0.5 if step < 5 else 0.25,
        callbacks=Callbacks(evaluate=evaluate, checkpoints=kept, write=lambda *line: written.append(line)),
        evaluation_due=due,
    )
    return final, written, kept


def test_lines_hold_the_mean_since_the_one_before():
    final, written, _ = run()
    assert int(final.step) == 10
    assert [(step, values["loss"], values["learning_rate"]) for step, _, values in written] == [
        (4, 2.5, 0.5),
        (5, 5.0, 0.5),
        (8, 7.0, 0.25),
        (10, 9.5, 0.25),
    ]
    assert all(values["top1"] == 0.5 for _, _, values in written)


@pytest.mark.parametrize("step", [8, 10])
def test_an_evaluation_that_is_stopped_is_made_up_for(step):
    whole, written, kept = run(evaluate_every=4)
    final, before, parts = run(evaluate_every=4, stopped=[step])
    assert int(final.step) == step
    assert parts == [*kept[: len(parts) - 1], (step, None)]
    # Stopped again, it still lacks its figures.
    final, _, parts = run(first=step, kept=parts, evaluate_every=4, stopped=[step], due=True)
    assert (int(final.step), parts[-1]) == (step, (step, None))
    final, after, parts = run(first=step, kept=parts, evaluate_every=4, due=True)
    assert int(final.step) == int(whole.step)
    assert parts == kept
    assert [line[:2] for line in before + after] == [line[:2] for line in written]
    assert [line[2]["loss"] for line in before + after] == [line[2]["loss"] for line in written]


def test_evaluations_are_followed_by_checkpoints():
    _, _, kept = run(evaluate_every=4)
    assert kept == [(4, {"top1": 4.0}), (5, None), (8, {"top1": 8.0}), (10, {"top1": 10.0})]


def test_a_resumed_run_writes_the_lines_of_the_uninterrupted_one():
    def lines(written):
        return [(step, split, values["loss"]) for step, split, values in written if step > 5]

    assert lines(run()[1]) == lines(run(first=5)[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_a_checkpoint(bad):
    losses = [1.0] * 6 + [bad] * 4
    with pytest.raises(NonFinite, match="the loss of step 7 is"):
        run(losses=losses)
    for finite_steps, kept_steps in ((4, []), (5, [5]), (8, [5])):
        kept = Kept()
        with pytest.raises(NonFinite):
            run(losses=[1.0] * finite_steps + [bad] * 6, kept=kept)
        assert [step for step, _ in kept] == kept_steps


def test_a_finished_run_does_nothing():
    _, written, kept = run(first=10)
    assert (written, kept) == ([], [])


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"total_steps": 0}, "total_steps"),
        ({"log_every": 0}, "log_every"),
        ({"checkpoint_every": 0}, r"checkpoints\.every"),
        ({"evaluate_every": -1}, r"evaluation\.every"),
    ],
)
def test_wrong_cadence(wrong, key):
    with pytest.raises(UserError, match=f"^{key} must be at least"):
        run(**wrong)


def test_metrics_of_steps_that_are_taken_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, after_step=0)
    for step in (10, 20, 30):
        metrics.write(step, "train", {"loss": float("nan") if step == 20 else 1.5})
    with open(path, "a") as file:
        file.write('{"step": 40, "spl')
    MetricsFile(path, after_step=20).write(30, "test", {"loss": 2.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 10, "split": "train", "loss": 1.5},
        {"step": 20, "split": "train", "loss": None},
        {"step": 30, "split": "test", "loss": 2.0},
    ]


def test_an_evaluation_that_is_made_again_leaves_one_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for loss in (3.0, 2.0):
        metrics = MetricsFile(path, after_step=10)
        metrics.write(10, "test", {"loss": loss})
        metrics.write(10, "test", {"loss": loss - 1})
    # Those of the time before.
    path.write_text(path.read_text() + '{"step": 10, "split": "test", "loss": 0.5}\n')
    MetricsFile(path, after_step=10).write(10, "train", {"loss": 4.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 10, "split": "test", "loss": 0.5},
        {"step": 10, "split": "train", "loss": 4.0},
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (7500, "2 h 05 min"), (270_000, "3 d 03 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
