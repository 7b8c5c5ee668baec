"""The protocol `fixed` from a dataset to a workdir: features by hand, kept and refused; and as a user runs it."""

from __future__ import annotations

import json
import shutil

import chex
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from helpers.small_dataset import LABELS, pixels, write_dataset
from helpers.small_networks import random_variables

from experiments import base
from i3d_jax import checkpoint, main, models, prepare
from i3d_jax.data.dataset import open_dataset
from i3d_jax.evaluation.features import compute, read
from i3d_jax.models.network import Clip, Network
from i3d_jax.run import Run, frozen_features, resolve
from i3d_jax.system import lock
from i3d_jax.system.errors import UserError
from i3d_jax.training import transfer
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import initial_state
from i3d_jax.video.write import write_video

LENGTHS = [6, 9, 4, 7, 5]


class Means(Network):
    """Features that can be worked out by hand: the mean values of each frame's channels, times a parameter."""

    streams = ("rgb",)
    training_clip = test_clip = Clip(3, 1, 16)

    @nn.compact
    def __call__(self, inputs, train=False):
        scale = self.param("scale", nn.initializers.ones, ())
        features = scale * inputs["rgb"].mean((2, 3))
        return nn.Dense(self.num_classes, name="Logits")(features).mean(1), {"features": features}


def make(dataset, workdir, *, scale=1.0, step=0, devices=4, **evaluation):
    """The batches of a run on a dataset of small videos."""
    config = base.get_config("c3d")
    config.batch_size, config.data.crop, config.evaluation.frames, config.evaluation.windows = 4, 16, 3, 2
    config.evaluation.update(evaluation)
    model = Means(num_classes=len(LABELS))
    described = resolve.describe(config, dataset, model)
    variables = model.init(jax.random.key(0), {"rgb": jnp.zeros((1, 3, 16, 16, 3))})
    variables = {"params": {**variables["params"], "scale": jnp.float32(scale)}, "batch_stats": {}}
    devices = Devices(devices=jax.devices()[:devices])
    state = devices.place(initial_state(variables, optax.sgd(0.1)))
    state = state.replace(step=state.step + step, clips=state.clips + 4 * step)
    evaluation = resolve.evaluation_of(config, workdir, dataset, model, devices)
    clips = resolve.training_clips(config, dataset, model)
    return frozen_features.batches(evaluation, clips, described, state)


def test_features_by_hand_and_kept(tmp_path, capsys):
    dataset = write_dataset(tmp_path / "dataset", LENGTHS)
    batches = make(dataset, tmp_path, scale=2.0, batch_size=4)
    kept = read(tmp_path / "features" / "train.npz")
    assert kept.video.tolist() == [f"video{number}" for number in range(5)]
    assert kept.label.tolist() == [0, 1, 2, 0, 1]
    assert kept.features["Logits"].shape == (5, 2, 3, 3)
    # Of video 1 the first three frames and the last three, the centre crop: rows 1 to 16, columns 2 to 17.
    for window, first in ((0, 0), (1, 6)):
        expected = pixels(1, 9)[first : first + 3, 1:17, 2:18].mean((1, 2)) / 127.5 - 1
        np.testing.assert_allclose(kept.features["Logits"][1, window], 2 * expected, atol=1e-5)
    # Ten windows to train on, each once an epoch, with its label.
    rows = {kept.features["Logits"][video, window].tobytes(): video for video in range(5) for window in range(2)}
    found = [next(batches) for _ in range(5)]
    seen = [row.tobytes() for batch in found for row in batch["Logits"]]
    assert sorted(seen[:10]) == sorted(seen[10:]) == sorted(rows)
    labels = np.concatenate([batch["label"] for batch in found])
    assert labels.tolist() == [kept.label[rows[row]] for row in seen]

    # Again: what is kept is read; going on after two steps, the batches are the third and those after it.
    written = (tmp_path / "features" / "train.npz").stat().st_mtime_ns
    capsys.readouterr()
    again = make(dataset, tmp_path, scale=2.0, step=2)
    assert "training on the features of 5 videos" in capsys.readouterr().err
    chex.assert_trees_all_equal([next(again) for _ in range(3)], found[2:])
    assert (tmp_path / "features" / "train.npz").stat().st_mtime_ns == written
    # Any batch size and any number of devices give the same features.
    make(dataset, tmp_path / "other", scale=2.0, batch_size=1, devices=1)
    chex.assert_trees_all_equal(read(tmp_path / "other" / "features" / "train.npz").features, kept.features)


def test_other_features_are_computed_again_or_refused(tmp_path, capsys):
    dataset = write_dataset(tmp_path / "dataset", LENGTHS)
    make(dataset, tmp_path)
    path = tmp_path / "features" / "train.npz"
    with pytest.raises(
        UserError, match=r"under way on the features in .*train\.npz.*: preprocessing\.frames was 3 and"
    ):
        make(dataset, tmp_path, frames=2, step=1)
    with pytest.raises(UserError, match="others than are asked for now: network was '"):
        make(dataset, tmp_path, scale=0.5, step=1)
    capsys.readouterr()
    for changes, named in (({"frames": 2}, "preprocessing.frames was 3 and is 2"), ({"scale": 0.5}, "network was ")):
        before = read(path).features["Logits"]
        make(dataset, tmp_path, **changes)
        said = capsys.readouterr().err
        assert f"{path} holds other features, which are computed again: " in said
        assert named in said
        after = read(path).features["Logits"]
        assert before.shape != after.shape or (before != after).any()

    other = write_dataset(tmp_path / "more", [*LENGTHS, 5])
    make(other, tmp_path, scale=0.5)
    assert "shards was " in capsys.readouterr().err
    assert len(read(path).video) == 6
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"train\.npz cannot be read as an .npz file of features: .*: remove it"):
        make(other, tmp_path, scale=0.5)


def test_features_that_are_no_numbers_are_named(tmp_path):
    dataset = write_dataset(tmp_path / "dataset", LENGTHS)
    with pytest.raises(UserError, match="features of the video video0 are not finite"):
        make(dataset, tmp_path, scale=float("nan"))
    assert not (tmp_path / "features").exists()


def test_damaged_and_padded_rows_have_no_features():
    batches = [
        {"video": np.array(["a", "", "c"]), "label": np.array([4, 0, 5]), "mask": np.array([True, False, True])},
        {"video": np.array(["d", ""]), "label": np.array([6, 0]), "mask": np.array([True, False])},
    ]
    # Rows of padding, which are no numbers, as those that are masked may be.
    found = {3: [1, np.nan, 3, np.nan], 2: [7, np.nan, np.nan, np.nan]}
    names, labels, features = compute(
        lambda batch: {"Logits": np.reshape(found[len(batch["mask"])], (4, 1, 1, 1))}, batches, videos=5
    )
    assert (names.tolist(), labels.tolist()) == (["a", "c", "d"], [4, 5, 6])
    assert features["Logits"].tolist() == [[[[1]]], [[[3]]], [[[7]]]]
    assert features["Logits"].dtype == np.float32


RATE = 0.01
# A miniature UCF-101: two actions, two splits.
SPLITS = {
    "train01": ["Left/v_g01.avi", "Left/v_g02.avi", "Right/v_g01.avi", "Right/v_g02.avi"],
    "test01": ["Left/v_g03.avi", "Right/v_g03.avi"],
    "train02": ["Left/v_g02.avi", "Left/v_g03.avi", "Right/v_g02.avi", "Right/v_g03.avi"],
    "test02": ["Left/v_g01.avi", "Right/v_g01.avi"],
}


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory):
    """Its dataset folder, through the real preparation."""
    folder = tmp_path_factory.mktemp("ucf101")
    (folder / "lists").mkdir()
    (folder / "lists" / "classInd.txt").write_text("1 Left\n2 Right\n")
    for split, names in SPLITS.items():
        lines = [f"{name} {1 + name.startswith('Right')}" if "train" in split else name for name in names]
        (folder / "lists" / f"{split[:-2]}list{split[-2:]}.txt").write_text("\n".join(lines) + "\n")
    for number, name in enumerate(sorted({name for names in SPLITS.values() for name in names})):
        (folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        frames = np.random.default_rng(number).integers(0, 256, (1, 36, 36, 3), np.uint8)
        frames = np.concatenate([np.roll(frames, 3 * shift, axis=2) for shift in range(10)])
        write_video(folder / "videos" / name, frames, 25, codec="mpeg4")
    paths = {"--annotations": "lists", "--videos": "videos", "--output": "dataset"}
    options = [word for option, name in paths.items() for word in (option, str(folder / name))]
    prepared = prepare.main([*options, "--dialect", "ucf101", "--short_side", "36", "--processes", "1"])
    assert prepared == 0
    return folder / "dataset"


@pytest.fixture(scope="module")
def pretrained(ucf101, tmp_path_factory):
    """A narrow 3D-ConvNet of three other actions."""
    options = {"width_multiplier": 0.0625, "frame_size": 32}
    variables = random_variables(models.create("c3d", 3, **options))
    described = checkpoint.Description(
        model="c3d",
        options=options,
        num_classes=3,
        labels=("sitting", "standing", "waving"),
        preprocessing=open_dataset(ucf101).preprocessing.to_json(),
    )
    folder = tmp_path_factory.mktemp("pretrained") / "checkpoint"
    checkpoint.save(folder, described, variables)
    return folder, variables


def arguments(dataset, workdir, *, init_from, **changes):
    keys = {
        "data.directory": dataset,
        "data.train_split": "train02",
        "init_from": init_from,
        "transfer.protocol": "fixed",
        "total_steps": 6,
        "optimizer.name": "sgd",
        "optimizer.learning_rates": (RATE, RATE),
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 0.0,
        "model.dropout_rate": 0.0,
        "batch_size": 4,
        "log_every": 1,
        "model.width_multiplier": 0.0625,
        "model.frame_size": 32,
        "data.crop": 32,
        "evaluation.every": 0,
        "evaluation.frames": 16,
        "evaluation.windows": 2,
        "checkpoints.every": 1,
        "checkpoints.keep_last": 6,
        "report": False,
        **changes,
    }
    flags = [f"--config.{key}={value}" for key, value in keys.items() if value is not None]
    return ["--config", "experiments/custom.py:c3d", "--workdir", str(workdir), *flags]


def test_ucf101s_second_split_as_a_user_runs_it(ucf101, pretrained, tmp_path, capsys):
    init_from, before = pretrained
    # Stopped after three steps and started again.
    main.main(arguments(ucf101, tmp_path, init_from=init_from, total_steps=3))
    assert "but for the classifier: its classes are others" in capsys.readouterr().err
    main.main(arguments(ucf101, tmp_path, init_from=init_from))
    printed = capsys.readouterr()
    assert "going on from step 3" in printed.err
    assert "training on the features of 4 videos" in printed.err
    assert "test02: top-1" in printed.out
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["test02"]
    assert results["test02"]["videos"] == 2

    # A checkpoint is of the whole network: all but the classifier is the other run's, to the last bit.
    _, variables, metadata = checkpoint.load(tmp_path)
    assert metadata["labels"] == ["Left", "Right"]
    assert metadata["provenance"]["protocol"] == "fixed"
    flat, other = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (variables, before))
    different = [path for path in flat if flat[path].shape != other[path].shape or (flat[path] != other[path]).any()]
    assert sorted(different) == ["params/Logits/bias", "params/Logits/kernel"]

    # By hand: a softmax of the standardised features, whose every step takes the next four of the eight windows; SGD
    # with momentum, which is what the step before has moved. Steps 4 to 6 are those of the run that went on.
    kept = read(tmp_path / "features" / "train02.npz")
    assert sorted(kept.video) == sorted(SPLITS["train02"])
    rows = {"Logits": kept.features["Logits"].reshape(8, 1, 256)}
    batches = transfer.FeatureBatches(rows, np.repeat(kept.label, 2), batch_size=4, seed=0, first_row=8)
    values = rows["Logits"][:, 0].astype(np.float64)
    mean, deviation = values.mean(0), np.sqrt(values.var(0) + 1e-3 * values.var(0).mean())
    layers = [classifier(tmp_path / "checkpoints" / str(step)) for step in range(1, 7)]
    # What a classifier W f + b is of features (f - mean) / deviation.
    layers = [np.vstack([deviation[:, None] * one[:-1], one[-1] + mean @ one[:-1]]) for one in layers]
    for before, now, after in zip(layers, layers[1:], layers[2:], strict=False):
        batch = next(batches)
        # The bias is the weight of a feature that is always 1.
        features = np.pad((batch["Logits"][:, 0] - mean) / deviation, ((0, 0), (0, 1)), constant_values=1)
        scores = features @ now
        slope = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) - np.eye(2)[batch["label"]]
        expected = now - RATE * features.T @ slope / 4 + 0.9 * (now - before)
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-3 * np.abs(after - now).max())


def test_a_run_that_goes_on_needs_no_other_network_draws_none_and_is_not_shortened(
    ucf101, pretrained, tmp_path, capsys, monkeypatch
):
    init_from = shutil.copytree(pretrained[0], tmp_path / "pretrained")
    workdir = tmp_path / "run"
    main.main(arguments(ucf101, workdir, init_from=init_from, total_steps=2))
    shutil.rmtree(init_from)
    monkeypatch.delattr(Run, "draw_variables")
    main.main(arguments(ucf101, workdir, init_from=init_from, total_steps=4))
    assert "going on from step 2" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"total_steps is 3, and .* was trained for 4 steps already"):
        main.main(arguments(ucf101, workdir, init_from=init_from, total_steps=3))
    with lock.held(workdir), pytest.raises(UserError, match="is in use by process"):
        main.main([*arguments(ucf101, workdir, init_from=init_from, total_steps=4), "--mode", "evaluate"])
    assert json.loads((workdir / "config.json").read_text())["total_steps"] == 4


def classifier(directory):
    """The weights of a checkpoint's classifier, its bias in the last row: float64 [256 + 1, 2]."""
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        items = ocp.args.Composite(variables=ocp.args.StandardRestore())
        layer = reader.restore(directory / "tree", items)["variables"]["params"]["Logits"]
    return np.concatenate([layer["kernel"], [layer["bias"]]]).astype(np.float64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transfer.protocol": "fixd"}, r"one of original, fixed, full, found 'fixd' \(did you mean 'fixed'\?\)"),
        ({"init_from": None}, "'fixed' starts from a network that was trained on videos: init_from must name"),
        ({"init_from": None, "transfer.protocol": "full"}, "'full' starts from a network"),
        ({"data.train_split": "train04"}, r"no split 'train04'; it has test01, test02, train01, train02, "),
        ({"evaluation.batch_size": 0}, r"evaluation\.batch_size must be 1 or more, found 0"),
        ({"evaluation.split": "test04"}, r"no split 'test04'; it has test01, "),
    ],
)
def test_mistakes_are_named_and_leave_nothing(ucf101, pretrained, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        main.main(arguments(ucf101, tmp_path / "workdir", **{"init_from": pretrained[0], **changes}))
    assert not (tmp_path / "workdir").exists()
