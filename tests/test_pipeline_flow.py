"""Batches with flow: the fields that belong to the frames, one crop and one flip for both, u negated by the flip."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest
from helpers.small_dataset import HEIGHT, WIDTH, fields, jpegs, pixels, pngs, stored_video, write_dataset

from i3d_jax.clips import Sampling
from i3d_jax.data import pipeline, reader
from i3d_jax.data.pipeline import BatchOptions
from i3d_jax.data.reader import DamagedRecord
from i3d_jax.records import example, shards
from i3d_jax.system.errors import UserError

LENGTHS = [6, 9, 4, 7, 3, 12, 5]
BOTH = BatchOptions(batch_size=7, sampling=Sampling(frames=4), streams=("rgb", "flow"), crop=16, max_damaged_share=0.0)
FLOW = dataclasses.replace(BOTH, streams=("flow",))
AROUND = dataclasses.replace(BOTH, sampling=Sampling(frames=2, stride=3, flow_per_frame=2))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", LENGTHS, flow=True)


def training(dataset, options, batches=1, flip=True, **rest):
    iterator = pipeline.training_batches(dataset, "train", options, flip=flip, seed=0, **rest)
    return list(itertools.islice(iterator, batches))


def mirrored_by_hand(rgb, flow):
    flow = flow[:, :, ::-1].astype(int)
    return rgb[:, :, ::-1], np.stack([255 - flow[..., 0], flow[..., 1]], axis=-1)


def test_shapes(dataset):
    (batch,) = training(dataset, AROUND)
    assert batch["rgb"].shape == (7, 2, 16, 16, 3)
    assert batch["flow"].shape == (7, 4, 16, 16, 2)
    assert batch["flow"].dtype == np.uint8
    (batch,) = training(dataset, FLOW)
    assert sorted(batch) == ["flow", "label", "mask", "video"]
    assert batch["flow"].shape == (7, 4, 16, 16, 2)
    (batch,) = pipeline.evaluation_batches(dataset, "train", AROUND, windows=3)
    assert batch["rgb"].shape == (7, 3, 2, 16, 16, 3)
    assert batch["flow"].shape == (7, 3, 4, 16, 16, 2)


def test_frames_and_fields_have_one_window_one_crop_and_one_flip(dataset):
    """Where the frames of a clip are found in the video, there its fields are."""
    found = {False: 0, True: 0}
    for batch in training(dataset, BOTH, batches=6):
        for rgb, flow, name in zip(batch["rgb"], batch["flow"], batch["video"], strict=True):
            video = int(name.removeprefix("video"))
            length = LENGTHS[video]
            # The last frame has no field: looped clips do without it.
            numbers = np.arange(2 * length) % (length - 1)
            places = itertools.product(range(length), range(HEIGHT - 15), range(WIDTH - 15), (False, True))
            for start, top, left, mirrored in places:
                cut = numbers[start : start + 4]
                part = slice(None), slice(top, top + 16), slice(left, left + 16)
                expected = pixels(video, length)[cut][part], fields(video, length)[cut][part]
                if mirrored:
                    expected = mirrored_by_hand(*expected)
                if np.array_equal(rgb, expected[0]):
                    np.testing.assert_array_equal(flow, expected[1])
                    found[mirrored] += 1
                    break
            else:
                pytest.fail(f"a clip of {name} was found nowhere")
    assert min(found.values()) > 10


def test_each_stream_alone_is_the_same_as_beside_the_other(dataset):
    (both,), (flow,) = training(dataset, BOTH), training(dataset, FLOW)
    np.testing.assert_array_equal(both["flow"], flow["flow"])
    np.testing.assert_array_equal(both["video"], flow["video"])


def test_rgb_alone_is_the_same_as_of_a_dataset_without_flow(dataset, tmp_path):
    plain = write_dataset(tmp_path / "plain", LENGTHS)
    rgb = dataclasses.replace(BOTH, streams=("rgb",))
    for one, other in zip(training(dataset, rgb, 3), training(plain, rgb, 3), strict=True):
        np.testing.assert_array_equal(one["rgb"], other["rgb"])


def test_a_resumed_run_goes_on_with_the_same_batches(dataset):
    uninterrupted, resumed = training(dataset, BOTH, 3), training(dataset, BOTH, 1, first_clip=14)
    for key, value in resumed[0].items():
        np.testing.assert_array_equal(value, uninterrupted[2][key])


def test_evaluation_takes_the_centre_of_the_windows(dataset):
    options = dataclasses.replace(AROUND, batch_size=4)
    one, other = pipeline.evaluation_batches(dataset, "train", options, windows=2)
    # Twelve frames have fields 0 to 10. A window takes fields s, s+1 around frame s+1 and s+3, s+4 around s+4, from the
    # starts 0 and 6.
    assert other["video"].tolist() == ["video4", "video5", "video6", ""]
    np.testing.assert_array_equal(other["rgb"][1], pixels(5, 12)[[[1, 4], [7, 10]], 1:17, 2:18])
    np.testing.assert_array_equal(other["flow"][1], fields(5, 12)[[[0, 1, 3, 4], [6, 7, 9, 10]], 1:17, 2:18])
    # Three frames have fields 0 and 1: both windows are looped.
    np.testing.assert_array_equal(other["rgb"][0], pixels(4, 3)[[[1, 0]] * 2, 1:17, 2:18])
    np.testing.assert_array_equal(other["flow"][0], fields(4, 3)[[[0, 1, 1, 0]] * 2, 1:17, 2:18])
    assert not other["flow"][3].any()
    assert one["mask"].all()


def rewrite(directory, **changes):
    """Writes a dataset of one shard whose video2, of four frames, is changed."""
    dataset = write_dataset(directory, LENGTHS, shards=1, flow=True)
    videos = [stored_video(number, length, flow=True) for number, length in enumerate(LENGTHS)]
    videos[2] = dataclasses.replace(videos[2], **changes)
    with shards.ShardWriter(dataset.shard_paths("train")[0]) as writer:
        for video in videos:
            writer.write(example.encode(video))
    shutil.rmtree(directory / "index")
    return dataset


def test_only_what_a_clip_needs_is_decoded(tmp_path):
    """A frame and the two fields around it are whole, and nothing else is."""
    frames, good = jpegs(2, 4), pngs(2, 4)
    damaged = rewrite(
        tmp_path / "damaged",
        frames=(frames[0][:300], frames[1], frames[2][:300], b"nothing"),
        flow=(*good[:2], good[2][:-30]),
    )
    options = dataclasses.replace(BOTH, sampling=Sampling(frames=1, flow_per_frame=2))
    (batch,) = pipeline.evaluation_batches(damaged, "train", options, windows=1)
    assert batch["mask"].all()
    np.testing.assert_array_equal(batch["rgb"][2, 0], pixels(2, 4)[[1], 1:17, 2:18])
    np.testing.assert_array_equal(batch["flow"][2, 0], fields(2, 4)[[0, 1], 1:17, 2:18])


def test_a_stream_that_is_not_asked_for_is_not_looked_at(tmp_path):
    damaged = rewrite(tmp_path / "damaged", frames=(b"nothing",) * 4)
    (batch,) = pipeline.evaluation_batches(damaged, "train", FLOW, windows=1)
    np.testing.assert_array_equal(batch["flow"][2, 0], fields(2, 4)[[0, 1, 2, 0], 1:17, 2:18])


@pytest.mark.parametrize("streams", [("flow",), ("rgb", "flow")])
def test_a_damaged_field_spoils_only_the_clips_that_need_it(tmp_path, streams):
    good = pngs(2, 4)
    damaged = rewrite(tmp_path / "damaged", flow=(*good[:2], good[2][:-30]))
    options = dataclasses.replace(BOTH, sampling=Sampling(frames=1), streams=streams, max_damaged_share=0.2)
    iterator = pipeline.evaluation_batches(damaged, "train", options, windows=2)
    (batch,) = list(iterator)
    assert batch["mask"].tolist() == [True, True, False, True, True, True, True]
    assert iterator.damaged == ("train-00000-of-00001.tfrecord, record 2: its flow field 2 is no whole image",)
    (batch,) = pipeline.evaluation_batches(damaged, "train", options, windows=1)
    assert batch["mask"].all()
    rgb = dataclasses.replace(options, streams=("rgb",), max_damaged_share=0.0)
    assert next(pipeline.evaluation_batches(damaged, "train", rgb, windows=2))["mask"].all()


@pytest.mark.parametrize(
    ("changes", "streams", "message"),
    [
        ({"flow": ()}, ("flow",), r"it has no flow fields \(FORWARD_FLOW/image/encoded\)"),
        ({"flow": pngs(2, 4)[:2]}, ("rgb", "flow"), "from each frame to the next .* 2 flow fields for 4 frames"),
        ({"flow": (b"nothing",) * 3}, ("flow",), "its flow field 0 is no JPEG or PNG image"),
    ],
)
def test_records_whose_flow_does_not_serve(tmp_path, changes, streams, message):
    dataset = rewrite(tmp_path / "damaged", **changes)
    place = dataset.records("train")[2]
    with pytest.raises(DamagedRecord, match=rf"record 2: .*{message}"):
        reader.parse(reader.read_record(place), place, 3, streams)
    reader.parse(reader.read_record(place), place, 3)


def test_a_dataset_without_flow_asked_for_flow(tmp_path):
    plain = write_dataset(tmp_path / "plain", LENGTHS)
    for read in (
        lambda: pipeline.training_batches(plain, "train", BOTH, flip=True, seed=0),
        lambda: pipeline.evaluation_batches(plain, "train", FLOW, windows=1),
    ):
        with pytest.raises(
            UserError, match=r"'flow' was asked of .*plain, which was prepared without flow: .*--flow tvl1"
        ):
            read()
