"""A set of TensorFlow Datasets gives the batches of our own dataset of the same frames; nothing is downloaded."""

import dataclasses
import itertools
import shutil
import socket

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.foreign_sets import build, video_features
from helpers.small_dataset import LABELS, jpegs, pixels, write_dataset

from i3d_jax.clips import Sampling
from i3d_jax.data import pipeline
from i3d_jax.data.foreign import Stated
from i3d_jax.data.foreign_tfds import open_set
from i3d_jax.data.pipeline import BatchOptions
from i3d_jax.system.errors import UserError

LENGTHS = [6, 9, 4, 7, 3, 12, 5]
RGB = BatchOptions(batch_size=4, sampling=Sampling(frames=4), streams=("rgb",), crop=16, max_damaged_share=0.0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked for")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    build(folder, {"train": LENGTHS, "test": LENGTHS[:2]})
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("ours"), LENGTHS, shards=1)


def open_small(data_dir, name="small_videos", **stated):
    return open_set(name, data_dir, stated=Stated(**stated))


def training(dataset, batches=4, options=RGB, **rest):
    iterator = pipeline.training_batches(dataset, "train", options, flip=True, seed=3, **rest)
    return list(itertools.islice(iterator, batches))


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        for key in ("rgb", "label", "mask"):
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_the_batches_are_those_of_our_own_dataset(data_dir, ours):
    """Its frames are PNG of the pixels to which ours, of JPEG, decode."""
    dataset = open_small(data_dir)
    assert dataset.labels == LABELS
    assert (dataset.videos("train"), dataset.videos("test")) == (7, 2)
    found, expected = training(dataset), training(ours)
    assert_equal(found, expected)
    numbers = [name.removeprefix("video") for name in expected[0]["video"]]
    file = "small_videos-train.tfrecord-00000-of-00001"
    assert found[0]["video"].tolist() == [f"{file}, record {number}" for number in numbers]
    evaluated = pipeline.evaluation_batches(dataset, "train", RGB, windows=2)
    assert_equal(list(evaluated), list(pipeline.evaluation_batches(ours, "train", RGB, windows=2)))


def test_it_is_what_the_library_itself_reads(data_dir):
    batches = pipeline.evaluation_batches(open_small(data_dir), "test", RGB, windows=1)
    [batch] = list(batches)
    examples = list(tfds.as_numpy(tfds.builder_from_directory(data_dir / "small_videos/1.0.0").as_dataset("test")))
    assert batch["mask"].tolist() == [True, True, False, False]
    for row, example in enumerate(examples):
        np.testing.assert_array_equal(batch["rgb"][row, 0], example["video"][:4, 1:17, 2:18])
        assert batch["label"][row] == example["label"]


def test_a_resumed_run_goes_on_and_hosts_share_a_batch(data_dir):
    dataset = open_small(data_dir)
    whole = training(dataset)
    assert_equal(training(dataset, 1, first_clip=12), whole[3:])
    hosts = [training(dataset, options=dataclasses.replace(RGB, host=host, hosts=2)) for host in (0, 1)]
    joined = [{key: np.concatenate([one[key], other[key]]) for key in one} for one, other in zip(*hosts, strict=True)]
    assert_equal(joined, whole)


def test_jpeg_frames_in_several_shards(tmp_path, ours):
    """A Sequence of Image, given files, keeps their bytes."""

    def features():
        return {**video_features(), "video": tfds.features.Sequence(tfds.features.Image(encoding_format="jpeg"))}

    def example(video, frames):
        paths = [tmp_path / f"{video}_{number}.jpg" for number in range(frames)]
        for path, jpeg in zip(paths, jpegs(video, frames), strict=True):
            path.write_bytes(jpeg)
        return {"video": list(map(str, paths)), "label": LABELS[video % 3]}

    build(tmp_path, {"train": LENGTHS}, shards=3, features=features, example=example)
    dataset = open_small(tmp_path)
    assert len(dataset.shard_paths("train")) == 3
    assert_equal(training(dataset), training(ours))


def test_what_is_unknown_of_its_frames(data_dir):
    unknown = "unknown (small_videos/1.0.0)"
    fields = {"frame_rate": unknown, "short_side": 18, "interpolation": unknown, "jpeg_quality": unknown}
    assert open_small(data_dir).preprocessing.to_json() == fields
    assert open_small(data_dir, frame_rate=30.0).preprocessing.frame_rate == 30.0


def test_versions_and_configurations(tmp_path):
    for version in ("1.9.0", "1.10.0"):
        build(tmp_path, {"train": [3]}, version=version)
    assert open_small(tmp_path).name == "small_videos/1.10.0"
    assert open_small(tmp_path, "small_videos:1.9.0").name == "small_videos/1.9.0"
    with pytest.raises(UserError, match=r"holds 1\.10\.0, 1\.9\.0, but no 'small_videos:2\.0\.0'"):
        open_small(tmp_path, "small_videos:2.0.0")

    for configuration in ("one", "two"):
        build(tmp_path, {"train": [3]}, name="configured", configuration=configuration)
    assert open_small(tmp_path, "configured/two").name == "configured/two/1.0.0"
    with pytest.raises(UserError, match=r"of configured, .* holds one:1\.0\.0, two:1\.0\.0: which one"):
        open_small(tmp_path, "configured")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("small_vidoes", "holds no set 'small_vidoes', .* .did you mean 'small_videos'?"),
        ("ucf11", "did you mean 'ucf101'?"),
        ("ucf101/ucf101_1", r"ucf101 has not been built in .*: `tfds build ucf101/ucf101_1 --data_dir=.*` does both"),
        ("small videos", r"SET\[/CONFIGURATION\]\[:VERSION\], found 'small videos'"),
    ],
)
def test_names_of_nothing(data_dir, name, message):
    with pytest.raises(UserError, match=message):
        open_small(data_dir, name)


def test_a_folder_that_is_not_there():
    with pytest.raises(UserError, match="data_dir was expected at nowhere"):
        open_small("nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": None}, r"features video .* and label .*, found label \(ClassLabel\)"),
        ({"label": None}, r"found video \(Video\)"),
        ({"label": tfds.features.Text()}, r"label \(Text\)"),
        ({"video": tfds.features.Image()}, r"video \(Image\)"),
        (
            {"video": tfds.features.Sequence({"frame": tfds.features.Image()})},
            "to be of Image, found one of FeaturesDict",
        ),
        ({"video": tfds.features.Video(shape=(None, None, None, 1), dtype=np.uint16)}, "to be uint8, found uint16"),
    ],
)
def test_sets_of_another_kind(tmp_path, changes, message):
    def example(video, frames):
        frames = pixels(video, frames)
        given = {"video": frames, "label": "left"}
        if isinstance(changes.get("video"), tfds.features.Image):
            given["video"] = frames[0]
        elif "FeaturesDict" in message:
            given["video"] = {"frame": frames}
        elif "uint16" in message:
            given["video"] = frames[..., :1].astype(np.uint16)
        return {key: value for key, value in given.items() if changes.get(key, "") is not None}

    def features():
        return {key: feature for key, feature in {**video_features(), **changes}.items() if feature is not None}

    build(tmp_path, {"train": [2]}, features=features, example=example)
    with pytest.raises(UserError, match=message):
        open_small(tmp_path)


def test_a_missing_shard_and_another_file_format(tmp_path, data_dir):
    shutil.copytree(data_dir, tmp_path / "copy")
    folder = tmp_path / "copy" / "small_videos" / "1.0.0"
    (folder / "small_videos-test.tfrecord-00000-of-00001").unlink()
    with pytest.raises(
        UserError, match=r"lacks 1 of its 2 shards, the first small_videos-test\.tfrecord-00000-of-00001"
    ):
        open_small(tmp_path / "copy")
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', '"riegeli"'))
    with pytest.raises(UserError, match=r"is stored as riegeli, .* --file_format=tfrecord"):
        open_small(tmp_path / "copy")
    info.write_text("{")
    with pytest.raises(UserError, match=r"TensorFlow Datasets cannot read .*small_videos/1\.0\.0: "):
        open_small(tmp_path / "copy")


def test_there_is_no_flow(data_dir):
    options = dataclasses.replace(RGB, streams=("rgb", "flow"))
    with pytest.raises(UserError, match=r"the stream 'flow' was asked of .*1\.0\.0, whose records hold none"):
        pipeline.training_batches(open_small(data_dir), "train", options, flip=True, seed=0)
