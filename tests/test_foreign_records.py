"""Records of MediaPipe and DMVR give the batches of our own dataset of the same frames."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers.foreign_records import SPLIT, displacements, dmvr, flow_images, mediapipe, truncated, write_records
from helpers.small_dataset import LABELS, write_dataset

from i3d_jax.clips import Sampling
from i3d_jax.data import pipeline, reader
from i3d_jax.data.foreign import Stated
from i3d_jax.data.foreign_records import open_records
from i3d_jax.data.pipeline import BatchOptions
from i3d_jax.flow import codec
from i3d_jax.system.errors import UserError

LENGTHS = [6, 9, 4, 7, 3, 12, 5]
RGB = BatchOptions(batch_size=4, sampling=Sampling(frames=4), streams=("rgb",), crop=16, max_damaged_share=0.0)
FLOW = dataclasses.replace(RGB, streams=("flow",))
BOTH = dataclasses.replace(RGB, streams=("rgb", "flow"))
STEP = 40 / 255


def open_folder(folder, *, labels=None, **stated):
    return open_records(folder, labels=labels, stated=Stated(**stated))


def training(dataset, options, batches=4, *, split=SPLIT, flip=True, **rest):
    iterator = pipeline.training_batches(dataset, split, options, flip=flip, seed=3, **rest)
    return list(itertools.islice(iterator, batches))


def assert_equal(found, expected, *, but=()):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - set(but):
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("ours"), LENGTHS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("mediapipe"), LENGTHS, mediapipe)


@pytest.mark.parametrize("record", [mediapipe, dmvr])
def test_the_batches_are_those_of_our_own_dataset(ours, tmp_path, record):
    foreign = open_folder(write_records(tmp_path, LENGTHS, record))
    assert foreign.labels == LABELS
    found, expected = training(foreign, RGB), training(ours, RGB, split="train")
    assert_equal(found, expected, but=["video"])
    evaluated = list(pipeline.evaluation_batches(foreign, SPLIT, RGB, windows=2))
    ours_evaluated = list(pipeline.evaluation_batches(ours, "train", RGB, windows=2))
    assert_equal(evaluated, ours_evaluated, but=["video"])
    names = {"video0": "video0"} if record is mediapipe else {"video0": "/videos/video0.mp4"}
    assert evaluated[0]["video"][0] == names[ours_evaluated[0]["video"][0]]
    assert evaluated[1]["video"][3] == ""


def test_a_resumed_run_goes_on_and_hosts_share_a_batch(folder):
    dataset = open_folder(folder)
    whole = training(dataset, BOTH)
    assert_equal(training(dataset, BOTH, 1, first_clip=12), whole[3:])
    hosts = [training(dataset, dataclasses.replace(BOTH, host=host, hosts=2)) for host in (0, 1)]
    joined = [{key: np.concatenate([one[key], other[key]]) for key in one} for one, other in zip(*hosts, strict=True)]
    assert_equal(joined, whole)


def test_flow_in_jpeg_is_the_displacement_within_the_error_of_jpeg(folder):
    """Read as rounded, it would be half a step, 0.078 px, too small in the mean."""
    batches = pipeline.evaluation_batches(open_folder(folder), SPLIT, BOTH, windows=1)
    flow = np.concatenate([batch["flow"][:, 0] for batch in batches])
    errors = []
    for stored, video, length in zip(flow, range(7), LENGTHS, strict=False):
        expected = displacements(video, length)[np.arange(4) % (length - 1), 1:17, 2:18]
        inside = np.abs(expected) < 18
        errors.append((codec.to_pixels(stored, codec.TRUNCATED) - expected)[inside])
    errors = np.concatenate(errors)
    assert np.abs(errors).mean() < 0.5
    assert abs(errors.mean()) < 0.03


def test_no_motion_is_no_motion(tmp_path):
    still = flow_images(truncated(np.zeros((5, 18, 21, 2), np.float32)))
    folder = write_records(tmp_path, [6], lambda video, frames: mediapipe(video, frames, flow=still), shards=1)
    [batch] = pipeline.evaluation_batches(open_folder(folder), SPLIT, FLOW, windows=1)
    assert np.abs(codec.to_pixels(batch["flow"][0], codec.TRUNCATED)).max() <= 1.01 * STEP


def test_a_flipped_clip_has_the_flow_of_the_flipped_video(tmp_path):
    """Without JPEG's loss and within the bound it is what MediaPipe would have stored of (-u, v), byte for byte."""

    def record(video, frames):
        return mediapipe(video, frames, flow=flow_images(truncated(0.8 * displacements(video, frames)), ".png"))

    def negated(video, frames):
        field = displacements(video, frames)[:, :, ::-1] * np.float32([-0.8, 0.8])
        return mediapipe(video, frames, flow=flow_images(truncated(field), ".png"))

    # The whole width, so that the crop of the flipped video stands where that of the video does.
    options = dataclasses.replace(FLOW, crop=18, batch_size=8)
    dataset = open_folder(write_records(tmp_path / "one", LENGTHS, record))
    flipped = open_folder(write_records(tmp_path / "other", LENGTHS, negated))
    [with_flip], [without] = training(dataset, options, 1), training(dataset, options, 1, flip=False)
    mirrored = np.array([not np.array_equal(*pair) for pair in zip(with_flip["flow"], without["flow"], strict=True)])
    assert 0 < mirrored.sum() < 8
    places = {name: flipped.records(SPLIT)[int(name.removeprefix("video"))] for name in without["video"]}
    for row in np.flatnonzero(mirrored):
        flow, place = with_flip["flow"][row], places[with_flip["video"][row]]
        video = reader.parse(reader.read_record(place), place, 3, ("flow",), flipped.layout)
        fields = [tf.io.decode_image(video.image("flow", number)).numpy() for number in range(video.num_frames - 1)]
        cuts = [field[:, left : left + 18, :2] for field in fields for left in range(4)]
        assert sum(np.array_equal(cut, flow[0]) for cut in cuts) == 1
        np.testing.assert_array_equal(flow[..., 1], without["flow"][row, :, :, ::-1, 1])


def test_what_the_records_tell_and_what_is_unknown(folder, tmp_path):
    preprocessing = open_folder(folder).preprocessing
    assert preprocessing.to_json() == {
        "frame_rate": 25.0,
        "short_side": 18,
        "interpolation": f"unknown ({folder.name})",
        "jpeg_quality": f"unknown ({folder.name})",
        "flow": {"algorithm": "tvl1", "implementation": "mediapipe", "bound": 20.0, "rounding": "truncated"},
    }
    stated = open_folder(folder, interpolation="bilinear", jpeg_quality=100, frame_rate=25.0).preprocessing
    assert (stated.interpolation, stated.jpeg_quality) == ("bilinear", 100)
    plain = open_folder(write_records(tmp_path, LENGTHS, dmvr), frame_rate=10.0).preprocessing
    assert (plain.frame_rate, plain.flow) == (10.0, None)


def test_a_saturation_is_the_bound(tmp_path):
    def record(video, frames):
        example = mediapipe(video, frames)
        example.context.feature["FORWARD_FLOW/image/saturation"].float_list.value[:] = [32.0]
        return example

    assert open_folder(write_records(tmp_path, LENGTHS, record)).preprocessing.flow["bound"] == 32.0


def without(*keys):
    def record(video, frames):
        example = mediapipe(video, frames)
        for key in keys:
            del example.context.feature[key]
        return example

    return record


def test_a_file_of_labels_decides_about_the_order(tmp_path, folder):
    (tmp_path / "labels.txt").write_text("up\nleft\nright\ndown\n")
    dataset = open_folder(folder, labels=str(tmp_path / "labels.txt"))
    [first, _] = pipeline.evaluation_batches(dataset, SPLIT, RGB, windows=1)
    assert dataset.labels == ("up", "left", "right", "down")
    assert first["label"].tolist() == [1, 2, 0, 1]


def test_records_without_names_of_labels_need_the_file(tmp_path):
    folder = write_records(tmp_path / "records", LENGTHS, without("clip/label/string"))
    with pytest.raises(UserError, match=r"do not name their labels \(clip/label/string or clip/label/text\): .*FILE"):
        open_folder(folder)
    (tmp_path / "labels.txt").write_text("left\nright\nup\n")
    dataset = open_folder(folder, labels=str(tmp_path / "labels.txt"))
    [first, _] = pipeline.evaluation_batches(dataset, SPLIT, RGB, windows=1)
    assert first["label"].tolist() == [0, 1, 2, 0]


def test_records_without_a_label_of_the_dataset_are_damaged(tmp_path, folder):
    """Without a file of labels nobody says what an index without a name stands for."""
    unnamed = without("clip/label/string")
    mixed = write_records(
        tmp_path / "records", LENGTHS, lambda *video: (unnamed if video[0] < 2 else mediapipe)(*video)
    )
    options = dataclasses.replace(RGB, max_damaged_share=0.5)
    batches = pipeline.evaluation_batches(open_folder(mixed), SPLIT, options, windows=1)
    assert np.concatenate([batch["mask"] for batch in batches]).tolist() == [False] * 2 + [True] * 5 + [False]
    assert all("its label '' is none of the dataset's 3" in damaged for damaged in batches.damaged)
    (tmp_path / "labels.txt").write_text("left\nright\n")
    dataset = open_folder(folder, labels=str(tmp_path / "labels.txt"))
    with pytest.raises(UserError, match=r"its label 'up' is none of the dataset's 2"):
        list(pipeline.evaluation_batches(dataset, SPLIT, RGB, windows=1))


def test_names_behind_large_contexts_are_found(tmp_path):
    def record(video, frames):
        example = mediapipe(video, frames)
        example.context.feature["aa"].bytes_list.value[:] = [b"x" * 50_000]
        return example

    assert open_folder(write_records(tmp_path, LENGTHS, record)).labels == LABELS


@pytest.mark.parametrize("text", ["left\n\nright\n", "left\nright\nleft\n"])
def test_labels_that_are_no_list_of_names(tmp_path, folder, text):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(UserError, match=r"labels.txt: line [23] (is empty|repeats line 1, 'left'), expected"):
        open_folder(folder, labels=str(tmp_path / "labels.txt"))


def test_folders_that_are_not_such(tmp_path, folder, ours):
    with pytest.raises(UserError, match="a folder of TFRecord shards was expected at nowhere"):
        open_folder("nowhere")
    with pytest.raises(UserError, match=r"data\.source=prepared"):
        open_folder(ours.directory)
    with pytest.raises(UserError, match="has no shards: files were expected with names such as train-00000-of-00010"):
        open_folder(tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / f"{SPLIT}-00001-of-00002").unlink()
    with pytest.raises(UserError, match=rf"lacks 1 of its 2 shards, the first {SPLIT}-00001-of-00002"):
        open_folder(tmp_path / "copy")
    write_records(tmp_path / "copy", LENGTHS, mediapipe, shards=3)
    with pytest.raises(UserError, match=rf"holds the split '{SPLIT}' twice, as .*-of-00002 and .*-of-00003"):
        open_folder(tmp_path / "copy")


def test_a_split_is_called_by_its_whole_name(folder):
    with pytest.raises(UserError, match=rf"has no split 'train'; it has {SPLIT}"):
        pipeline.training_batches(open_folder(folder), "train", RGB, flip=True, seed=0)


def test_records_of_another_kind(tmp_path):
    def metadata(video, frames):
        example = mediapipe(video, frames)
        example.feature_lists.Clear()
        return example

    with pytest.raises(UserError, match=r"none of the first 7 records .* record 0: it has no frames \(image/encoded\)"):
        open_folder(write_records(tmp_path / "metadata", LENGTHS, metadata))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "train-00000-of-00001").touch()
    with pytest.raises(UserError, match="hold no records"):
        open_folder(tmp_path / "empty")


def test_a_first_record_that_is_damaged_is_passed_over(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / f"{SPLIT}-00000-of-00002"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    assert open_folder(tmp_path / "copy").preprocessing.short_side == 18


def test_what_the_user_states_may_not_contradict_the_records(folder):
    with pytest.raises(UserError, match=r"data.stated.frame_rate is 10.0, but .*record 0 says 25.0"):
        open_folder(folder, frame_rate=10.0)
    with pytest.raises(UserError, match=r"JPEG quality must be 1 to 100, found 0"):
        open_folder(folder, jpeg_quality=0)


def test_flow_asked_of_records_without_it(tmp_path):
    dataset = open_folder(write_records(tmp_path, LENGTHS, dmvr))
    with pytest.raises(UserError, match=r"the stream 'flow' was asked of .*, whose records hold none"):
        pipeline.training_batches(dataset, SPLIT, FLOW, flip=True, seed=0)
