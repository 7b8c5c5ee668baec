"""Real processes of this machine that compute as one run, agree, and stop when one of them dies."""

from __future__ import annotations

import functools
import json
import signal
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from helpers import forked, pairs
from helpers.pairs import ended
from helpers.small_networks import random_variables
from helpers.two_processes import IMAGE_NETWORK, SOON, WAYS, five_steps

from i3d_jax import checkpoint, main, models
from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.drawn import actions
from i3d_jax.ingest.annotations import read
from i3d_jax.ingest.local import make_shards
from i3d_jax.ingest.options import DatasetOptions
from i3d_jax.ingest.preparation import prepare_dataset
from i3d_jax.study import miniature
from i3d_jax.training import partition
from i3d_jax.training.partition import Devices
from i3d_jax.video.write import write_video

ROOT = Path(__file__).resolve().parents[1]
STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def start():
    with pairs.starting() as start:
        yield start


def test_two_processes_of_two_devices_are_one_device_and_four(start, folder, monkeypatch):
    processes = start(ROOT / "tests" / "helpers" / "two_processes.py", "five_steps", "--output", folder)
    monkeypatch.setattr(partition, "_SMALLEST_SPLIT", 100)
    expected = {name: five_steps(Devices(**way)) for name, way in WAYS.items()}
    one = five_steps(Devices(devices=jax.devices()[:1]))
    half_written = folder / "image_network of one"
    half_written.mkdir()
    (half_written / "model.json").write_text("{}")
    network = checkpoint.load(miniature.image_network(half_written, IMAGE_NETWORK))[1]
    for process in processes:
        code, _, errors = ended(process)
        assert code == 0, errors
    chex.assert_trees_all_equal(checkpoint.load(folder / "image_network")[1], network)
    for process in range(2):
        for name, four in expected.items():
            found = list(np.load(folder / f"{name}{process}.npz").values())
            chex.assert_trees_all_close(found, four, rtol=0, atol=1e-5)
            if name != "pmap":
                chex.assert_trees_all_close(found, one, rtol=0, atol=1e-5)
        told = json.loads((folder / f"{process}.json").read_text())
        assert told["devices"] == "4 cpu devices of 2 hosts"
        assert told["gathered"] == [{"process": 0, "words": ""}, {"process": 1, "words": "ü"}]
        assert told["made"] == "by 0"
        assert process or sorted(told["read"]) == ["batch_stats", "params"]
        assert told["failed"] == ["1 is full", None]
        differences = "b ([0] in process 0, [1] in process 1); c (0 in process 0, 1 in process 1)"
        assert told["refused"] == f"all processes of a run need the same values, but these differ: {differences}"


@pytest.fixture(scope="module")
def dataset(folder):
    """Sixteen videos to train on and eight to test, in one shard each: fewer than there are processes."""
    videos = folder / "videos"
    annotations = actions.draw_dataset(videos, actions.plan({"train": 2, "test": 1}, seed=1), write_video)
    prepare_dataset(
        read("csv", annotations, videos),
        videos,
        folder / "dataset",
        DatasetOptions(name="small", preprocessing=Preprocessing(short_side=37), shards=1),
        make_shards=functools.partial(make_shards, processes=1),
    )
    return folder / "dataset"


def arguments(dataset, workdir, **changes):
    keys = {
        "data.directory": dataset,
        "total_steps": STEPS,
        "batch_size": 8,
        "log_every": 1,
        # So small that the runs do not part.
        "optimizer.name": "sgd",
        "optimizer.learning_rates": (1e-5, 1e-6),
        "model.width_multiplier": 0.0625,
        "model.frame_size": 32,
        "data.crop": 32,
        "optimizer.boundaries": (10,),
        "checkpoints.every": 2,
        "checkpoints.keep_last": 99,
        "evaluation.every": 6,
        "evaluation.batch_size": 3,
        **changes,
    }
    settings = ["--config.report=False", *(f"--config.{key}={value}" for key, value in keys.items())]
    return ["--config", "experiments/custom.py:c3d", "--workdir", str(workdir), *settings]


def stored(workdir, step):
    """The state that a run ended with, whatever devices wrote it."""
    directory = workdir / "checkpoints" / str(step)
    return checkpoint.restore(directory, ["variables", "training"])


def lines(workdir):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [[line[key] for key in ("step", "loss", "top1")] for line in found]


def assert_same_run(workdir, reference, step, *, on_features=False):
    ours, theirs = stored(workdir, step), stored(reference, step)
    if on_features:
        # The bias of a classifier of features as they are sums over all channels what that of standardised ones has
        # learnt: it is compared by its largest value, and the logits, which it is a part of, by 1e-5 below.
        our, their = (one["variables"]["params"]["Logits"].pop("bias") for one in (ours, theirs))
        np.testing.assert_allclose(our, their, rtol=0, atol=1e-5 * np.abs(their).max())
    chex.assert_trees_all_close(ours["variables"], theirs["variables"], rtol=0, atol=1e-5)
    # Gradients of up to 10 were added up here, and a ReLU next to 0 may be decided otherwise by the order in which
    # numbers are added; other clips, or another order of them, change momenta as a whole.
    for our, their in zip(*map(jax.tree.leaves, (ours["training"], theirs["training"])), strict=True):
        np.testing.assert_allclose(our, their, rtol=0, atol=1e-3 * np.abs(their).max())
    np.testing.assert_allclose(lines(workdir), lines(reference), rtol=0, atol=1e-5)
    ours, theirs = (np.load(one / "predictions" / "test.npz") for one in (workdir, reference))
    assert ours["video"].tolist() == theirs["video"].tolist()
    np.testing.assert_array_equal(ours["label"], theirs["label"])
    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=0, atol=1e-5)
    results = [json.loads((one / "results.json").read_text())["test"] for one in (workdir, reference)]
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        assert value == pytest.approx(results[1][name], abs=1e-5), name


def test_a_run_of_two_processes_is_that_of_one_and_goes_on_in_one(start, dataset, folder, capsys):
    """Here one process has four devices."""
    processes = start("-m", "i3d_jax.main", *arguments(dataset, folder / "two"))
    main.main(arguments(dataset, folder / "one"))
    (code, output, errors), (code_of_second, output_of_second, errors_of_second) = map(ended, processes)
    assert code == 0, errors
    assert code_of_second == 0, errors_of_second
    assert "4 cpu devices of 2 hosts" in errors
    assert "python -m i3d_jax.predict" in output
    # The second one neither prints nor logs.
    assert "step" not in errors_of_second
    assert "accuracy" not in output_of_second
    assert_same_run(folder / "two", folder / "one", STEPS)

    capsys.readouterr()
    for workdir in ("two", "one"):
        main.main(arguments(dataset, folder / workdir, total_steps=2 * STEPS))
        assert f"going on from step {STEPS}" in capsys.readouterr().err
    assert_same_run(folder / "two", folder / "one", 2 * STEPS)
    before, after = (stored(folder / "one", step)["variables"]["params"] for step in (2, 2 * STEPS))
    assert max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)) > 1e-4


@pytest.fixture(scope="module")
def pretrained(dataset, folder):
    """A narrow 3D-ConvNet of three other actions."""
    options = {"width_multiplier": 0.0625, "frame_size": 32}
    described = checkpoint.Description(
        model="c3d",
        options=options,
        num_classes=3,
        labels=("sitting", "standing", "waving"),
        preprocessing=open_dataset(dataset).preprocessing.to_json(),
    )
    checkpoint.save(folder / "pretrained", described, random_variables(models.create("c3d", 3, **options)))
    return folder / "pretrained"


def test_two_processes_compute_features_once_and_train_on_them_as_one_does(start, dataset, pretrained, folder, capsys):
    """Sixteen training videos in batches of three, which become four; then again from the features that are kept."""
    fixed = {
        "transfer.protocol": "fixed",
        "init_from": pretrained,
        "evaluation.windows": 2,
        "optimizer.learning_rates": (0.01, 0.001),
    }
    processes = start("-m", "i3d_jax.main", *arguments(dataset, folder / "fixed two", **fixed))
    main.main(arguments(dataset, folder / "fixed one", **fixed))
    for process, first in zip(processes, (True, False), strict=True):
        code, _, errors = ended(process)
        assert code == 0, errors
        assert ("the features are in" in errors) == first
        assert first or "features of train: " not in errors
    ours, theirs = (np.load(folder / name / "features" / "train.npz") for name in ("fixed two", "fixed one"))
    assert len(ours["video"]) == len(set(ours["video"].tolist())) == 16
    assert ours["features/Logits"].shape[:2] == (16, 2)
    for name in ("video", "label", "damaged", "provenance", "features/Logits"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert_same_run(folder / "fixed two", folder / "fixed one", STEPS, on_features=True)

    processes = start("-m", "i3d_jax.main", *arguments(dataset, folder / "fixed two", **fixed, total_steps=2 * STEPS))
    main.main(arguments(dataset, folder / "fixed one", **fixed, total_steps=2 * STEPS))
    for process, first in zip(processes, (True, False), strict=True):
        code, _, errors = ended(process)
        assert code == 0, errors
        assert ("training on the features of 16 videos" in errors) == first
    assert_same_run(folder / "fixed two", folder / "fixed one", 2 * STEPS, on_features=True)
    before, after = (stored(folder / "fixed one", step)["variables"]["params"] for step in (STEPS, 2 * STEPS))
    assert np.abs(before["Logits"]["kernel"] - after["Logits"]["kernel"]).max() > 1e-4


# Each process in a folder of its own, and not as patient as for a slow network's file system.
ELSEWHERE = """
import os, sys
from pathlib import Path
from i3d_jax import main
from i3d_jax.system.errors import run
from i3d_jax.system import cluster, hosts
recipe = sys.argv.index("--config") + 1
sys.argv[recipe] = str(Path(sys.argv[recipe]).absolute())
os.chdir(Path({root!r}, "ab"[int(sys.argv[sys.argv.index("--process_id") + 1])]))
hosts._SEEN_WITHIN_SECONDS = 2
run(main.main, leave=cluster.leave)
"""


def test_sigterm_to_one_of_two_saves_on_both(start, dataset, tmp_path):
    more = {"total_steps": 9999, "optimizer.boundaries": (9000,), "evaluation.every": 0, "checkpoints.every": 9000}
    processes = start("-m", "i3d_jax.main", *arguments(dataset, tmp_path / "run", **more))
    forked.reads(processes[0], "step    5/9999")
    processes[1].send_signal(signal.SIGTERM)
    (code, _, errors), (code_of_second, _, errors_of_second) = map(ended, processes)
    [step] = checkpoint.steps_in(tmp_path / "run" / "checkpoints")
    assert 5 < step < 9000
    for found, said in ((code, errors), (code_of_second, errors_of_second)):
        assert found == 143, said
        assert f"stopped by SIGTERM after step {step}, which is saved" in said


# Without a terminal there would be a line in half a minute.
TELLING = """
from i3d_jax import main
from i3d_jax.system import cluster, progress
from i3d_jax.system.errors import run
progress.LINE_SECONDS = 0
run(main.main, leave=cluster.leave)
"""


def test_sigterm_while_features_are_computed_stops_both(start, dataset, pretrained, tmp_path):
    fixed = {
        "transfer.protocol": "fixed",
        "init_from": pretrained,
        "evaluation.windows": 40,
        "evaluation.batch_size": 2,
    }
    processes = start("-c", TELLING, *arguments(dataset, tmp_path / "run", **fixed))
    # The batch of two is one of four, a video for each device.
    forked.reads(processes[0], "features of train: 1 of 4 steps")
    processes[1].send_signal(signal.SIGTERM)
    for code, _, errors in map(ended, processes):
        assert code == 143, errors
        assert "stopped by SIGTERM; start again to go on" in errors
        assert "4 of 4 steps" not in errors
    assert not (tmp_path / "run" / "features").exists()


def test_folders_that_are_not_shared_are_found_out(start, dataset, tmp_path):
    """Though each process finds in its own what an earlier run has left there."""
    for name in ("a", "b"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "lock").write_text("process 1 on earlier\n")
    given = arguments(dataset, "run")
    processes = start("-c", ELSEWHERE.format(root=str(tmp_path)), *given)
    for code, _, errors in map(ended, processes):
        assert code == 2, errors
        assert "process 1 does not see run/lock as process 0 has written it: expected a folder that all" in errors


def test_a_killed_process_stops_the_other(start):
    """Neither the one that waits for the other's part of a sum, nor the one that a coordinator has left, hangs."""
    for killed in (0, 1):
        processes = start(ROOT / "tests" / "helpers" / "two_processes.py", "steps_without_end")
        for line in processes[killed].stdout:
            if line == "step 3\n":
                break
        processes[killed].send_signal(signal.SIGKILL)
        began = time.monotonic()
        code, _, errors = ended(processes[1 - killed], timeout=10 * SOON)
        assert time.monotonic() - began < 4 * SOON
        # Ours, or JAX's own where it was the coordinator.
        told = {1: "of 2 stops, because", -signal.SIGABRT: "another task died"}
        assert told[code] in errors


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_process_ends_the_other_with_its_name(start, stopped):
    """All its connections stay open: only its silence tells."""
    processes = start(ROOT / "tests" / "helpers" / "two_processes.py", "steps_without_end")
    for line in processes[stopped].stdout:
        if line == "step 3\n":
            break
    processes[stopped].send_signal(signal.SIGSTOP)
    code, _, errors = ended(processes[1 - stopped], timeout=10 * SOON)
    assert code == 1, errors
    [sentence] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert f"process {1 - stopped} of 2 stops, because process {stopped}" in sentence
    assert f"has not been heard of for {SOON} s: it is stopped, or cut off from the others" in sentence
    assert "Check failure stack trace" not in errors


def test_processes_that_disagree_each_stop_with_the_keys(start, dataset, tmp_path):
    own = ["--config.seed=0"], ["--config.seed=1", "--config.batch_size=4"]
    processes = start("-m", "i3d_jax.main", *arguments(dataset, tmp_path / "run"), each=own)
    for process in processes:
        code, _, errors = ended(process)
        assert code == 2
        [sentence] = [line for line in errors.splitlines() if line.startswith("error:")]
        assert "batch_size (8 in process 0, 4 in process 1)" in sentence
        assert "seed (0 in process 0, 1 in process 1)" in sentence
        assert "total_steps" not in sentence
    assert not (tmp_path / "run").exists()
