"""Frames that the network sees smaller than the dataset holds them."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
from helpers.small_dataset import HEIGHT, WIDTH, pixels, write_dataset

from experiments import base
from i3d_jax.clips import Sampling
from i3d_jax.data import pipeline
from i3d_jax.data.pipeline import BatchOptions
from i3d_jax.data.preprocessing import centre_crop, resized
from i3d_jax.run import recipe
from i3d_jax.system.errors import UserError

LENGTHS = [6, 9, 4]
OPTIONS = BatchOptions(
    batch_size=3, sampling=Sampling(frames=4), streams=("rgb",), crop=8, network_short_side=9, max_damaged_share=0.0
)


@pytest.mark.parametrize(
    ("stored", "short_side", "size"),
    # The first is the original C3D's: 320x240 becomes 171x128.
    [((240, 320), 128, (128, 171)), ((256, 454), 128, (128, 227)), ((21, 18), 9, (10, 9)), ((37, 19), 19, (37, 19))],
)
def test_resized_frames_are_those_of_tensorflow(stored, short_side, size):
    frames = np.random.default_rng(0).integers(0, 256, (2, *stored, 3), np.uint8)
    found = resized(frames, short_side)
    assert found.shape == (2, *size, 3)
    assert found.dtype == np.uint8
    # OpenCV's weights are fractions of 2,048.
    np.testing.assert_allclose(found, tf.image.resize(frames, size, "bilinear").numpy(), atol=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", LENGTHS)


def test_evaluation_crops_the_resized_frames(dataset):
    batch = next(pipeline.evaluation_batches(dataset, "train", OPTIONS, windows=1))
    assert batch["mask"].all()
    for video, (length, name) in enumerate(zip(LENGTHS, batch["video"], strict=True)):
        assert name == f"video{video}"
        frames = resized(pixels(video, length)[:4], 9)
        assert frames.shape == (4, 9, 10, 3)  # of 18x21
        np.testing.assert_array_equal(batch["rgb"][video, 0], centre_crop(frames, 8))


def test_training_crops_and_mirrors_the_resized_frames(dataset):
    batches = itertools.islice(pipeline.training_batches(dataset, "train", OPTIONS, flip=True, seed=0), 8)
    seen = set()
    for batch in batches:
        for name, clip in zip(batch["video"], batch["rgb"], strict=True):
            video = int(name.removeprefix("video"))
            frames = resized(pixels(video, LENGTHS[video]), 9)
            places = [
                (start, top, left, mirrored)
                for start in range(len(frames) - 3)
                for top, left in itertools.product(range(2), range(3))
                for mirrored in (False, True)
                if np.array_equal(
                    frames[start : start + 4, top : top + 8, left : left + 8, :][:, :, :: -1 if mirrored else 1], clip
                )
            ]
            assert len(places) == 1
            seen.add(places[0][1:])
    # Nearly all of 2 x 3 corners, both ways round.
    assert len(seen) >= 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network_short_side": 7}, "network_short_side must be the crop, 8, or more, found 7"),
        ({"streams": ("rgb", "flow")}, "network_short_side is 9, and the network takes flow"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(OPTIONS, **changes)


def test_frames_are_not_made_larger(dataset):
    found, as_stored = (
        next(pipeline.evaluation_batches(dataset, "train", dataclasses.replace(OPTIONS, **changes), windows=1))
        for changes in ({"network_short_side": min(HEIGHT, WIDTH) + 1}, {"network_short_side": None})
    )
    np.testing.assert_array_equal(found["rgb"], as_stored["rgb"])


def test_runs_of_before_go_on_unless_they_saw_other_frames(tmp_path):
    for architecture in ("i3d", "c3d"):
        config = base.get_config(architecture)
        fields = json.loads(config.to_json())
        assert fields["data"].pop("network_short_side") == {"i3d": 0, "c3d": 128}[architecture]
        recipe.keep(json.dumps(fields), tmp_path / architecture)
    recipe.refuse_other(base.get_config("i3d"), tmp_path / "i3d")
    with pytest.raises(UserError, match=r"data\.network_short_side was 0 and is 128"):
        recipe.refuse_other(base.get_config("c3d"), tmp_path / "c3d")
    recipe.refuse_other(recipe.load("custom.py:c3d", ["--config.data.network_short_side=0"]), tmp_path / "none")
