import dataclasses
import gc
import itertools
import shutil
import subprocess
import sys
import threading
import weakref

import cv2
import numpy as np
import pytest
import tensorflow as tf
from helpers.small_dataset import HEIGHT, WIDTH, jpegs, pixels, stored_video, write_dataset

from i3d_jax.clips import Sampling
from i3d_jax.data import pipeline
from i3d_jax.data.batches import Batches, Decoding
from i3d_jax.data.pipeline import BatchOptions
from i3d_jax.records import example, image, shards
from i3d_jax.system.errors import UserError

LENGTHS = [6, 9, 4, 7, 3, 12, 5]  # frames of video0, video1, …
OPTIONS = BatchOptions(batch_size=3, sampling=Sampling(frames=4), streams=("rgb",), crop=16, max_damaged_share=0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", LENGTHS)


@pytest.fixture
def own_dataset(dataset, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(dataset.directory, tmp_path / "dataset")
    return dataclasses.replace(dataset, directory=tmp_path / "dataset")


def training(dataset, batches, options=OPTIONS, flip=True, seed=0, **rest):
    iterator = pipeline.training_batches(dataset, "train", options, flip=flip, seed=seed, **rest)
    return list(itertools.islice(iterator, batches))


def evaluation(dataset, options=OPTIONS, windows=1):
    return list(pipeline.evaluation_batches(dataset, "train", options, windows=windows))


def joined(batches):
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], strict=True)


def find_clip(clip, video):
    """Returns the (start, top, left, mirrored) at which a clip of 4 frames of 16 pixels was cut from a video."""
    length = LENGTHS[video]
    looped = np.concatenate([pixels(video, length)] * 2)
    found = [
        (start, top, left, mirrored)
        for start in range(max(length - 4, 0) + 1)
        for top in range(HEIGHT - 16 + 1)
        for left in range(WIDTH - 16 + 1)
        for mirrored in (False, True)
        if np.array_equal(
            clip, looped[start : start + 4, top : top + 16, left : left + 16][:, :, :: -1 if mirrored else 1]
        )
    ]
    assert len(found) == 1, f"a clip of video{video} was found in {len(found)} places"
    return found[0]


def test_a_training_batch(dataset):
    (batch,) = training(dataset, 1)
    assert {key: (value.dtype.kind, value.shape) for key, value in batch.items()} == {
        "rgb": ("u", (3, 4, 16, 16, 3)),
        "label": ("i", (3,)),
        "mask": ("b", (3,)),
        "video": ("U", (3,)),
    }
    assert batch["rgb"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert batch["mask"].all()


def test_clips_are_cut_from_the_stored_frames_and_every_cut_occurs(dataset):
    clips = joined(training(dataset, 140))
    cuts = {video: [] for video in range(7)}
    for rgb, label, name in zip(clips["rgb"], clips["label"], clips["video"], strict=True):
        video = int(name.removeprefix("video"))
        assert label == video % 3
        cuts[video].append(find_clip(rgb, video))
    for video, length in enumerate(LENGTHS):
        starts, tops, lefts, mirrored = map(set, zip(*cuts[video], strict=True))
        assert starts == set(range(max(length - 4, 0) + 1))
        assert tops == {0, 1, 2}
        assert lefts == {0, 1, 2, 3, 4, 5}
        assert mirrored == {False, True}
    share = np.mean([mirrored for cut in cuts.values() for *_, mirrored in cut])
    assert 0.4 < share < 0.6


def test_the_graph_that_decodes_is_built_once_in_a_process(dataset, monkeypatch):
    """However many runs decode alike; a study makes three pipelines in each of dozens."""
    built, decode = [], image.decode
    monkeypatch.setattr(image, "decode", lambda encoded: built.append(encoded) or decode(encoded))
    options = dataclasses.replace(OPTIONS, crop=13)
    first = training(dataset, 1, options)
    assert len(built) == 2, "one for mirrored images, one for the others"
    assert_same(training(dataset, 1, options), first)
    assert joined(training(dataset, 1, options, seed=1))["rgb"].shape == first[0]["rgb"].shape
    assert len(built) == 2
    training(dataset, 1, dataclasses.replace(OPTIONS, crop=14))
    assert len(built) == 4


def test_no_clip_is_mirrored_when_the_flip_is_off(dataset):
    clips = joined(training(dataset, 14, flip=False))
    for rgb, name in zip(clips["rgb"], clips["video"], strict=True):
        assert not find_clip(rgb, int(name.removeprefix("video")))[3]


def test_the_flip_changes_nothing_else(dataset):
    flipped, plain = joined(training(dataset, 7)), joined(training(dataset, 7, flip=False))
    for rgb, other in zip(flipped["rgb"], plain["rgb"], strict=True):
        assert np.array_equal(rgb, other) or np.array_equal(rgb[:, :, ::-1], other)


def test_every_video_once_an_epoch_and_each_epoch_in_another_order(dataset):
    names = joined(training(dataset, 21))["video"].reshape(9, 7)
    for epoch in names:
        assert sorted(epoch) == [f"video{video}" for video in range(7)]
    assert len({tuple(epoch) for epoch in names}) > 5


def test_batches_are_a_function_of_the_seed(dataset):
    first = training(dataset, 5, seed=7)
    assert_same(first, training(dataset, 5, seed=7))
    other = training(dataset, 5, seed=8)
    assert not np.array_equal(joined(first)["video"], joined(other)["video"])
    # The same video's clips differ too, not only their order.
    cuts = [
        {name: rgb.tobytes() for rgb, name in zip(clips["rgb"], clips["video"], strict=True)}
        for clips in (joined(first), joined(other))
    ]
    assert any(cuts[0][name] != cuts[1][name] for name in cuts[0])


@pytest.mark.parametrize("batches_before", [1, 2, 5])
def test_a_resumed_run_goes_on_with_the_same_batches(dataset, batches_before):
    uninterrupted = training(dataset, 8)
    resumed = training(dataset, 8 - batches_before, first_clip=3 * batches_before)
    assert_same(uninterrupted[batches_before:], resumed)


@pytest.mark.parametrize("hosts", [2, 3, 6])
@pytest.mark.parametrize("read", [lambda dataset, options: training(dataset, 4, options), evaluation])
def test_hosts_together_have_the_batches_of_one(dataset, hosts, read):
    alone = dataclasses.replace(OPTIONS, batch_size=6)
    shares = [read(dataset, dataclasses.replace(alone, host=host, hosts=hosts)) for host in range(hosts)]
    assert_same([joined(parts) for parts in zip(*shares, strict=True)], read(dataset, alone))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_evaluation_has_every_video_once_with_its_first_frames_and_the_centre(dataset, batch_size):
    batches = evaluation(dataset, dataclasses.replace(OPTIONS, batch_size=batch_size))
    assert {len(batch["mask"]) for batch in batches} == {batch_size}
    clips = joined(batches)
    assert clips["mask"].tolist() == [True] * 7 + [False] * (len(clips["mask"]) - 7)
    assert clips["rgb"].shape[1:] == (1, 4, 16, 16, 3)
    for video, length in enumerate(LENGTHS):
        assert clips["video"][video] == f"video{video}"
        assert clips["label"][video] == video % 3
        frames = pixels(video, length)[[0, 1, 2, 0 if length == 3 else 3]]
        np.testing.assert_array_equal(clips["rgb"][video, 0], frames[:, 1:17, 2:18])
    assert not clips["rgb"][7:].any()
    assert not clips["label"][7:].any()
    assert set(clips["video"][7:]) <= {""}


def test_evaluation_in_windows(dataset):
    clips = joined(evaluation(dataset, windows=3))
    assert clips["rgb"].shape == (9, 3, 4, 16, 16, 3)
    for video, frames in ((0, [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]), (4, [[0, 1, 2, 0]] * 3)):
        expected = pixels(video, LENGTHS[video])[np.array(frames)][:, :, 1:17, 2:18]
        np.testing.assert_array_equal(clips["rgb"][video], expected)


def test_short_videos_are_looped(dataset):
    options = dataclasses.replace(OPTIONS, sampling=Sampling(frames=8), batch_size=7)
    clips = joined(training(dataset, 1, options, flip=False))
    (row,) = np.flatnonzero(clips["video"] == "video4")
    for start in (0, 3):
        np.testing.assert_array_equal(clips["rgb"][row, start : start + 3], clips["rgb"][row, :3])
    np.testing.assert_array_equal(clips["rgb"][row, 6:], clips["rgb"][row, :2])


def test_frames_apart(dataset):
    options = dataclasses.replace(OPTIONS, sampling=Sampling(frames=3, stride=2), batch_size=7)
    clips = joined(evaluation(dataset, options))
    # Too short for frames 0, 2 and 4, a video of three is looped: each of its frames once, but not in their order.
    for video, frames in ((0, [0, 2, 4]), (4, [0, 2, 1])):
        np.testing.assert_array_equal(clips["rgb"][video, 0], pixels(video, LENGTHS[video])[frames, 1:17, 2:18])


def test_a_foreign_dataset_without_an_index_reads_the_same(dataset, own_dataset):
    shutil.rmtree(own_dataset.directory / "index")
    for shard in range(2):
        path = str(own_dataset.shard_paths("train")[shard])
        contents = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
        with tf.io.TFRecordWriter(path) as writer:
            for content in contents:
                writer.write(content)
    assert_same(training(own_dataset, 5), training(dataset, 5))
    assert_same(evaluation(own_dataset), evaluation(dataset))


def flip_bit(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)


def cut_short(path, length):
    path.write_bytes(path.read_bytes()[:length])


def replace_frames(dataset, video, frames):
    """Gives a video other frames and writes the dataset's only shard anew."""
    videos = [stored_video(number, length) for number, length in enumerate(LENGTHS)]
    videos[video] = dataclasses.replace(videos[video], frames=frames)
    with shards.ShardWriter(dataset.shard_paths("train")[0]) as writer:
        for stored in videos:
            writer.write(example.encode(stored))
    shutil.rmtree(dataset.directory / "index")


def flip_bit_of(dataset, image):
    path = dataset.shard_paths("train")[0]
    flip_bit(path, path.read_bytes().index(image) + 200)


def small_jpeg():
    return cv2.imencode(".jpg", np.zeros((15, WIDTH, 3), np.uint8))[1].tobytes()


DAMAGES = {
    "bit": lambda dataset: flip_bit_of(dataset, jpegs(2, 4)[3]),
    "bit, no index": lambda dataset: (
        shutil.rmtree(dataset.directory / "index"),
        flip_bit(dataset.shard_paths("train")[0], 5000),
    ),
    "truncated": lambda dataset: cut_short(dataset.shard_paths("train")[0], -10),
    "undecodable": lambda dataset: replace_frames(dataset, 2, tuple(jpeg[:300] for jpeg in jpegs(2, 4))),
    "later frame undecodable": lambda dataset: replace_frames(dataset, 2, (*jpegs(2, 4)[:2], *([b"\xff\xd8"] * 2))),
    "later frame smaller": lambda dataset: replace_frames(dataset, 2, (*jpegs(2, 4)[:2], *([small_jpeg()] * 2))),
    "frames smaller than the crop": lambda dataset: replace_frames(dataset, 2, (small_jpeg(),) * 4),
}


@pytest.fixture(params=DAMAGES)
def damaged_dataset(tmp_path, request):
    """A dataset of one shard with one damaged record."""
    dataset = write_dataset(tmp_path / "damaged", LENGTHS, shards=1)
    DAMAGES[request.param](dataset)
    return dataset


TOLERANT = dataclasses.replace(OPTIONS, max_damaged_share=0.2)


def test_training_replaces_a_damaged_record_and_counts_it(damaged_dataset, dataset):
    iterator = pipeline.training_batches(damaged_dataset, "train", TOLERANT, flip=True, seed=0)
    batches = list(itertools.islice(iterator, 14))
    assert len(iterator.damaged) == 1
    assert iterator.damaged[0].startswith("train-00000-of-00001.tfrecord, record ")
    assert all(batch["mask"].all() for batch in batches)
    names, whole = joined(batches)["video"], joined(training(dataset, 14))["video"]
    (bad,) = set(whole) - set(names)
    for epoch, expected in zip(names.reshape(6, 7), whole.reshape(6, 7), strict=True):
        order = list(expected)
        following = order[(order.index(bad) + 1) % 7]
        assert list(epoch) == [following if name == bad else name for name in order]


def test_runs_on_damaged_records_resume_and_are_shared_alike(damaged_dataset):
    options = dataclasses.replace(TOLERANT, batch_size=4)
    uninterrupted = training(damaged_dataset, 7, options)
    assert_same(uninterrupted[3:], training(damaged_dataset, 4, options, first_clip=12))
    shares = [training(damaged_dataset, 7, dataclasses.replace(options, host=host, hosts=2)) for host in range(2)]
    assert_same([joined(parts) for parts in zip(*shares, strict=True)], uninterrupted)


def test_a_damaged_frame_spoils_only_the_clips_that_need_it(dataset, tmp_path):
    # And so on a resumed run, or on a host, that has not met the frame before.
    damaged = write_dataset(tmp_path / "damaged", LENGTHS, shards=1)
    whole = jpegs(5, 12)
    replace_frames(damaged, 5, (*whole[:8], whole[8][:300], *whole[9:]))
    options = dataclasses.replace(TOLERANT, batch_size=2)
    batches = training(damaged, 49, options)
    used = served = 0
    expected, found = joined(training(dataset, 49, options)), joined(batches)
    for row in np.flatnonzero(expected["video"] == "video5"):
        start, *_ = find_clip(expected["rgb"][row], 5)
        used += start <= 8 <= start + 3
        served += found["video"][row] == "video5"
    assert used > 0
    assert served == 14 - used
    for first in (1, 10, 20, 30):
        assert_same(training(damaged, 49 - first, options, first_clip=2 * first), batches[first:])
    shares = [training(damaged, 49, dataclasses.replace(options, host=host, hosts=2)) for host in range(2)]
    assert_same([joined(parts) for parts in zip(*shares, strict=True)], batches)


def test_evaluation_masks_a_damaged_record_and_counts_it(damaged_dataset, dataset):
    iterator = pipeline.evaluation_batches(damaged_dataset, "train", TOLERANT, windows=1)
    found, whole = joined(list(iterator)), joined(evaluation(dataset))
    assert len(iterator.damaged) == 1
    (bad,) = np.flatnonzero(found["mask"] != whole["mask"])
    for key, value in whole.items():
        value = value.copy()
        value[bad] = "" if key == "video" else 0
        np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize("read", [training, lambda dataset, _, options: evaluation(dataset, options)])
def test_too_many_damaged_records_end_the_run(damaged_dataset, read):
    with pytest.raises(
        UserError,
        match=r"1 of the 7 records of split 'train' are damaged, 14.3% where 10.0% are allowed; "
        r"(the last one is train-00000-of-00001.tfrecord, record \d: |train-00000-of-00001.tfrecord lacks 1 of 7 )",
    ):
        read(damaged_dataset, 14, dataclasses.replace(TOLERANT, max_damaged_share=0.1))


def test_nothing_but_damaged_records(own_dataset):
    for shard in range(2):
        cut_short(own_dataset.shard_paths("train")[shard], 5)
    options = dataclasses.replace(OPTIONS, max_damaged_share=1.0)
    with pytest.raises(UserError, match="all 7 records are damaged"):
        training(own_dataset, 1, options)
    assert not joined(evaluation(own_dataset, options))["mask"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, found 0"),
        ({"streams": ()}, "the streams must be one or both of rgb, flow, found none"),
        ({"streams": ("rgb", "depth")}, "the streams must be one or both of rgb, flow, found rgb, depth"),
        ({"crop": -1}, "crop must be 1 or more, found -1"),
        ({"hosts": 0}, "hosts must be 1 or more, found 0"),
        ({"max_damaged_share": 1.1}, r"max_damaged_share must be 0 to 1, found 1\.1"),
        ({"hosts": 2}, "a batch of 3 clips cannot be shared equally by 2 hosts"),
        ({"hosts": 3, "host": 3}, "the host must be 0 to 2, found 3"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(OPTIONS, **options)


def test_arguments_out_of_range(dataset):
    with pytest.raises(UserError, match="seed must be 0 or more, found -1"):
        training(dataset, 1, seed=-1)
    with pytest.raises(UserError, match="first_clip must be 0 or more, found -3"):
        training(dataset, 1, first_clip=-3)
    with pytest.raises(UserError, match="windows must be 1 or more, found 0"):
        evaluation(dataset, windows=0)
    with pytest.raises(UserError, match="no split 'valid'; it has train"):
        pipeline.evaluation_batches(dataset, "valid", OPTIONS, windows=1)


def test_a_crop_larger_than_the_frames(dataset):
    large = dataclasses.replace(OPTIONS, crop=HEIGHT + 1)
    for read in (lambda: training(dataset, 1, large), lambda: evaluation(dataset, large)):
        with pytest.raises(
            UserError, match=r"a crop of 19 pixels was asked of .*, whose frames have a short side of 18"
        ):
            read()


def test_a_program_that_fails_in_the_middle_of_an_epoch_ends(dataset):
    # The exception keeps the iterator alive until Python's very end, when tf.data's threads are still making batches.
    script = """
import sys
from i3d_jax import clips
from i3d_jax.data import dataset, pipeline
sampling = clips.Sampling(frames=64)
options = pipeline.BatchOptions(batch_size=300, sampling=sampling, streams=("rgb",), crop=16, max_damaged_share=0)
batches = pipeline.training_batches(dataset.open_dataset(sys.argv[1]), "train", options, flip=True, seed=0)
next(batches)
raise KeyError("the end")
"""
    ran = subprocess.run([sys.executable, "-c", script, dataset.directory], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert "KeyError: 'the end'" in ran.stderr


def test_batches_that_a_thread_of_theirs_finds_unreachable_end(dataset):
    """Garbage is collected in any thread, even one that reads a clip, which must not wait for itself."""
    whole = pipeline.training_batches(dataset, "train", OPTIONS, flip=False, seed=0)
    unreachable, ended = threading.Event(), threading.Event()
    one_at_a_time = threading.Lock()

    def clip(row):
        # The rows behind the first batch are made ahead, and are on their way when nobody wants them any more.
        if row >= OPTIONS.batch_size:
            unreachable.wait(60)
            with one_at_a_time:
                gc.collect()
            ended.set()
        return whole.encoded(row)

    gc.collect()
    gc.disable()
    try:
        batches = Batches(None, clip, {"rgb": (4,)}, Decoding(16, None, "nearest"), batch_rows=3, rows=None)
        next(batches)
        batches.itself, gone = batches, weakref.ref(batches)
        del batches
        assert gone() is not None
        unreachable.set()
        assert ended.wait(60)
        assert gone() is None
    finally:
        gc.enable()
