"""A run on a set of TensorFlow Datasets as a user meets it, and the mistakes in naming a source."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.foreign_records import SPLIT, mediapipe, write_records
from helpers.foreign_sets import build, video_features
from helpers.small_dataset import LABELS

from i3d_jax import main, predict
from i3d_jax.run import recipe as configuration
from i3d_jax.run import resolve
from i3d_jax.system.errors import UserError


def example(video, frames):
    pictures = np.random.default_rng([video, frames]).integers(0, 256, (frames, 36, 40, 3), np.uint8)
    return {"video": pictures, "label": LABELS[video % 3]}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    build(folder, {"train": [9, 12, 10, 9], "test": [11, 9, 13]}, example=example, features=video_features)
    return folder


def arguments(workdir, **keys):
    keys = {
        "data.crop": 32,
        "model.frame_size": 32,
        "total_steps": 1,
        "batch_size": 4,
        "model.width_multiplier": 0.0625,
        "optimizer.boundaries": (5,),
        "evaluation.frames": 16,
        "report": False,
        **keys,
    }
    changes = [f"--config.{key.replace('__', '.')}={value}" for key, value in keys.items()]
    return ["--config", "experiments/custom.py:c3d", "--workdir", str(workdir), *changes]


@pytest.fixture(scope="module")
def tfds(data_dir):
    return {"data__source": "tfds", "data__tfds_name": "small_videos", "data__directory": data_dir}


@pytest.fixture(scope="module")
def finished(tfds, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    main.main(arguments(workdir, **tfds))
    return workdir


def test_training_and_evaluation_on_a_set_of_tensorflow_datasets(tfds, finished, capsys):
    stored = np.load(finished / "predictions" / "test.npz")
    file = "small_videos-test.tfrecord-00000-of-00001"
    assert stored["video"].tolist() == [f"{file}, record {number}" for number in range(3)]
    assert stored["label"].tolist() == [0, 1, 2]
    figures = json.loads((finished / "results.json").read_text())["test"]
    assert (figures["videos"], figures["step"]) == (3, 1)
    main.main([*arguments(finished, **tfds), "--mode", "evaluate"])
    assert "test: top-1" in capsys.readouterr().out
    assert json.loads((finished / "results.json").read_text())["test"] == figures


def test_predict_says_what_is_not_known(finished, tmp_path):
    with pytest.raises(UserError, match="of which frame_rate, interpolation, jpeg_quality is not known"):
        predict.main([str(tmp_path / "video.mp4"), "--checkpoint", str(finished)])


def test_a_checkpoint_refuses_frames_of_which_it_knows_something_else(tfds, finished):
    with pytest.raises(UserError, match=r"frame_rate 'unknown \(small_videos/1\.0\.0\)' against 25\.0"):
        main.main([*arguments(finished, data__stated__frame_rate=25.0, **tfds), "--mode", "evaluate"])


def test_what_is_stated_stands_in_the_checkpoint(tfds, tmp_path):
    stated = {"data__stated__frame_rate": 25, "data__stated__interpolation": "bilinear"}
    _, recipe, _, _, *changes = arguments(tmp_path, **stated, **tfds)
    config = configuration.load(recipe, changes)
    dataset = resolve.open_data(config, tmp_path, flow=False)
    found = resolve.describe(config, dataset, resolve.create_model(config, 3)).preprocessing
    assert (found["frame_rate"], found["short_side"], found["interpolation"]) == (25.0, 36, "bilinear")
    assert found["jpeg_quality"] == "unknown (small_videos/1.0.0)"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"data__source": "tdfs"},
            "must be one of prepared, sequence_examples, tfds, found 'tdfs' (did you mean 'tfds'?)",
        ),
        ({"data__source": "tfds"}, "expected --config.data.directory=DIR, the data_dir of TensorFlow Datasets"),
        ({"data__source": "tfds", "data__directory": "."}, "expected --config.data.tfds_name=SET"),
        ({"data__tfds_name": "ucf101"}, "data.source 'prepared' does not read data.tfds_name: another source"),
        ({"data__labels": "a.txt", "data__source": "tfds"}, "data.source 'tfds' does not read data.labels"),
        ({"data__stated__jpeg_quality": 90}, "does not read data.stated.jpeg_quality"),
        ({"data__synthetic_videos_per_action": 2, "data__source": "tfds"}, "data.source must be 'prepared'"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(tmp_path, keys, words):
    with pytest.raises(UserError) as error:
        main.main(arguments(tmp_path / "run", **keys))
    assert words in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_records_is_a_source(tmp_path):
    """Its frames of 18 pixels are too small for the network, which is said of the folder."""
    folder = write_records(tmp_path / "records", [9, 9, 9, 9], mediapipe)
    keys = {"data__source": "sequence_examples", "data__directory": folder, "data__train_split": SPLIT}
    with pytest.raises(UserError, match=r"a crop of 32 pixels was asked of .*records, whose frames .* side of 18"):
        main.main(arguments(tmp_path / "run", **keys))
