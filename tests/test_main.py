"""The commands as a user meets them: train, be killed, go on, evaluate, predict; and mistakes."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import forked, seeds, small_runs

from i3d_jax import checkpoint, main, predict
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.drawn import actions
from i3d_jax.ingest.annotations import read
from i3d_jax.ingest.local import make_shards
from i3d_jax.ingest.options import DatasetOptions
from i3d_jax.ingest.preparation import prepare_dataset
from i3d_jax.run import build, train
from i3d_jax.run import recipe as configuration
from i3d_jax.run.evaluate import Evaluation
from i3d_jax.system import lock
from i3d_jax.system.errors import Stopped, UserError
from i3d_jax.video.write import write_video

ROOT = Path(__file__).resolve().parents[1]
STEPS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("main")


@pytest.fixture(scope="module")
def dataset(folder):
    """Sixteen videos to train on and eight to test, of 37 pixels, through the real preparation."""
    videos = folder / "videos"
    annotations = actions.draw_dataset(videos, actions.plan({"train": 2, "test": 1}, seed=1), write_video)
    prepare_dataset(
        read("csv", annotations, videos),
        videos,
        folder / "dataset",
        DatasetOptions(name="small", preprocessing=Preprocessing(short_side=37)),
        make_shards=functools.partial(make_shards, processes=1),
    )
    return folder / "dataset"


def arguments(dataset, workdir, *more):
    keys = {"total_steps": STEPS, "log_every": 1, "optimizer.boundaries": (20,)}
    return [*small_runs.arguments(dataset, workdir, keys), *more]


@pytest.fixture(scope="module")
def environment():
    """One device."""
    return forked.environment()


def start(environment, *more, **options):
    return forked.Process(["-m", *more], env=environment, **options)


def said_by(environment, *more):
    """The exit code and the complaints of a process that imports for itself, which its libraries may comment on."""
    command = [sys.executable, *more]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def finished(dataset, folder, environment):
    """The workdir of an uninterrupted run."""
    words = arguments(dataset, folder / "whole", "--config.report=True")
    process = start(environment, "i3d_jax.main", *words, stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    assert "python -m i3d_jax.predict" in output
    return folder / "whole"


def lines(workdir):
    timing = ("clips_per_second", "data_wait_share", "seconds_left")
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timing} for line in found]


def tree(workdir):
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        items = {name: ocp.args.StandardRestore() for name in ("variables", "training")}
        return dict(reader.restore(workdir / "checkpoints" / str(STEPS) / "tree", ocp.args.Composite(**items)).items())


def test_killed_at_random_and_started_again_it_ends_as_if_nothing_had_happened(dataset, folder, finished, environment):
    workdir = folder / "killed"
    steps = sorted(seeds.drawn().sample(range(2, STEPS - 10), 3))
    for step in steps:
        process = start(environment, "i3d_jax.main", *arguments(dataset, workdir), stderr=subprocess.PIPE)
        for line in process.stderr:
            if line.startswith("step") and int(line.split()[1].split("/")[0]) >= step:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"the run was over before it was killed at {steps}"
    assert start(environment, "i3d_jax.main", *arguments(dataset, workdir)).wait(timeout=600) == 0
    chex.assert_trees_all_equal(tree(workdir), tree(finished))
    assert lines(workdir) == lines(finished)
    assert (workdir / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_a_workdir_holds_what_the_readme_says(finished):
    names = {entry.name for entry in finished.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "predictions",
        "results.json",
        "report.html",
        "lock",
    }
    assert list((finished / "tensorboard").glob("events.*"))
    stored = np.load(finished / "predictions" / "test.npz")
    assert stored["logits"].shape == (8, 8)
    assert stored["logits"].dtype == np.float32
    results = json.loads((finished / "results.json").read_text())["test"]
    assert results["videos"] == 8
    assert results["top1"] == np.mean(stored["logits"].argmax(1) == stored["label"])
    assert [line["step"] for line in lines(finished)] == [*range(1, STEPS + 1), STEPS]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluation_gives_the_figures_of_training(dataset, finished, tmp_path, batch_size, capsys):
    """Four devices here, one there; another batch size: the figures differ by the rounding of two programs at most."""
    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "copy" / "results.json").unlink()
    more = ["--mode", "evaluate", f"--config.evaluation.batch_size={batch_size}"]
    main.main(arguments(dataset, tmp_path / "copy", *more))
    assert "test: top-1" in capsys.readouterr().out
    ours, theirs = (json.loads((one / "results.json").read_text())["test"] for one in (tmp_path / "copy", finished))
    assert ours.pop("loss") == pytest.approx(theirs.pop("loss"), rel=1e-6)
    assert ours == theirs


def test_evaluation_takes_windows_as_they_were_trained_on(dataset, finished):
    with pytest.raises(UserError, match="stride 1 against 2"):
        main.main(arguments(dataset, finished, "--mode", "evaluate", "--config.data.stride=2"))


def test_a_finished_run_asked_for_other_windows_is_scored_again(dataset, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "copy" / "predictions" / "test.npz").unlink()
    main.main(arguments(dataset, tmp_path / "copy"))
    assert not (tmp_path / "copy" / "predictions" / "test.npz").exists()
    main.main(arguments(dataset, tmp_path / "copy", "--config.evaluation.windows=1"))
    found = json.loads((tmp_path / "copy" / "results.json").read_text())["test"]
    assert (found["step"], found["frames"], found["windows"]) == (STEPS, 16, 1)
    ours, theirs = (np.load(one / "predictions" / "test.npz")["logits"] for one in (tmp_path / "copy", finished))
    assert np.abs(ours - theirs).max() > 1e-3
    accuracies = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  accuracy")]
    assert f"top-1 {100 * found['top1']:.1f}%" in accuracies[1]
    assert [line["loss"] for line in lines(tmp_path / "copy") if line["split"] == "test"] == [found["loss"]]


def test_an_evaluation_on_what_is_trained_on_has_a_name_of_its_own_and_a_warning(dataset, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "copy")
    for mode in ("train", "evaluate"):
        main.main(arguments(dataset, tmp_path / "copy", "--config.evaluation.split=train", "--mode", mode))
        assert "warning: the evaluation is of the split 'train', whose videos the network" in capsys.readouterr().err
    found = json.loads((tmp_path / "copy" / "results.json").read_text())["train"]
    *before, evaluated = lines(tmp_path / "copy")
    assert before == lines(finished)
    assert (evaluated["step"], evaluated["split"], evaluated["videos"]) == (STEPS, "train_evaluation", 16)
    assert evaluated["loss"] == found["loss"]


def test_predict_sees_the_pixels_that_evaluation_saw(folder, finished, capsys):
    stored = np.load(finished / "predictions" / "test.npz")
    video = folder / "videos" / str(stored["video"][3])
    assert predict.main([str(video), "--checkpoint", str(finished), "--top_k", "8", "--format", "json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    labels = sorted(actions.ACTIONS)
    logits = {one["label"]: one["logit"] for one in found["predictions"]}
    np.testing.assert_allclose([logits[label] for label in labels], stored["logits"][3], rtol=1e-5, atol=1e-5)
    assert [one["logit"] for one in found["predictions"]] == sorted(logits.values(), reverse=True)
    assert sum(one["probability"] for one in found["predictions"]) == pytest.approx(1)


def test_predict_as_text_goes_on_after_a_bad_video(folder, finished, tmp_path, capsys):
    video = sorted((folder / "videos").glob("*.mp4"))[0]
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    assert predict.main([str(tmp_path / "bad.mp4"), str(video), "--checkpoint", str(finished), "--top_k", "2"]) == 2
    printed = capsys.readouterr()
    step, error = printed.err.splitlines()
    assert "the checkpoint of step" in step
    assert "bad.mp4 cannot be read" in error
    assert len(printed.out.splitlines()) == 3
    assert printed.out.splitlines()[0].startswith(f"{video}  (0.0 s to ")


def test_stopped_by_sigterm_and_then_finished_and_then_given_more_steps(dataset, finished, tmp_path, environment):
    """Three starts: told to stop early on, run to the end with half the steps, and with all: the uninterrupted run."""
    workdir = tmp_path / "run"
    half = arguments(dataset, workdir, f"--config.total_steps={STEPS // 2}", "--config.profile.first_step=2")
    process = start(environment, "i3d_jax.main", *half, stderr=subprocess.PIPE)
    for line in process.stderr:
        if line.startswith("step  2/"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read().splitlines()
    assert process.wait(timeout=60) == 143
    stopped = int(rest[-1].split()[5].rstrip(","))
    assert 2 < stopped < STEPS // 2
    assert rest[-1] == f"stopped by SIGTERM after step {stopped}, which is saved; start again to go on"
    assert checkpoint.steps_in(workdir / "checkpoints")[-1] == stopped
    assert lines(workdir) == lines(finished)[:stopped]
    assert any(line.startswith("a trace of the steps from 2 to ") for line in rest)
    assert list(workdir.glob("profile/plugins/profile/*/*.xplane.pb"))

    process = start(environment, "i3d_jax.main", *half, stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0
    assert f"going on from step {stopped}" in errors
    assert start(environment, "i3d_jax.main", *arguments(dataset, workdir)).wait(timeout=300) == 0
    chex.assert_trees_all_equal(tree(workdir), tree(finished))
    # Half-way it was at its end, so it was evaluated.
    assert [line for line in lines(workdir) if line["split"] == "train" or line["step"] == STEPS] == lines(finished)
    assert (workdir / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_sigterm_in_an_evaluation_saves_at_once_and_the_evaluation_is_made_up_for(dataset, tmp_path, monkeypatch):
    more = ["--config.total_steps=4", "--config.evaluation.every=2", "--config.evaluation.batch_size=4"]
    main.main(arguments(dataset, tmp_path / "whole", *more))
    score = Evaluation.__call__

    def told(self, variables, step, between):
        if step in steps:
            steps.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return score(self, variables, step, between)

    monkeypatch.setattr(Evaluation, "__call__", told)
    for step in (2, 4):
        steps = [step]
        with pytest.raises(Stopped, match=f"stopped by SIGTERM after step {step}, which is saved"):
            main.main(arguments(dataset, tmp_path / "stopped", *more))
        assert checkpoint.steps_in(tmp_path / "stopped" / "checkpoints")[-1] == step
    assert lines(tmp_path / "stopped")[-1]["split"] == "train"
    main.main(arguments(dataset, tmp_path / "stopped", *more))
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")
    for name in ("results.json", "checkpoints/2/model.json", "checkpoints/4/model.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_sigterm_in_the_last_evaluation_ends_what_would_come_after_the_run(dataset, tmp_path, monkeypatch):
    """A study trains one run after the other in one process."""

    def finish(run, termination):
        termination.in_loop()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train, "_train", finish)
    before = signal.getsignal(signal.SIGTERM)
    _, recipe, _, workdir, *changes = arguments(dataset, tmp_path / "run")
    with pytest.raises(Stopped, match=r"stopped by SIGTERM; .*run was trained to the end"):
        build(configuration.load(recipe, changes), Path(workdir)).train()
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_while_the_dataset_is_made(tmp_path, environment):
    process = start(
        environment,
        *("i3d_jax.main", "--config", "experiments/quickstart.py", "--workdir", str(tmp_path / "run")),
        stderr=subprocess.PIPE,
    )
    while not list(tmp_path.glob("run/synthetic/videos/*.mp4")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.splitlines()[-1] == "stopped by SIGTERM; start again to go on"
    assert "Traceback" not in errors


def test_init_from_starts_with_the_other_runs_parameters(dataset, finished, tmp_path, environment):
    """A run of one step at a rate of next to nothing ends where the other run ended."""
    rates = "--config.optimizer.learning_rates=(1e-12,1e-12)"
    more = [f"--config.init_from={finished}", "--config.total_steps=1", rates]
    assert start(environment, "i3d_jax.main", *arguments(dataset, tmp_path / "run", *more)).wait(timeout=300) == 0
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        items = ocp.args.Composite(variables=ocp.args.StandardRestore())
        found = reader.restore(tmp_path / "run" / "checkpoints" / "1" / "tree", items)["variables"]["params"]
    chex.assert_trees_all_close(found, tree(finished)["variables"]["params"], atol=1e-7)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--config.data.cropp=3"], "no key 'data.cropp' (did you mean 'data.crop'?"),
        (["--config.crop=3"], "no key 'crop' (did you mean 'data.crop'?"),
        (["--config.data.crop=wide"], "custom.py:small cannot be used with --config.data.crop=wide: invalid literal"),
        (["--config.batch_size=0"], "batch_size must be at least 4, the number of devices, found 0"),
        (["--workdirectory=x"], "unknown argument '--workdirectory=x'"),
        (["--config.data.frames=8"], "at least 9 frames, found 8"),
        # Before the videos are drawn.
        (["--config.data.synthetic_videos_per_action=1", "--config.data.frames=8"], "at least 9 frames, found 8"),
        (["--config.data.synthetic_videos_per_action=1", "--config.init_from=nowhere"], "nowhere does not exist"),
        (["--config.model.dtype=bf16"], "one of float32, bfloat16, found 'bf16'"),
        (["--config.evaluation.frames=8"], "at least 9 frames, found 8"),
        (["--config.optimizer.learning_rates=(0.1,)"], "found 1 and 1"),
        (["--config.batch_size=6"], "batch_size is 6, which 4 devices do not divide"),
        (["--config.accumulation_steps=3"], "3 accumulation steps on 4 devices do not divide; .* works is 12"),
        (["--config.optimizer.schedule=plateau"], "begins with one learning rate and has no boundaries"),
        (["--config.model.name=i3"], "did you mean 'i3d'"),
        (["--config.data.directory=nowhere"], "expected at nowhere, found nothing"),
        (["--config.data.train_split=training"], "training"),
        (["--config.evaluation.split=validation"], "validation"),
        (["--config.data.crop=64"], "short side of 37"),
        (["--config.checkpoints.keep_last=0"], "keep_last must be at least 1"),
        (["--config.init_from=nowhere"], "nowhere does not exist"),
        (["--config.evaluation.frames=100000000"], "frames must be at most 15000, found 100000000"),
        (["--config.data.frames=9999", "--config.batch_size=400000"], "data.frames is 9999: a batch of 400000 videos"),
        (["--config.evaluation.frames=9999", "--config.evaluation.windows=9999"], "evaluation.frames is 9999: a batch"),
        (["--config.profile.first_step=28"], "leave room for 5 steps up to total_steps 30, found 28"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(dataset, tmp_path, more, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace("?", r"\?")):
        main.main(arguments(dataset, tmp_path / "workdir", *more))
    assert not (tmp_path / "workdir").exists()


def test_what_is_no_recipe(tmp_path):
    (tmp_path / "labels.csv").write_text("video,label,split\na b,c,d\n")
    with pytest.raises(UserError, match=r"a recipe in Python was expected, found in .*labels\.csv, line 2: "):
        main.main(["--config", str(tmp_path / "labels.csv")])
    with pytest.raises(UserError, match=r"no recipe experiments; there are: experiments/custom\.py, "):
        main.main(["--config", "experiments"])


def test_a_recipe_that_is_not_there_lists_those_that_are():
    with pytest.raises(
        UserError, match=r"no recipe experiments/kinetic\.py \(did you mean 'experiments/kinetics\.py'\?\); there are: "
    ):
        main.main(["--config", "experiments/kinetic.py"])
    with pytest.raises(UserError, match=r"has the variants full, small, .*, found 'smal' \(did you mean 'small'\?\)"):
        main.main(["--config", "experiments/custom.py:smal"])
    with pytest.raises(UserError, match=r"has the variants full, small, .*, found 'tiny'"):
        main.main(["--config", "experiments/custom.py:tiny"])


def test_a_workdir_that_another_run_uses(dataset, finished):
    with lock.held(finished), pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "):
        main.main(arguments(dataset, finished))


def test_a_workdir_of_another_configuration(dataset, finished):
    before = (finished / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"seed was 0 and is 1; data\.flip was True and is False"):
        main.main(arguments(dataset, finished, "--config.seed=1", "--config.data.flip=False"))
    assert (finished / "config.json").read_bytes() == before


def describe_otherwise(dataset, target, **changes):
    shutil.copytree(dataset, target)
    description = json.loads((target / "dataset.json").read_text())
    description["preprocessing"].update(changes.pop("preprocessing", {}))
    (target / "dataset.json").write_text(json.dumps({**description, **changes}))
    return target


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": [f"label {number}" for number in range(8)]}, "number 0 is 'growing' against 'label 0'"),
        ({"labels": ["growing"]}, "knows 8 classes, .* has 1"),
        ({"preprocessing": {"short_side": 40}}, "prepared in another way .* short_side 37 against 40"),
        ({"preprocessing": {"frame_rate": 24.0}}, "frame_rate 25.0 against 24.0"),
    ],
)
def test_a_checkpoint_refuses_what_it_was_not_trained_on(dataset, finished, tmp_path, changes, words):
    other = describe_otherwise(dataset, tmp_path / "other", **changes)
    with pytest.raises(UserError, match=words):
        main.main(arguments(other, finished, "--mode", "evaluate"))


def test_a_damaged_dataset_is_one_sentence(dataset, tmp_path, environment):
    """TensorFlow, which asks for the clips, has no word in it."""
    shutil.copytree(dataset, tmp_path / "dataset")
    [shard] = (tmp_path / "dataset").glob("train-*.tfrecord")
    shard.write_bytes(shard.read_bytes()[:-1000])
    command = arguments(tmp_path / "dataset", tmp_path / "run", "--config.data.max_damaged_share=0")
    code, errors = said_by(environment, "-m", "i3d_jax.main", *command)
    assert code == 2
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert errors.splitlines()[-1:] == said
    assert "of the 16 records of split 'train' are damaged" in said[0]
    assert "Traceback" not in errors


def test_exit_codes_and_one_sentence(dataset, tmp_path, environment):
    for more, code in ((["--config.batch_size=0"], 2), (["--mode", "evaluate"], 2)):
        found, errors = said_by(environment, "-m", "i3d_jax.main", *arguments(dataset, tmp_path / "x", *more))
        assert found == code
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1


def test_a_full_disk_is_one_sentence(dataset, tmp_path, environment):
    """Flushing a file to the disk fails with the system's error."""
    program = (
        "import errno, i3d_jax.system.files as files, i3d_jax.main as main\n"
        "from i3d_jax.system.errors import run\n"
        "def full(*_): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "files.os.fsync = full\n"
        "run(main.main)\n"
    )
    code, errors = said_by(environment, "-c", program, *arguments(dataset, tmp_path / "x"))
    assert code == 2
    assert errors.startswith("error: the disk is full")
    assert errors.count("\n") == 1
    assert not (tmp_path / "x").exists()
