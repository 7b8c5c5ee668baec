import dataclasses
import re
import shutil

import cv2
import numpy as np
import pytest
import tensorflow as tf
from helpers.small_dataset import HEIGHT, WIDTH, jpegs, stored_video, write_dataset

from i3d_jax.data import reader
from i3d_jax.data.reader import DamagedRecord
from i3d_jax.records import example
from i3d_jax.system.errors import UserError

SHARD = "train-00000-of-00001.tfrecord"
LENGTHS = [3, 1, 2]


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "dataset", LENGTHS, shards=1)


def flip_bit(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)


def test_records_come_in_the_order_of_the_shards(tmp_path):
    dataset = write_dataset(tmp_path, [1, 2, 3, 4, 5], shards=3)
    places = dataset.records("train")
    assert [(place.path.name[6:11], place.number) for place in places] == [
        ("00000", 0),
        ("00000", 1),
        ("00001", 0),
        ("00001", 1),
        ("00002", 0),
    ]
    assert [reader.read_record(place) for place in places] == [
        example.encode(stored_video(video, length)) for video, length in enumerate([1, 2, 3, 4, 5])
    ]


def test_records_are_found_without_an_index(dataset):
    with_index = dataset.records("train")
    shutil.rmtree(dataset.directory / "index")
    assert dataset.records("train") == with_index


def test_what_tensorflow_wrote_is_read(tmp_path):
    dataset = write_dataset(tmp_path, LENGTHS, shards=1)
    shutil.rmtree(tmp_path / "index")
    with tf.io.TFRecordWriter(str(tmp_path / SHARD)) as writer:
        for content in (b"one", b"", b"three" * 1000):
            writer.write(content)
    contents = [reader.read_record(place) for place in dataset.records("train")]
    assert contents == [b"one", b"", b"three" * 1000]


def test_a_parsed_video(dataset):
    place = dataset.records("train")[0]
    video = reader.parse(reader.read_record(place), place, labels=3)
    assert (video.name, video.label, video.height, video.width) == ("video0", 0, HEIGHT, WIDTH)
    assert tuple(video.image("rgb", frame) for frame in range(3)) == jpegs(0, 3)


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(
    ("offset", "message"), [(12, "checksum"), (-5, "checksum"), (-1, "checksum"), (0, "header"), (8, "header")]
)
def test_a_flipped_bit_is_found_and_harms_no_other_record(dataset, indexed, offset, message):
    if not indexed:
        shutil.rmtree(dataset.directory / "index")
    places = dataset.records("train")
    middle = places[1]
    flip_bit(middle.path, offset + (middle.offset if offset >= 0 else places[2].offset))
    places = dataset.records("train")
    with pytest.raises(DamagedRecord, match=rf"{SHARD}, record 1: .*{message}"):
        reader.read_record(places[1])
    reader.read_record(places[0])
    if indexed:
        reader.read_record(places[2])
    elif message == "header":
        # Without an index nothing is known of what follows a damaged header, but that it is a video.
        with pytest.raises(DamagedRecord, match=rf"{SHARD}, record 2: cut short"):
            reader.read_record(places[2])


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("kept", [1, 12, 20, -1])
def test_a_shard_cut_short(dataset, indexed, kept):
    if not indexed:
        shutil.rmtree(dataset.directory / "index")
    places = dataset.records("train")
    content = places[0].path.read_bytes()
    places[0].path.write_bytes(content[: places[1].offset + kept] if kept > 0 else content[:-1])
    places = dataset.records("train")
    reader.read_record(places[0])
    damaged = 1 if kept > 0 else 2
    assert len(places) == 3
    for number, place in enumerate(places[damaged:], damaged):
        with pytest.raises(DamagedRecord, match=rf"{SHARD}, record {number}: cut short, \d+ of \d+ bytes"):
            reader.read_record(place)


def altered(context=(), lists=()):
    """A record of video0 without some keys, or with others' contents."""
    record = tf.train.SequenceExample.FromString(example.encode(stored_video(0, 2)))
    for key, feature in context:
        del record.context.feature[key]
        if feature is not None:
            record.context.feature[key].CopyFrom(feature)
    for key, values in lists:
        del record.feature_lists.feature_list[key]
        for value in values or ():
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
            record.feature_lists.feature_list[key].feature.append(feature)
    return record.SerializeToString()


def label(value):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value))


BMP = cv2.imencode(".bmp", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"not a record", "not a SequenceExample"),
        (altered(context=[("clip/label/index", None)]), r"clip/label/index was expected to be 0 to 2, found None"),
        (altered(context=[("clip/label/index", label([3]))]), r"expected to be 0 to 2, found 3"),
        (altered(context=[("clip/label/index", label([-1]))]), r"expected to be 0 to 2, found -1"),
        (altered(lists=[("image/encoded", None)]), "no frames"),
        (altered(lists=[("image/encoded", [[]])]), "frame 0 is no JPEG or PNG image"),
        (altered(lists=[("image/encoded", [[BMP]])]), "frame 0 is no JPEG or PNG image"),
    ],
)
def test_records_that_do_not_serve(dataset, record, message):
    place = dataset.records("train")[1]
    with pytest.raises(DamagedRecord, match=rf"{SHARD}, record 1: .*{message}"):
        reader.parse(record, place, labels=3)


SMALL = cv2.imencode(".jpg", np.zeros((9, 7, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([], "frame 1 is no JPEG or PNG image"),
        ([BMP], "frame 1 is no JPEG or PNG image"),
        ([SMALL], f"frame 1 is 7x9 pixels, the first {WIDTH}x{HEIGHT}"),
    ],
)
def test_a_later_frame_that_does_not_serve(dataset, second, message):
    place = dataset.records("train")[0]
    video = reader.parse(altered(lists=[("image/encoded", [[jpegs(0, 2)[0]], second])]), place, labels=3)
    assert video.image("rgb", 0) == jpegs(0, 2)[0]
    with pytest.raises(DamagedRecord, match=rf"{SHARD}, record 0: its {message}"):
        video.image("rgb", 1)


def test_an_excluded_frame_spoils_only_the_clips_that_need_it(dataset):
    split = reader.SplitReader(dataset, "train", max_damaged_share=0.5)
    first = split.places[0]
    split.exclude_images(first, [("rgb", 1)])
    split.exclude_images(first, [("rgb", 2)])
    for frame in (1, 2):
        assert split.read(first, lambda video, frame=frame: video.image("rgb", frame)) is None
    assert split.read(first, lambda video: video.image("rgb", 0)) == jpegs(0, 3)[0]
    assert split.read(split.places[2], lambda video: video.image("rgb", 1)) == jpegs(2, 2)[1]
    assert split.damaged == {first: f"{SHARD}, record 0: its frame 1 is no whole image"}


@pytest.mark.parametrize(
    ("missing", "expected"),
    [([], "video0"), (["example/id"], "folder/video0.mp4"), (["example/id", "clip/data_path"], f"{SHARD}, record 2")],
)
def test_names_of_other_programs_records(dataset, missing, expected):
    place = dataset.records("train")[2]
    assert reader.parse(altered(context=[(key, None) for key in missing]), place, labels=3).name == expected


def place_of(record, image):
    """Where an image begins, in bytes of the shard."""
    return record.path.read_bytes().index(image)


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (1, "the bytes do not match their checksum"),
        (
            2,
            r"its frame 0 does not match its checksum: \d+ bytes at byte \d+ of the CRC-32C \w{8} were expected",
        ),
    ],
)
def test_each_damaged_record_is_counted_and_told_once(tmp_path, caplog, version, told):
    dataset = write_dataset(tmp_path / "dataset", LENGTHS, shards=1, index_version=version)
    split = reader.SplitReader(dataset, "train", max_damaged_share=0.5)
    place = split.places[1]
    flip_bit(place.path, place_of(place, jpegs(1, 1)[0]) + 200)
    for _ in range(3):
        assert split.read(place, lambda video: video.image("rgb", 0)) is None
        assert split.read(split.places[2], lambda video: video.image("rgb", 0)) == jpegs(2, 2)[0]
    assert list(split.damaged) == [place]
    [record] = caplog.records
    assert re.match(rf"left out a damaged record: {SHARD}, record 1: {told}", record.getMessage())


@pytest.mark.parametrize("version", [1, 2])
def test_more_than_the_allowed_share_ends_the_reading(tmp_path, version):
    dataset = write_dataset(tmp_path / "dataset", LENGTHS, shards=1, index_version=version)
    split = reader.SplitReader(dataset, "train", max_damaged_share=1 / 3)
    for number, place in enumerate(split.places):
        flip_bit(place.path, place_of(place, jpegs(number, LENGTHS[number])[0]) + 200)
    assert split.read(split.places[0], lambda video: video.image("rgb", 0)) is None
    with pytest.raises(
        UserError,
        match=rf"2 of the 3 records of split 'train' are damaged, 66.7% where 33.3% are allowed; "
        rf"the last one is {SHARD}, record 2: (the bytes|its frame 0) do",
    ):
        split.read(split.places[2], lambda video: video.image("rgb", 0))


def test_an_unknown_and_an_empty_split(dataset):
    with pytest.raises(UserError, match="has no split 'valid'; it has train"):
        reader.SplitReader(dataset, "valid", max_damaged_share=0)
    empty = dataclasses.replace(dataset, splits={"test": dataclasses.replace(dataset.splits["train"], shards=0)})
    with pytest.raises(UserError, match=r"the split 'test' of .* is empty"):
        reader.SplitReader(empty, "test", max_damaged_share=0)
