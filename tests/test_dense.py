"""A clip in pieces scores as it does in one, whatever its length, and the pieces are all that memory holds."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from helpers.small_networks import random_variables

from experiments import base
from i3d_jax import models
from i3d_jax.data import dense_batches, pipeline
from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.drawn import actions
from i3d_jax.evaluation import dense
from i3d_jax.evaluation.dense import pieces
from i3d_jax.ingest.annotations import read
from i3d_jax.ingest.local import make_shards
from i3d_jax.ingest.options import DatasetOptions
from i3d_jax.ingest.preparation import prepare_dataset
from i3d_jax.records.shards import ShardIndex, index_path
from i3d_jax.run import resolve
from i3d_jax.system.errors import UserError
from i3d_jax.training.partition import Devices
from i3d_jax.training.step import scaled
from i3d_jax.video.write import write_video

# Where the trunk may end earlier, what its edges take is less, and short clips have several pieces.
SHALLOW = "Mixed_3c"


@functools.cache
def network(name, **options):
    model = models.create(name, num_classes=8, width_multiplier=0.0625, **options)
    return model, random_variables(model)


def moving(model, frames, seed=0):
    """A clip that is another picture at every frame, and brighter towards its end."""
    random = np.random.default_rng(seed)
    shapes = model.input_shapes(frames, 32)
    light = np.linspace(0.2, 1, frames)[:, None, None, None]
    return {stream: (random.integers(0, 256, shape) * light).astype(np.uint8) for stream, shape in shapes.items()}


def in_one_piece(model, variables, clip):
    apply = jax.jit(functools.partial(model.apply, variables))
    logits, endpoints = apply({stream: scaled(pixels)[None] for stream, pixels in clip.items()})
    return logits[0], {stream: own[0] for stream, own in model.stream_logits(endpoints).items()}


def assert_same_scores(ours, whole):
    """To a sixth digit: other windows at the edges of a piece make a difference from the fifth on."""
    for own, other in zip(jax.tree.leaves(ours), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-6 * np.ptp(other))


@pytest.mark.parametrize("frames", [9, *range(225, 232), 3000])
def test_pieces_are_the_whole(frames):
    """Of each length modulo the eight frames of a step."""
    model, variables = network("i3d")
    clip = moving(model, frames)
    assert_same_scores(dense.dense(model, variables, clip), in_one_piece(model, variables, clip))
    # Whatever the length, what is computed at a time is one program's, of a piece.
    cut = pieces(model, 256)
    assert (cut.frames, len(cut.places(3000))) == (256, 20)
    assert dense._compiled(dense.dense_step(model, cut, precision="highest"))._cache_size() == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [("i3d", {"temporal_padding": "replicate"}), ("i3d", {"stream": "flow"}), ("two_stream_i3d", {})],
)
def test_pieces_of_other_streams_and_paddings_are_the_whole(name, options):
    model, variables = network(name, last_block=SHALLOW, **options)
    assert pieces(model, 9).frames == 40
    for frames in (57, 90):
        clip = moving(model, frames)
        assert_same_scores(dense.dense(model, variables, clip, frames=9), in_one_piece(model, variables, clip))


def test_what_the_edges_of_a_piece_reach_by_hand():
    """Step k of Mixed_5c sees the 99 frames from 8k - 44 to 8k + 54, and a feature is of two steps."""
    cut = pieces(network("i3d")[0], 9)
    assert (cut.stride, cut.before, cut.after, cut.frames) == (8, 6, 6, 208)
    # Of 25 features the 13 from number 6 to 18 count: a piece begins so many steps behind the one before.
    assert [start for start, _ in cut.places(400)] == [0, 104, 208]
    assert [cut.features(frames) for frames in (9, 16, 17, 250)] == [1, 1, 2, 31]


def test_other_networks_are_refused_and_clips_too_short():
    for name in ("c3d", "conv_lstm", "two_stream", "fused", "inception_v1"):
        with pytest.raises(UserError, match=r"'dense' takes videos of any length.* 'windows' was expected"):
            pieces(models.create(name), 250)
    model, variables = network("i3d")
    with pytest.raises(UserError, match="at least 9 frames, found 8"):
        dense.dense(model, variables, moving(model, 8))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Videos of one piece, two and four, and one that is too short for the network."""
    folder = tmp_path_factory.mktemp("dataset")
    plan = [
        dataclasses.replace(video, frames=frames)
        for video, frames in zip(actions.plan({"test": 1}, seed=1), (25, 43, 90, 5), strict=False)
    ]
    annotations = actions.draw_dataset(folder, plan, write_video)
    options = DatasetOptions(name="small", preprocessing=Preprocessing(short_side=40))
    making = functools.partial(make_shards, processes=1)
    prepare_dataset(read("csv", annotations, folder), folder, folder / "dataset", options, make_shards=making)
    return open_dataset(folder / "dataset")


def evaluation(dataset, workdir, model, *, batch_size, devices):
    config = base.get_config("i3d")
    config.update_from_flattened_dict(
        {"data.crop": 32, "evaluation.protocol": "dense", "evaluation.batch_size": batch_size, "evaluation.frames": 9}
    )
    config.data.max_damaged_share = 0.5
    return resolve.evaluation_of(config, workdir, dataset, model, Devices(devices=jax.devices()[:devices]))


def test_a_split_is_scored_whole_for_any_batch_and_any_number_of_devices(dataset, tmp_path):
    model, variables = network("i3d", last_block=SHALLOW)
    found = {}
    for batch_size, devices in ((1, 1), (3, 1), (4, 4)):
        workdir = tmp_path / f"{batch_size} {devices}"
        scoring = evaluation(dataset, workdir, model, batch_size=batch_size, devices=devices)
        assert scoring(scoring.devices.place(variables), 3)["videos"] == 4
        found[batch_size, devices] = dict(np.load(workdir / "predictions" / "test.npz"))
        assert scoring.is_stored(3)
    for stored in found.values():
        for name, values in stored.items():
            np.testing.assert_array_equal(values, found[1, 1][name])
    assert json.loads(str(stored["protocol"])) == {"protocol": "dense", "stride": 1, "average": "logits"}
    frames = [count for path in dataset.shard_paths("test") for count in ShardIndex.read(index_path(path)).frames]
    assert sorted(frames) == [5, 25, 43, 90]
    for row, count in enumerate(frames):
        # The whole video, the short one looped, as one window of the pipeline.
        sampling = dataclasses.replace(scoring.options.sampling, frames=max(count, 9))
        options = dataclasses.replace(scoring.options, batch_size=1, sampling=sampling)
        clip = [*pipeline.evaluation_batches(dataset, "test", options, windows=1)][row]
        whole, _ = in_one_piece(model, variables, {"rgb": clip["rgb"][0, 0]})
        assert clip["video"][0] == stored["video"][row]
        assert_same_scores(stored["logits"][row], whole)


def test_a_video_of_which_a_piece_is_damaged_is_left_out(dataset, tmp_path, monkeypatch):
    """Its last frame, when its first pieces have been scored."""

    def open_damaged(*given):
        reader = pipeline.open_reader(*given)
        [long] = [one for one in reader.places if reader.read(one, lambda video: video.num_frames) == 90]
        reader.exclude_images(long, [("rgb", 89)])
        return reader

    monkeypatch.setattr(dense_batches, "open_reader", open_damaged)
    model, variables = network("i3d", last_block=SHALLOW)
    scoring = evaluation(dataset, tmp_path, model, batch_size=1, devices=1)
    figures = scoring(scoring.devices.place(variables), 3)
    assert [figures[name] for name in ("expected", "videos", "damaged")] == [4, 3, 1]
