"""The learning rate: the release's, warm-up, linear scaling, and the fall when the validation loss saturates."""

from __future__ import annotations

import contextlib
import dataclasses
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import Tiny, batch, variables

from experiments import base, kinetics
from i3d_jax import checkpoint
from i3d_jax.run import recipe as configuration
from i3d_jax.run import resolve
from i3d_jax.run.retention import Checkpoints
from i3d_jax.run.run import Optimization, Run
from i3d_jax.system.errors import UserError
from i3d_jax.training.loop import Cadence, Callbacks, Step, train
from i3d_jax.training.optimizer import after_evaluation, make_optimizer, make_plateau, rates_text
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import training_step


def rates(config, steps):
    return [float(resolve.create_optimizer(config).schedule(step)) for step in steps]


# (step, rate) on both sides of every boundary, in thousands of steps, and at the end.
RELEASE = {
    "i3d_rgb": [(0, 0.1), (96.999, 0.1), (97, 0.01), (107.999, 0.01), (108, 0.001), (114.999, 0.001)],
    "i3d_flow": [
        (0, 0.1),
        (96.999, 0.1),
        (97, 0.01),
        (104.499, 0.01),
        (104.5, 0.001),
        (114.999, 0.001),
        (115, 0.1),
        (139.999, 0.1),
        (140, 0.01),
        (149.999, 0.01),
        (150, 0.001),
        (154.999, 0.001),
    ],
}


@pytest.mark.parametrize("variant", RELEASE)
def test_the_releases_schedules(variant):
    config = kinetics.get_config(variant)
    assert config.model.stream == variant.removeprefix("i3d_")
    thousands, expected = zip(*RELEASE[variant], strict=True)
    assert config.total_steps == round(1000 * thousands[-1]) + 1
    np.testing.assert_allclose(rates(config, [round(1000 * step) for step in thousands]), expected, rtol=1e-6)


def test_rates_follow_the_batch():
    config = kinetics.get_config()
    config.batch_size = 48
    np.testing.assert_allclose(rates(config, [0, 97_000, 108_000]), [0.0125, 0.00125, 0.000125], rtol=1e-6)
    assert rates_text((0.1, 0.01), (97_000,), 48, 384) == (
        "learning rate 0.0125, 0.00125 after step 97000: "
        "the recipe's times batch_size / reference_batch_size = 48 / 384"
    )
    assert rates_text((0.1, 0.01), (7,), 48, None) == "learning rate 0.1, 0.01 after step 7"
    assert rates_text((0.1,), (), 48, None) == "learning rate 0.1"


def test_warm_up_is_a_share_of_the_rate_there_would_be():
    config = base.get_config()
    config.optimizer.warmup_steps = 100
    config.optimizer.boundaries = (50, 108_000)
    np.testing.assert_allclose(rates(config, [0, 25, 50, 99, 100, 200]), [0, 0.025, 0.005, 0.0099, 0.01, 0.01])


def test_nothing_is_learnt_at_step_0_of_a_warm_up():
    optimizer, _ = make_optimizer(
        name="sgd", learning_rates=(0.5,), boundaries=(), momentum=0.0, weight_decay=0.0, warmup_steps=4
    )
    params = {"kernel": jnp.float32(1)}
    state = optimizer.init(params)
    moves = []
    for _ in range(6):
        updates, state = optimizer.update({"kernel": jnp.float32(1)}, state, params)
        moves.append(float(updates["kernel"]))
    np.testing.assert_allclose(moves, [0, -0.125, -0.25, -0.375, -0.5, -0.5])


def test_plateau_by_hand():
    plateau = make_plateau(patience=2, factor=0.1, stop=2)
    state = plateau.init({"kernel": jnp.zeros(1)})
    scales, ends = [], []
    # 1.99999 is no improvement on 2; None and NaN say nothing, infinity is one more without.
    for loss in [3, 2, 1.99999, None, float("nan"), 2.5, 1.9, 1.95, 1.8, 1.8, float("inf"), 1.9, 1.81]:
        state = after_evaluation(plateau, state, loss)
        scales.append(float(state.scale))
        ends.append(plateau.ends(scales[-1]))
    assert ends == [False] * 10 + [True] * 3
    np.testing.assert_allclose(scales, [1] * 5 + [0.1] * 5 + [0.01] * 2 + [0.001], rtol=1e-6)


class Killed(Exception):
    pass


class KilledAfter:
    """Real checkpoints; the run is killed after the one of step `last`."""

    def __init__(self, checkpoints, last):
        self.checkpoints, self.last = checkpoints, last

    def save(self, state, metrics):
        self.checkpoints.save(state, metrics)
        self.checkpoints.wait()
        if int(state.step) == self.last:
            raise Killed


# After two evaluations without a lower loss the rate falls: after step 8, and again after step 12.
LOSSES = {2: 1.0, 4: 0.9, 6: 0.95, 8: 0.92, 10: 0.93, 12: 0.91, 13: 0.95, 14: 0.5, 16: 0.6, 17: 0.7}


def test_plateau_averages_and_warm_up_go_on_as_if_nothing_had_happened(tmp_path):
    sgd, schedule = make_optimizer(
        name="sgd", learning_rates=(0.1,), boundaries=(), momentum=0.9, weight_decay=0.0, warmup_steps=6
    )
    devices = Devices(devices=jax.devices()[:1])
    step = devices.compile_training_step(training_step(Tiny(dropout_rate=0.5), sgd, seed=0, average_decay=0.9))
    description = checkpoint.Description(
        model="i3d", options={}, num_classes=3, labels=["a", "b", "c"], preprocessing={}
    )

    def run(folder, *, total_steps, killed_after=None, stop=0):
        plateau = make_plateau(patience=2, factor=0.1, stop=stop)
        state = initial_state(variables(Tiny()), sgd, average=True, plateau=plateau)
        state = devices.place(state)
        final, lines = None, {}
        with Checkpoints(folder, description, keep_last=1) as checkpoints:
            if checkpoints.steps():
                state = checkpoints.restore(state)
            first = int(state.step)
            with contextlib.suppress(Killed):
                final = train(
                    state,
                    (batch(number) for number in range(first, 99)),
                    step=Step(take=lambda state, batch: step(state, devices.shard_batch(batch))),
                    cadence=Cadence(total_steps=total_steps, log_every=1, evaluate_every=2, checkpoint_every=3),
                    learning_rate=schedule,
                    callbacks=Callbacks(
                        evaluate=lambda state: {"top1": 0.0, "loss": LOSSES[int(state.step)]},
                        checkpoints=KilledAfter(checkpoints, killed_after),
                        write=lambda number, split, values: lines.update({number: values["learning_rate"]}),
                    ),
                    plateau=plateau,
                )
        return jax.device_get(final), lines

    whole, lines = run(tmp_path / "whole", total_steps=17)
    np.testing.assert_allclose([lines[number] for number in (1, 4, 7, 8)], [0, 0.05, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose([lines[number] for number in (9, 12, 13, 17)], [0.01, 0.01, 0.001, 0.001], rtol=1e-5)
    resumed = {}
    # Right after the first reduction, between evaluations, and at the end of a shorter run, whose last evaluation the
    # longer one has not.
    for total_steps, killed_after in ((17, 8), (17, 9), (13, None), (17, None)):
        state, more = run(tmp_path / "killed", total_steps=total_steps, killed_after=killed_after)
        resumed |= more
    chex.assert_trees_all_equal(state, whole)
    assert resumed == lines
    assert float(state.plateau.scale) == pytest.approx(0.01)
    # The second fall ends it, now and when it is started again.
    for _ in range(2):
        ended, _ = run(tmp_path / "ended", total_steps=17, stop=2)
        assert int(ended.step) == 12
    assert checkpoint.Description.read(tmp_path / "ended" / "12").provenance["rate_scale"] == pytest.approx(0.01)


def test_a_run_that_plateau_ended_is_finished(tmp_path):
    """Its figures are those of its newest checkpoint, whose rate has fallen often enough, not of the last step."""
    stored = {"step": 6, "frames": 16, "windows": 1, "top1": 0.5}
    evaluation = types.SimpleNamespace(stored=lambda: stored, is_stored=lambda step: step == 6)
    blank = Run(**dict.fromkeys(field.name for field in dataclasses.fields(Run)))
    cadence = Cadence(total_steps=17, log_every=1, evaluate_every=2, checkpoint_every=3)
    description = checkpoint.Description(model="i3d", options={}, num_classes=1, labels=["a"], preprocessing={})
    (tmp_path / "6" / "tree").mkdir(parents=True)
    for scale, stop, finished in ((0.01, 3, False), (0.001, 3, True), (0.001, 0, False), (0.001, 4, False)):
        dataclasses.replace(description, provenance={"rate_scale": scale}).write(tmp_path / "6")
        plateau = make_plateau(patience=2, factor=0.1, stop=stop)
        optimization = Optimization(optimizer=None, schedule=None, plateau=plateau, averages=False, rates="")
        run = dataclasses.replace(
            blank,
            cadence=cadence,
            evaluation=evaluation,
            optimization=optimization,
            checkpoints=Checkpoints(tmp_path, description, keep_last=1),
        )
        assert run.figures() == (stored if finished else None)


def checkpoint_of(workdir, step):
    (workdir / "checkpoints" / str(step) / "tree").mkdir(parents=True)
    (workdir / "checkpoints" / str(step) / "model.json").write_text("{}")


@pytest.mark.parametrize(
    ("rates", "boundaries", "refused"),
    [
        # Of steps 0 to 19, which a checkpoint has seen, the rates are 0.1 and, from step 10 on, 0.01.
        ((0.1, 0.01, 0.001), (10, 90), None),
        ((0.1, 0.01, 0.001), (10, 20), None),
        ((0.1, 0.01, 0.002), (10, 30), None),
        ((0.1, 0.01), (10,), None),
        ((0.1, 0.01, 0.001), (10, 19), r"boundaries was \[10, 30\] and is \[10, 19\]"),
        ((0.1, 0.01, 0.001), (11, 30), r"boundaries was \[10, 30\] and is \[11, 30\]"),
        ((0.1, 0.02, 0.001), (10, 30), r"learning_rates was \[0\.1, 0\.01, 0\.001\] and is \[0\.1, 0\.02, 0\.001\]"),
        ((0.1,), (), "learning_rates was"),
    ],
)
def test_rates_may_change_that_no_checkpoint_has_seen(tmp_path, rates, boundaries, refused):
    config = base.get_config()
    config.optimizer.update({"learning_rates": (0.1, 0.01, 0.001), "boundaries": (10, 30)})
    configuration.keep(config.to_json(), tmp_path)
    checkpoint_of(tmp_path, 8)
    checkpoint_of(tmp_path, 20)
    config.optimizer.update({"learning_rates": rates, "boundaries": boundaries})
    with pytest.raises(UserError, match=refused) if refused else contextlib.nullcontext():
        configuration.refuse_other(config, tmp_path)


def test_before_the_first_checkpoint_all_may_change_but_the_data(tmp_path):
    config = base.get_config()
    configuration.keep(config.to_json(), tmp_path)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    config.update_from_flattened_dict({"optimizer.learning_rates": (0.01, 0.001, 1e-4), "optimizer.momentum": 0.5})
    config.update_from_flattened_dict({"batch_size": 3, "model.dropout_rate": 0.25})
    configuration.refuse_other(config, tmp_path)
    config.seed = 5
    with pytest.raises(UserError, match=r"configuration: seed was 0 and is 5;"):
        configuration.refuse_other(config, tmp_path)


@pytest.mark.parametrize("schedule", ["stepwise", "plateau"])
def test_what_the_rate_follows_from_may_not_change(tmp_path, schedule):
    config = base.get_config()
    config.optimizer.schedule = schedule
    configuration.keep(config.to_json(), tmp_path)
    checkpoint_of(tmp_path, 7)
    config.update_from_flattened_dict({"evaluation.batch_size": 3, "total_steps": 7, "model.rematerialise": True})
    configuration.refuse_other(config, tmp_path)
    config.evaluation.every = 9
    refused = pytest.raises(UserError, match=r"configuration: evaluation\.every was 5000 and is 9;")
    with refused if schedule == "plateau" else contextlib.nullcontext():
        configuration.refuse_other(config, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer.schedule": "cosine"}, "one of stepwise, plateau, found 'cosine'"),
        ({"optimizer.schedule": "plateau"}, "one learning rate and has no boundaries, found .*97000"),
        ({"evaluation.every": 0}, "'plateau' waits for evaluations: evaluation.every must be above 0, found 0"),
        ({"optimizer.plateau_stop": -1}, "plateau_stop must be at least 0, found -1"),
        ({"optimizer.plateau_patience": 0}, "plateau_patience must be at least 1, found 0"),
        ({"optimizer.plateau_factor": 1.0}, "plateau_factor must be above 0 and below 1, found 1.0"),
        ({"optimizer.warmup_steps": -1}, "warmup_steps must be at least 0, found -1"),
        ({"optimizer.reference_batch_size": 0}, "reference_batch_size must be at least 1, found 0"),
    ],
)
def test_wrong_schedules(changes, words):
    config = base.get_config()
    if "optimizer.schedule" not in changes:
        config.update_from_flattened_dict(
            {"optimizer.schedule": "plateau", "optimizer.learning_rates": (0.1,), "optimizer.boundaries": ()}
        )
        assert resolve.create_optimizer(config).plateau is not None
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        resolve.create_optimizer(config)
