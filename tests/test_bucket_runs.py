"""The commands with everything in a bucket: the same bytes and figures as on the disk, whatever the server does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import emulators, forked, small_runs
from helpers.ports import free_port

from i3d_jax import checkpoint, features, main, predict, prepare
from i3d_jax.drawn import actions
from i3d_jax.run.retention import Checkpoints
from i3d_jax.system import copies, files, lease, lock
from i3d_jax.system.errors import UserError
from i3d_jax.video.write import write_video

ROOT = Path(__file__).resolve().parents[1]
STEPS = 12
# With spaces, letters of other alphabets and what has a meaning in addresses.
HOME = "gs://bucket/a folder/100% #1 ä"
# A command whose lease ends soon when it is killed.
QUICK = """
import runpy, sys
from i3d_jax.system import lease
lease.LEASE_SECONDS, lease._RENEWED_EVERY_SECONDS = 12, 1
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def network(google_emulator):
    with emulators.Network(google_emulator) as network:
        yield network


@pytest.fixture(autouse=True)
def google(google_emulator, network, monkeypatch):
    """This process asks the emulator itself, those that it starts go through the network."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 12)
    network.refuses, network.down, network.seconds = None, False, 0.0
    emulators.used_by_this_process(monkeypatch, google_emulator)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen videos to train on and eight to test, and what the commands make of them on the disk."""
    folder = tmp_path_factory.mktemp("runs")
    actions.draw_dataset(folder / "videos", actions.plan({"train": 2, "test": 1}, seed=1), write_video)
    prepare.main(preparation(folder))
    assert forked.run(["-m", "i3d_jax.main", *training(folder)], env=forked.environment(), timeout=300).returncode == 0
    return folder


@pytest.fixture
def uploaded(folder, google):
    """The same in the bucket."""
    for name in ("videos", "dataset", "run"):
        place = files.path(f"{HOME}/made/{name}")
        if not place.exists():
            copies.upload(folder / name, place)
    return files.path(f"{HOME}/made")


def preparation(home, videos=None):
    videos = videos or f"{home}/videos"
    words = ["--annotations", f"{videos}/labels.csv", "--videos", videos, "--output", f"{home}/dataset/"]
    return [*words, "--name", "moves", "--short_side", "37", "--shards", "3", "--processes", "1", "--quiet"]


def training(home, dataset=None):
    keys = {"total_steps": STEPS, "log_every": 4, "optimizer.boundaries": (10,)}
    return small_runs.arguments(dataset or f"{home}/dataset", f"{home}/run/", keys)


def started(network, *arguments):
    environment = {**forked.environment(), **emulators.variables(network.address)}
    return forked.Process(["-c", QUICK, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def contents(place):
    """The bytes of all files below a folder of either kind, by their paths in it."""
    every = [path for path in place.rglob("*") if path.is_file()]
    return {str(path.relative_to(place)): path.read_bytes() for path in every}


def logged(workdir):
    timing = ("clips_per_second", "data_wait_share", "seconds_left")
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timing} for line in found]


def until(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


@pytest.mark.long
def test_a_dataset_that_was_killed_in_the_making(folder, network):
    home = files.path(f"{HOME}/killed")
    copies.upload(folder / "videos", home / "videos")
    network.seconds = 0.05
    process = started(network, "i3d_jax.prepare", *preparation(home))
    until(lambda: any(path.suffix == ".tfrecord" for path in (home / "dataset").iterdir()), process)
    with pytest.raises(UserError, match=f"another prepare is at work in {home}/dataset"):
        prepare.main(preparation(home))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    network.seconds = 0.0
    assert not files.is_file(home / "dataset" / "dataset.json"), "it was over before it was killed"
    process = started(network, "i3d_jax.prepare", *preparation(home))
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert contents(home / "dataset") == contents(folder / "dataset")


@pytest.mark.long
def test_a_run_that_is_killed_and_meets_an_unsteady_server(folder, uploaded, network):
    """One request in ten fails and the server is gone for ten seconds; the run ends as the one on the disk."""
    home = files.path(f"{HOME}/trained")
    words = training(home, uploaded / "dataset")
    network.seconds = 0.05
    process = started(network, "i3d_jax.main", *words)
    until(lambda: files.is_file(home / "run" / "lock"), process)
    with pytest.raises(UserError, match=f"run is in use by process {process.pid} on "), lock.held(home / "run"):
        pass
    until(lambda: checkpoint.steps_in(home / "run" / "checkpoints"), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    network.seconds = 0.0
    assert STEPS not in checkpoint.steps_in(home / "run" / "checkpoints"), "it was over before it was killed"
    network.refuses = 10
    process = started(network, "i3d_jax.main", *words)
    forked.reads(process, "going on from step")
    network.down = True
    threading.Timer(10, lambda: setattr(network, "down", False)).start()
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    same(home / "run", folder / "run")


def same(ours, theirs):
    """Two workdirs of one recipe hold the same."""
    assert logged(ours) == logged(theirs)
    found, expected = contents(ours), contents(theirs)
    for name in ("results.json", "predictions/test.npz"):
        assert found[name] == expected[name], name
    steps = checkpoint.steps_in(theirs / "checkpoints")
    assert checkpoint.steps_in(ours / "checkpoints") == steps
    assert {name.split("/")[1] for name in found if name.startswith("checkpoints/")} == set(map(str, steps))
    for step in steps:
        assert found[f"checkpoints/{step}/digests.json"] == expected[f"checkpoints/{step}/digests.json"]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_processes_with_one_workdir(folder, uploaded, network):
    home = files.path(f"{HOME}/two")
    environment = {**forked.environment(), **emulators.variables(network.address), "PYTHON": sys.executable}
    port = str(free_port())
    command = ["launch/local.sh", "--processes", "2", "--port", port, *training(home, uploaded / "dataset")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    ours, theirs = (json.loads((one / "results.json").read_text())["test"] for one in (home / "run", folder / "run"))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert [line["step"] for line in logged(home / "run")] == [line["step"] for line in logged(folder / "run")]
    _, variables, _ = checkpoint.load(home / "run")
    assert variables["params"]


def test_what_the_network_says_is_the_same(folder, uploaded, tmp_path, capsys):
    said = []
    for home, output in ((folder, tmp_path), (uploaded, uploaded / "out")):
        words = ["--checkpoint", f"{home}/run", "--quiet"]
        predict.main([f"{home}/videos", *words, "--format", "csv", "--output", f"{output}/scores.csv"])
        features.main([f"{home}/videos", *words, "--window", "9", "--output", f"{output}/features"])
        said.append((output / "scores.csv").read_text().replace(f"{home}/", ""))
    assert said[0] == said[1]
    assert contents(uploaded / "out" / "features") == contents(tmp_path / "features")
    predict.main([f"{uploaded}/videos/growing*.mp4", "--checkpoint", f"{uploaded}/run"])
    assert capsys.readouterr().out.count("growing_") == 3


def test_a_checkpoint_that_is_not_whole_is_none(uploaded):
    run = files.path(f"{HOME}/broken")
    with copies.on_this_machine(uploaded / "run") as found:
        copies.upload(found, run)
    *_, before, newest = checkpoint.steps_in(run / "checkpoints")
    (run / "checkpoints" / str(newest) / "model.json").unlink()
    assert checkpoint.find(run) == run / "checkpoints" / str(before)
    description = checkpoint.Description.read(run / "checkpoints" / str(before))
    with Checkpoints(run / "checkpoints", description, keep_last=2):
        assert not files.is_folder(run / "checkpoints" / str(newest))
    for path in (run / "checkpoints" / str(before) / "tree" / "variables").rglob("*"):
        if path.parent.name == "d":
            path.unlink()
    with pytest.raises(UserError, match=f"the checkpoint .*/{before} "):
        checkpoint.load(run)


@pytest.mark.parametrize("command", [prepare, main])
def test_a_bucket_that_may_not_be_written_to(command, uploaded, network, monkeypatch):
    emulators.used_by_this_process(monkeypatch, network.address)
    monkeypatch.setattr(network, "writes_status", 403)
    new = f"{HOME}/new"
    words = preparation(new, f"{uploaded}/videos") if command is prepare else training(new, uploaded / "dataset")
    with pytest.raises(UserError, match=f"{new}/.* cannot be written: the account has no permission"):
        command.main(words)
