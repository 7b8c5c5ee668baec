"""Checkpoints: what is read is what was written, and nothing half-written is read."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.tiny import Tiny, variables

from i3d_jax import checkpoint, models
from i3d_jax.run.retention import Checkpoints
from i3d_jax.system.errors import UserError
from i3d_jax.training.optimizer import make_optimizer, make_plateau
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import initial_state

PREPROCESSING = {"frame_rate": 25.0, "short_side": 256, "interpolation": "bilinear", "jpeg_quality": 95, "crop": 224}


def description(**changes):
    fields = {
        "model": "i3d",
        "options": {"width_multiplier": 0.125},
        "num_classes": 3,
        "labels": ["a", "b", "ç"],
        "preprocessing": PREPROCESSING,
        "provenance": {"file": "x"},
    }
    return checkpoint.Description(**{**fields, **changes})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "checkpoint"
    model = models.create("i3d", 3, width_multiplier=0.125)
    clip = {"rgb": jax.ShapeDtypeStruct((1, 9, 32, 32, 3), jnp.float32)}
    stored = model.init(jax.random.key(3), clip)
    checkpoint.save(directory, description(), stored)
    return directory, stored


def test_load_gives_what_was_saved(saved):
    directory, stored = saved
    model, loaded, metadata = checkpoint.load(directory)
    chex.assert_trees_all_equal(loaded, stored)
    assert (model.num_classes, model.width_multiplier) == (3, 0.125)
    assert metadata["labels"] == ["a", "b", "ç"]
    assert metadata["preprocessing"] == PREPROCESSING
    assert metadata["format_version"] == 1


def test_a_checkpoint_is_not_written_over_another(saved):
    with pytest.raises(UserError, match="no empty folder"):
        checkpoint.save(saved[0], description(), saved[1])


def test_a_checkpoint_cut_short_makes_room_for_the_next_and_other_files_stay(saved, tmp_path, monkeypatch):
    def fill_the_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.ocp.Checkpointer, "save", fill_the_disk)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(tmp_path / "new", description(), saved[1])
    assert list((tmp_path / "new").iterdir()) == []
    # Killed amid the writing.
    description().write(tmp_path / "new")
    (tmp_path / "new" / "tree.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "new" / "model.json.tmp-12").touch()
    checkpoint.save(tmp_path / "new", description(), saved[1])
    assert sorted(entry.name for entry in (tmp_path / "new").iterdir()) == ["digests.json", "model.json", "tree"]
    chex.assert_trees_all_equal(checkpoint.load(tmp_path / "new")[1], saved[1])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tree.txt").write_text("an oak")
    with pytest.raises(UserError, match="other exists and is no empty folder"):
        checkpoint.save(tmp_path / "other", description(), saved[1])
    assert (tmp_path / "other" / "tree.txt").read_text() == "an oak"


def edit(directory, **changes):
    path = directory / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 7}, "format version 7, expected 1"),
        ({"num_classes": 4}, "3 labels for 4 classes"),
        ({"labels": None}, "'labels' was expected to be a list, found None"),
        ({"num_classes": 2, "labels": ["a", "b"]}, r"Logits/Conv3d_0c_1x1/bias \[3\] against \[2\]"),
        ({"model": "i3"}, r"model\.json: there is no model 'i3'"),
        ({"options": {"width": 1}}, "no option 'width'"),
        ({"options": {"width_multiplier": "wide"}}, "width_multiplier was expected to be of the kind float"),
        ({"options": {"width_multiplier": 0.25}}, "do not fit the model 'i3d'"),
    ],
)
def test_a_description_that_does_not_fit(saved, tmp_path, changes, words):
    directory = tmp_path / "checkpoint"
    shutil.copytree(saved[0], directory)
    edit(directory, **changes)
    with pytest.raises(UserError, match=words):
        checkpoint.load(directory)


def test_damage_is_named(saved, tmp_path):
    directory = tmp_path / "checkpoint"
    shutil.copytree(saved[0], directory)
    for file in (directory / "tree").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"checkpoint .* cannot be read"):
        checkpoint.load(directory)
    for text, words in (("{", "cannot be read as JSON"), ("3", "a JSON object was expected, found int")):
        (directory / "model.json").write_text(text)
        with pytest.raises(UserError, match=words):
            checkpoint.load(directory)


@pytest.mark.parametrize("missing", ["model.json", "tree"])
def test_half_a_checkpoint_is_none(saved, tmp_path, missing):
    directory = tmp_path / "checkpoint"
    shutil.copytree(saved[0], directory)
    path = directory / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not checkpoint.is_whole(directory)
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        checkpoint.load(directory)


def test_a_folder_that_is_not_there():
    with pytest.raises(UserError, match=r"a checkpoint directory was expected at .*, found a file"):
        checkpoint.load(__file__)
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.find("nowhere")


def test_fit_names_both_sides():
    with pytest.raises(UserError) as caught:
        checkpoint.fit(
            {"a": {"x": np.zeros(2)}, "b": np.zeros(3)},
            {"a": {"x": np.zeros(2), "y": np.zeros(1)}, "b": np.zeros(4)},
            source="the file",
            target="the model",
        )
    assert str(caught.value) == (
        "the variables of the file do not fit the model: b [3] against [4]; only the model has a/y"
    )


def state_at(step, devices=1):
    optimizer, _ = make_optimizer(name="sgd", learning_rates=(0.1,), boundaries=(), momentum=0.9, weight_decay=0.0)
    state = initial_state(variables(Tiny()), optimizer)
    state = jax.tree.map(lambda leaf: leaf + step if leaf.dtype == jnp.float32 else leaf, state)
    state = state.replace(step=jnp.int32(step), clips=jnp.int32(8 * step))
    return Devices(devices=jax.devices()[:devices]).place(state)


def test_the_best_and_the_last_are_kept(tmp_path):
    figures = {1: 0.25, 2: 0.75, 3: None, 4: 0.75, 5: 0.5, 6: None, 7: 0.1}
    with Checkpoints(tmp_path, description(), keep_last=2) as checkpoints:
        for step, top1 in figures.items():
            checkpoints.save(state_at(step), None if top1 is None else {"top1": top1})
        checkpoints.wait()
        assert checkpoints.steps() == [4, 6, 7]
        assert checkpoints.best() == 4
        assert checkpoints.newest == 7
    assert checkpoint.find(tmp_path) == tmp_path / "7"
    provenance = json.loads((tmp_path / "4" / "model.json").read_text())["provenance"]
    assert provenance == {"file": "x", "step": 4, "metrics": {"top1": 0.75}}


def test_the_newest_is_known_to_whoever_may_not_look(tmp_path):
    before = Checkpoints(tmp_path, description(), keep_last=1)
    assert before.newest is None
    with before:
        assert before.newest is None
        before.save(state_at(3), None)
        before.wait()
        assert before.newest == 3
    with Checkpoints(tmp_path, description(), keep_last=1) as after:
        assert after.newest == 3
        after.save(state_at(3), None)
        after.save(state_at(5), None)
        after.wait()
        assert after.newest == 5


@pytest.mark.parametrize(("written_by", "read_by"), [(1, 1), (1, 4), (4, 1)])
def test_restore_gives_the_newest_state_on_any_devices(tmp_path, written_by, read_by):
    with Checkpoints(tmp_path, description(), keep_last=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_at(step, written_by), None)
        checkpoints.wait()
        restored = checkpoints.restore(state_at(9, read_by))
        chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(state_at(2)))
        assert len(restored.params["Logits"]["bias"].devices()) == read_by


def test_an_average_is_what_is_published_and_all_comes_back(tmp_path):
    plateau = make_plateau(patience=2, factor=0.5)
    plain = state_at(3)

    def averaged(value):
        state = plain.replace(average=jax.tree.map(lambda leaf: leaf * 0 + value, plain.variables))
        return state.replace(plateau=plateau.init(plain.params)._replace(scale=jnp.float32(value)))

    with Checkpoints(tmp_path, description(), keep_last=1) as checkpoints:
        checkpoints.save(averaged(0.25), None)
        checkpoints.wait()
        restored = checkpoints.restore(averaged(9.0))
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(averaged(0.25)))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        items = ocp.args.Composite(variables=ocp.args.StandardRestore())
        published = reader.restore(tmp_path / "3" / "tree", items)["variables"]
    assert {float(value) for leaf in jax.tree.leaves(published) for value in np.unique(leaf)} == {0.25}


def test_an_average_of_parameters_alone_is_that_with_the_live_statistics(tmp_path):
    """So were averages kept before statistics were averaged too: its training tree lacks them."""
    state = state_at(3)
    state = state.replace(average=jax.tree.map(lambda leaf: leaf * 2, state.variables))
    before = {"params": state.average["params"], "batch_stats": state.batch_stats}
    training = {name: getattr(state, name) for name in ("step", "clips", "optimizer_state", "params")}
    (tmp_path / "3").mkdir()
    description().write(tmp_path / "3")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        trees = {"variables": before, "training": training}
        writer.save(
            tmp_path / "3" / "tree",
            ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in trees.items()}),
        )
    with Checkpoints(tmp_path, description(), keep_last=1) as checkpoints:
        other = state_at(9)
        restored = checkpoints.restore(other.replace(average=other.variables))
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(state.replace(average=before)))


def test_what_is_saved_is_the_state_at_that_moment(tmp_path):
    """The next step takes the state's memory while the writer still reads."""
    take = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0 - 1, state), donate_argnums=0)
    with Checkpoints(tmp_path, description(), keep_last=1) as checkpoints:
        state = state_at(3)
        checkpoints.save(state, None)
        take(state)
        checkpoints.wait()
        chex.assert_trees_all_equal(jax.device_get(checkpoints.restore(state_at(9))), jax.device_get(state_at(3)))


def test_what_a_crash_left_is_removed(tmp_path):
    with Checkpoints(tmp_path, description(), keep_last=2) as checkpoints:
        checkpoints.save(state_at(1), None)
        checkpoints.wait()
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    (tmp_path / "2" / "tree").rename(tmp_path / "2" / "tree.orbax-checkpoint-tmp-1")
    (tmp_path / "3").mkdir()
    (tmp_path / "notes").mkdir()
    with Checkpoints(tmp_path, description(), keep_last=2) as checkpoints:
        assert checkpoints.steps() == [1]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["1", "notes"]


def test_another_models_checkpoint_is_refused(tmp_path):
    with Checkpoints(tmp_path, description(), keep_last=1) as checkpoints:
        checkpoints.save(state_at(1), None)
        checkpoints.wait()
        other = state_at(1)
        params = flax.traverse_util.flatten_dict(other.params)
        params["Logits", "bias"] = jnp.zeros(5)
        with pytest.raises(UserError, match=r"Logits/bias \[3\] against \[5\]"):
            checkpoints.restore(other.replace(params=flax.traverse_util.unflatten_dict(params)))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 KiB, where it is permitted to mount one."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


SAVING = """
import numpy as np
from i3d_jax import checkpoint
from i3d_jax.system.errors import run
described = checkpoint.Description(model="i3d", options={}, num_classes=1, labels=["a"], preprocessing={})
arrays = {str(number): np.random.default_rng(number).bytes(4000) for number in range(200)}
arrays = {name: np.frombuffer(array, np.uint8) for name, array in arrays.items()}
run(lambda arguments: checkpoint.save(arguments[0], described, {"params": arrays}))
"""


def test_a_full_disk_is_one_sentence(small_disk):
    """Of 200 arrays, of which each is written by itself."""
    command = [sys.executable, "-c", SAVING, small_disk / "checkpoint"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the disk is full: ")
    assert done.stderr.count("\n") == 1
    assert list((small_disk / "checkpoint").iterdir()) == []
