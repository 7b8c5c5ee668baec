"""Every recipe of the tables takes a step and the whole study fills every cell, on drawn videos in real layouts."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import time
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import forked
from helpers.ports import free_address

from experiments import cells, hmdb51, kinetics, minikinetics, ucf101
from i3d_jax import checkpoint, models, prepare
from i3d_jax.checkpoint import is_whole
from i3d_jax.data.dataset import open_dataset
from i3d_jax.evaluation import results
from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.models.purpose import for_default_platform
from i3d_jax.run import Run, resolve
from i3d_jax.run import recipe as configuration
from i3d_jax.study import miniature, plan
from i3d_jax.study.runs import Study, accuracy, check, train_all
from i3d_jax.system.errors import UserError
from i3d_jax.training import transfer
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import training_step
from i3d_jax.video.write import write_video

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {"kinetics": kinetics, "minikinetics": minikinetics, "ucf101": ucf101, "hmdb51": hmdb51}
WIDTH = 0.0625
SIZE = miniature.Size(train=2, validation=1, groups=3, clips=1, frames=5, short_side=36, width_multiplier=WIDTH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


def prepare_here(arguments):
    # Importing what they need takes other processes longer than so few videos.
    return prepare.main([*arguments, "--processes", "1"])


@pytest.fixture(scope="module")
def datasets(folder):
    """Seventy-two videos of 0.2 seconds, with flow, through the real preparation."""
    return miniature.make(folder / "datasets", SIZE, prepare=prepare_here, write_video=write_video)


@pytest.fixture(scope="module")
def imagenet(folder):
    return miniature.image_network(folder / "imagenet", SIZE)


@pytest.mark.parametrize("network", cells.NETWORKS)
def test_the_recipes_of_a_network_make_it_and_take_its_clips(network):
    """By shapes alone; the clips are those of Table 1, and no key has a value that is refused."""
    for name, recipe in RECIPES.items():
        for variant in recipe.VARIANTS:
            if variant.removesuffix("_fixed").removesuffix("_full") != network:
                continue
            config = recipe.get_config(variant)
            model = resolve.create_model(config, 10)
            clip = (config.data.frames, config.data.stride, config.data.crop, config.data.network_short_side or None)
            assert clip == model.training_clip
            assert config.evaluation.frames == model.test_clip.frames
            resolve.create_optimizer(config)
            resolve.cadence_of(config)
            protocol = next((one for one in ("fixed", "full") if variant.endswith(one)), "original")
            assert config.transfer.protocol == (protocol if name in ("ucf101", "hmdb51") else None)
    # All have the same clips; a training clip has every kind of layer that a longer one has.
    resolve.check_clips(config, model)


def test_the_published_settings():
    def settings(config):
        rates = tuple(config.optimizer.learning_rates)
        return config.total_steps, config.batch_size, rates, tuple(config.optimizer.boundaries)

    release = (0.1, 0.01, 0.001)
    assert settings(kinetics.get_config()) == (115_000, 384, release, (97_000, 108_000))
    assert settings(kinetics.get_config("i3d_flow")) == (
        155_000,
        384,
        release + release,
        (97_000, 104_500, 115_000, 140_000, 150_000),
    )
    # 32 GPUs, 64 for 3D networks, 16 on the small datasets; 6 clips on each, 15 of the 3D-ConvNet.
    assert settings(kinetics.get_config("two_stream"))[:2] == (110_000, 192)
    assert settings(minikinetics.get_config("c3d"))[:2] == (110_000, 960)
    assert settings(ucf101.get_config("c3d_full"))[:2] == (5_000, 240)
    assert settings(hmdb51.get_config("i3d_flow_full"))[:2] == (5_000, 96)
    assert kinetics.get_config("fused").optimizer.schedule == "plateau"
    assert kinetics.get_config().optimizer.schedule == "stepwise"


@pytest.mark.parametrize("variant", ["i3d_rbg", "i3d_rgb-mini", "i3d_rgb_ful", "i3d"])
def test_a_variant_that_is_close_to_one_is_named(variant):
    with pytest.raises(UserError, match=r"ucf101\.py has no variant .* \(did you mean 'i3d_rgb(_full)?'\?\); it has "):
        ucf101.get_config(variant)


def test_what_a_recipe_says_is_one_sentence():
    """Though the flag's library puts a traceback around it."""
    with pytest.raises(UserError) as caught:
        configuration.load("experiments/hmdb51.py:i3d_rgb_ful", [])
    assert str(caught.value).startswith("experiments/hmdb51.py has no variant 'i3d_rgb_ful' (did you mean")
    assert "\n" not in str(caught.value)


def test_kinetics_is_not_transferred_to():
    with pytest.raises(UserError, match="no variant 'i3d_rgb_full'"):
        kinetics.get_config("i3d_rgb_full")


@pytest.mark.parametrize("network", cells.NETWORKS)
def test_every_recipe_of_a_network_takes_a_training_step(network, datasets):
    """On the recipe's own dataset; each network is compiled once, for its step is the same in all of its recipes."""
    steps, taken = {}, 0
    for name, recipe in RECIPES.items():
        dataset = open_dataset(datasets["minikinetics" if name == "kinetics" else name])
        batch = None
        for variant in recipe.VARIANTS:
            if variant.removesuffix("_fixed").removesuffix("_full") != network:
                continue
            config = recipe.get_config(variant + cells.MINIATURE)
            config.model.width_multiplier, config.batch_size, config.optimizer.boundaries = WIDTH, 2, (1,)
            model = resolve.create_model(config, len(dataset.labels))
            if batch is None:
                found = next(resolve.training_clips(config, dataset, model).batches(first_clip=0))
                batch = {key: value for key, value in found.items() if key != "video"}
            fixed = config.transfer.protocol == transfer.FIXED
            key = (str(config.model), str(config.optimizer), fixed)
            if key not in steps:
                steps[key] = _compiled(config, model, fixed)
            state, step = steps[key]
            with for_default_platform():  # As a run traces it.
                after, metrics = step(state, _features(model, batch) if fixed else batch)
            assert int(after.step) == 1
            assert np.isfinite(float(metrics["loss"][0]))
            _check_what_is_trained(state.params, after.params, fixed)
            taken += 1
    assert taken == 2 + 2 * 3
    # One for everything and one for the classifier alone.
    assert len(steps) == 2


def _compiled(config, model, fixed):
    # Random numbers in the right shapes: drawing what a run begins with takes as long as compiling its step.
    random = np.random.default_rng(0)
    template = models.template(model)
    variables = {
        "params": jax.tree.map(lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), template["params"]),
        "batch_stats": jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), template["batch_stats"]),
    }
    optimizer = resolve.create_optimizer(config).optimizer
    optimizer = transfer.restrict(optimizer, transfer.trained(variables["params"], config.transfer.protocol))
    trained = transfer.Classifiers(model) if fixed else model
    return initial_state(variables, optimizer), jax.jit(training_step(trained, optimizer, seed=0))


def _features(model, batch):
    """Random features in the shapes of the network's own, with the labels of a batch."""
    clips = {key: jnp.zeros(value.shape) for key, value in batch.items() if key in model.streams}
    applied = jax.eval_shape(model.apply, models.template(model), clips)
    shapes = jax.eval_shape(model.classifier_inputs, applied[1])
    random = np.random.default_rng(1)
    drawn = {scope: random.normal(size=shape.shape).astype(np.float32) for scope, shape in shapes.items()}
    return {**drawn, "label": batch["label"], "mask": batch["mask"]}


def _check_what_is_trained(before, after, fixed):
    before, after = (flax.traverse_util.flatten_dict(tree) for tree in (before, after))
    changed = {path for path in before if (np.asarray(before[path]) != np.asarray(after[path])).any()}
    classifiers = {path for path in before if "Logits" in path}
    assert classifiers <= changed
    assert (changed == classifiers) == fixed


def study(output, datasets, imagenet, overrides=()):
    return Study(output=output, datasets=datasets, imagenet=imagenet, overrides=overrides, miniature=True)


def pretend(where, figures):
    """Stands in for training: leaves what `figures` has for a run's name, its accuracy or its logits."""

    def train(run):
        workdir = run.workdir
        where.append(workdir.name)
        workdir.mkdir(parents=True, exist_ok=True)
        value = figures[workdir.name]
        if isinstance(value, UserError):
            raise value
        dataset, *_, last = workdir.name.split("-")
        split = "val" if dataset == "minikinetics" else f"test0{last.removeprefix('split')}"
        top1 = value
        if isinstance(value, list):
            top1, videos = None, np.array([f"video {number}" for number in range(len(value))])
            predictions = Predictions(videos, np.zeros(len(value), np.int32), np.array(value, np.float32), {})
            predictions.save(workdir / "predictions" / f"{split}.npz")
        resolved, total_steps = json.loads(run.resolved), run.cadence.total_steps
        windows = {"frames": resolved["evaluation"]["frames"], "windows": resolved["evaluation"]["windows"]}
        results.record(workdir / "results.json", split, {"top1": top1, "step": total_steps, **windows})
        last = workdir / "checkpoints" / str(total_steps)
        (last / "tree").mkdir(parents=True)
        (last / "model.json").write_text("{}")

    return train


def test_the_mean_over_splits_and_the_sum_of_streams_by_hand(tmp_path, datasets, imagenet, monkeypatch):
    found = [
        one
        for one in plan.cells("accuracy", [1, 3])
        if (one.row, one.column) in (("c3d", "ucf101/rgb"), ("i3d", "hmdb51/rgb+flow"))
    ]
    # The right class is the first. RGB is right on the first video alone and flow on the second; both on three.
    rgb = [[5, 1, 0], [0, 2, 0], [2, 3, 0], [0, 9, 0]]
    flow = [[0, 1, 0], [6, 2, 0], [3, 1, 0], [0, 0, 9]]
    figures = {"ucf101-c3d-split1": 0.25, "ucf101-c3d-split3": 0.5}
    for split in (1, 3):
        figures |= {f"hmdb51-i3d_rgb-split{split}": rgb, f"hmdb51-i3d_flow-split{split}": flow}
    here, trained = study(tmp_path, datasets, imagenet), []
    ordered = plan.runs(found)
    monkeypatch.setattr(Run, "train", pretend(trained, figures))
    assert train_all(here, ordered) == {}
    assert trained == [run.name for run in ordered]
    measured = {(one.row, one.column): accuracy(here, one, {}) for one in found}
    assert measured == {("c3d", "ucf101/rgb"): 37.5, ("i3d", "hmdb51/rgb+flow"): 75.0}
    # All are finished: nothing is trained again.
    assert train_all(here, ordered) == {}
    assert len(trained) == len(ordered)


def test_a_run_that_was_killed_between_its_figures_and_its_last_checkpoint_goes_on(
    tmp_path, datasets, imagenet, monkeypatch
):
    """Another starts from that checkpoint."""
    [run] = [run for run in plan.runs(plan.cells("transfer", [1])) if run.name == "minikinetics-c3d"]
    here, trained = study(tmp_path, datasets, imagenet), []
    monkeypatch.setattr(Run, "train", pretend(trained, {run.name: 0.5}))
    assert train_all(here, [run]) == {}
    [last] = (here.workdir(run) / "checkpoints").iterdir()
    # What Orbax calls the folder until all is written.
    (last / "tree").rename(last / "tree.orbax-checkpoint-tmp-1")
    assert here.build(run).figures() is None
    shutil.rmtree(last)
    assert train_all(here, [run]) == {}
    assert train_all(here, [run]) == {}
    assert trained == [run.name] * 2
    assert here.build(run).figures()["top1"] == 0.5
    # Figures by other windows are none.
    assert study(tmp_path, datasets, imagenet, ["--config.evaluation.windows=7"]).build(run).figures() is None


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, datasets, imagenet, capsys, monkeypatch):
    wanted = [one for one in plan.cells("transfer", [1]) if one.row in ("c3d", "conv_lstm") and one.sums]
    wanted = [one for one in wanted if one.column in ("ucf101/original", "ucf101/full")]
    figures = {run.name: 0.5 for run in plan.runs(wanted)}
    figures["minikinetics-c3d"] = UserError("the loss of step 3 is nan")
    here = study(tmp_path, datasets, imagenet)
    monkeypatch.setattr(Run, "train", pretend([], figures))
    failures = train_all(here, plan.runs(wanted))
    assert {run.name: reason for run, reason in failures.items()} == {
        "minikinetics-c3d": "the loss of step 3 is nan",
        "ucf101-c3d_full-split1": "it starts from minikinetics-c3d, which failed",
    }
    measured = {(one.row, one.column): accuracy(here, one, failures) for one in wanted}
    assert measured["conv_lstm", "ucf101/full"] == measured["c3d", "ucf101/original"] == 50.0
    assert measured["c3d", "ucf101/full"].endswith("it starts from minikinetics-c3d, which failed")
    said = capsys.readouterr().err
    assert "run 2 of 6: minikinetics-conv_lstm\n" in said
    assert "run 5 of 6: minikinetics-c3d failed: the loss of step 3 is nan\n" in said


def test_what_is_missing_is_told_before_anything_runs(tmp_path, datasets, imagenet):
    asked = {name: f"--{name}" for name in (*datasets, "imagenet")}
    ordered = plan.runs(plan.cells("transfer", [1]))
    mixed = {**datasets, "ucf101": datasets["minikinetics"]}
    for given, words in (
        ((datasets, None), "start from ImageNet, .* expected --imagenet CHECKPOINT"),
        ((mixed, imagenet), "no split train01, which --splits 1 needs"),
        ((datasets, imagenet, ["--config.data.cropp=3"]), "no key 'data.cropp' .did you mean 'data.crop'"),
        ((datasets, datasets["ucf101"]), "no whole checkpoint"),
    ):
        with pytest.raises(UserError, match=words):
            check(study(tmp_path, *given), ordered, asked=asked)
    check(study(tmp_path, datasets, imagenet), ordered, asked=asked)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def whole(folder, datasets, imagenet):
    """The folder of a whole study that was killed in its third run and started again; its command; what it printed."""
    output = folder / "whole"
    changes = {
        "total_steps": 2,
        "batch_size": 2,
        "model.width_multiplier": WIDTH,
        "optimizer.boundaries": (1,),
        "evaluation.batch_size": 8,
        "log_every": 1,
        "report": False,
    }
    command = ["-m", "i3d_jax.study", "--miniature", "--output", str(output)]
    command += [part for name, path in datasets.items() for part in (f"--{name}", str(path))]
    command += ["--imagenet", str(imagenet), *(f"--config.{key}={value}" for key, value in changes.items())]
    # One device, as a laptop has it.
    environment = forked.environment()
    # With a checkpoint to go on from; for the others their last one is enough.
    often = [*command, "--config.checkpoints.every=1"]
    killed = forked.Process(often, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    run = 0
    for line in killed.stderr:
        run += line.startswith("run ")
        if run == 3 and line.startswith("step 1/2"):
            break
    first_checkpoint = output / "runs" / "minikinetics-conv_lstm" / "checkpoints" / "1"
    deadline = time.monotonic() + 60
    while not is_whole(first_checkpoint) and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.kill()
    killed.communicate()
    assert not is_whole(first_checkpoint.with_name("2")), "the third run was over before it was killed"
    again = forked.run(command, env=environment)
    assert again.returncode == 0, again.stderr[-3000:]
    return output, command, again


def rows_of(output):
    with open(output / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_the_study_fills_every_cell_by_a_run(whole):
    output, _, again = whole
    rows = rows_of(output)
    assert len(rows) == 33 + 40
    for row in rows:
        assert row["reason"] == ""
        runs = [run for run in row["runs"].split() if run.startswith(row["column"].partition("/")[0])]
        stored = [json.loads((output / "runs" / run / "results.json").read_text()) for run in runs]
        [split] = {split for figures in stored for split in figures}
        assert all(figures[split]["step"] == 2 for figures in stored)
        if row["column"].endswith("reduction"):
            continue
        # Two runs are the streams of I3D: the first class of the sum of their logits is the right one.
        files = [np.load(output / "runs" / run / "predictions" / f"{split}.npz") for run in runs]
        assert len(files) == 1 + (row["row"] == "i3d" and row["column"].partition("/")[2] not in ("rgb", "flow"))
        right = sum(file["logits"] for file in files).argmax(1) == files[0]["label"]
        assert float(row["value"]) == pytest.approx(100 * right.mean(), abs=1e-3)
        if len(runs) == 1:
            assert float(row["value"]) == pytest.approx(100 * stored[0][split]["top1"], abs=1e-3)
        assert float(row["difference"]) == pytest.approx(float(row["value"]) - float(row["published"]), abs=1e-3)
    assert len(list((output / "runs").iterdir())) == 54
    printed = again.stdout
    assert printed.count("(e) Two-Stream I3D") == 5
    assert "cannot be compared" in printed
    assert "[1]" not in printed
    assert "none (" not in (output / "table.md").read_text()
    markdown = (output / "table.md").read_text().splitlines()
    assert sum(line.startswith("| (") for line in markdown) == 5 * 5


@pytest.mark.long
def test_a_run_that_was_killed_goes_on(whole):
    output, _, again = whole
    lines = again.stderr.splitlines()
    first = lines.index("run 1 of 54: ucf101-conv_lstm-split1 is finished")
    assert lines[first + 1] == "run 2 of 54: hmdb51-conv_lstm-split1 is finished"
    third = lines.index("run 3 of 54: minikinetics-conv_lstm")
    fourth = next(number for number, line in enumerate(lines) if line.startswith("run 4 of 54"))
    assert any(line.startswith("going on from step 1 of") for line in lines[third:fourth])
    assert [line for line in lines if line.startswith("going on from")] == [
        f"going on from step 1 of {output / 'runs' / 'minikinetics-conv_lstm'}"
    ]


@pytest.mark.long
def test_a_study_that_is_finished_trains_nothing(whole):
    output, command, again = whole
    before = {path: path.stat().st_mtime_ns for path in (output / "runs").glob("*/**/*")}
    done = forked.run(command, env=forked.environment())
    assert done.returncode == 0
    assert done.stderr.count(" is finished") == 54
    assert done.stdout == again.stdout
    assert {path: path.stat().st_mtime_ns for path in (output / "runs").glob("*/**/*")} == before


@pytest.mark.long
def test_transferred_runs_start_from_the_pretrained_network(whole):
    """With "fixed", what lies before the classifier is the pretrained network's to the last bit."""
    output, _, _ = whole
    pretrained, fixed, full = (
        checkpoint.load(output / "runs" / name)[1]
        for name in ("minikinetics-i3d_flow", "hmdb51-i3d_flow_fixed-split1", "hmdb51-i3d_flow_full-split1")
    )
    kernel = ("Conv3d_1a_7x7", "conv_3d", "kernel")
    for other, same in ((fixed, True), (full, False)):
        first, second = (flax.traverse_util.flatten_dict(tree["params"])[kernel] for tree in (pretrained, other))
        assert (first == second).all() == same
        # Two steps of Adam move no parameter by more than twice the rate.
        assert np.abs(first - second).max() < 0.005


@pytest.mark.long
def test_two_processes_fill_cells_as_one_does(whole, folder):
    """Pretraining and the three protocols; started again they find all finished."""
    output, command, _ = whole
    command = [str(folder / "two") if part == str(output) else part for part in command]
    command += ["--table", "transfer", "--rows", "c3d", "--columns", "hmdb51"]
    for again in (False, True):
        cluster = ["--coordinator", free_address(), "--num_processes", "2", "--process_id"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes = [
            forked.Process([*command, *cluster, number], env=forked.environment(), **streams) for number in range(2)
        ]
        (printed, said), (printed_by_second, said_by_second) = (process.communicate() for process in processes)
        assert [process.returncode for process in processes] == [0, 0], said + said_by_second
        assert said.count(" is finished\n") == 4 * again
        assert ("2 cpu devices of 2 hosts" in said) != again
        assert "(b) 3D-ConvNet" in printed
        assert "3D-ConvNet" not in printed_by_second
        assert "run " not in said_by_second
    ours, theirs = ({row["runs"]: row["value"] for row in rows_of(one)} for one in (folder / "two", output))
    assert len(ours) == 4
    assert ours.items() <= theirs.items()
    for run in (folder / "two" / "runs").iterdir():
        [name] = (path.name for path in (run / "predictions").iterdir())
        found, expected = (np.load(one / "runs" / run.name / "predictions" / name) for one in (folder / "two", output))
        assert found["video"].tolist() == expected["video"].tolist()
        # Two steps of Adam at a rate that does not forgive the last bits.
        np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=0.01)


def test_a_folder_in_the_place_of_the_drawn_image_network_is_left_alone(tmp_path):
    (tmp_path / "n01440764.JPEG").write_bytes(b"a picture of ImageNet")
    with pytest.raises(UserError, match="exists and is no empty folder"):
        miniature.image_network(tmp_path, SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["n01440764.JPEG"]
