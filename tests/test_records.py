import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from i3d_jax.records import example, shards
from i3d_jax.records.shards import ShardIndex, ShardWriter

VIDEO = example.StoredVideo(
    name="wrestling_000010",
    data_path="arm wrestling/wrestling.mp4",
    label="arm wrestling",
    label_index=4,
    start_microseconds=10_000_000,
    end_microseconds=20_000_000,
    frame_rate=25.0,
    height=256,
    width=340,
    frames=(b"first", b"second"),
    timestamps=(0, 40_000),
)
INDEX = ShardIndex(
    fingerprint="abc", names=("a", "b"), frames=(3, 4), lengths=(100, 200), skipped=(("c", "it is empty: Ümlaut"),)
)


def test_records_hold_the_keys_of_media_sequence_and_dmvr():
    # The keys stand here as text: they are other programs' names, and a slip in a constant must not pass.
    context, lists = tf.io.parse_single_sequence_example(
        example.encode(VIDEO),
        context_features={
            "example/id": tf.io.FixedLenFeature([], tf.string),
            "clip/data_path": tf.io.FixedLenFeature([], tf.string),
            "clip/label/string": tf.io.VarLenFeature(tf.string),
            "clip/label/text": tf.io.VarLenFeature(tf.string),
            "clip/label/index": tf.io.VarLenFeature(tf.int64),
            "clip/start/timestamp": tf.io.FixedLenFeature([], tf.int64),
            "clip/end/timestamp": tf.io.FixedLenFeature([], tf.int64),
            "image/format": tf.io.FixedLenFeature([], tf.string),
            "image/channels": tf.io.FixedLenFeature([], tf.int64),
            "image/height": tf.io.FixedLenFeature([], tf.int64),
            "image/width": tf.io.FixedLenFeature([], tf.int64),
            "image/frame_rate": tf.io.FixedLenFeature([], tf.float32),
        },
        sequence_features={
            "image/encoded": tf.io.FixedLenSequenceFeature([], tf.string),
            "image/timestamp": tf.io.FixedLenSequenceFeature([], tf.int64),
        },
    )
    found = {key: tf.sparse.to_dense(value) if "label" in key else value for key, value in context.items()}
    assert {key: value.numpy() for key, value in found.items()} == {
        "example/id": b"wrestling_000010",
        "clip/data_path": b"arm wrestling/wrestling.mp4",
        "clip/label/string": [b"arm wrestling"],
        "clip/label/text": [b"arm wrestling"],
        "clip/label/index": [4],
        "clip/start/timestamp": 10_000_000,
        "clip/end/timestamp": 20_000_000,
        "image/format": b"JPEG",
        "image/channels": 3,
        "image/height": 256,
        "image/width": 340,
        "image/frame_rate": 25.0,
    }
    assert lists["image/encoded"].numpy().tolist() == [b"first", b"second"]
    assert lists["image/timestamp"].numpy().tolist() == [0, 40_000]


def test_flow_has_the_keys_of_media_sequence():
    flow = dataclasses.replace(VIDEO, flow=(b"field",))
    context, lists = tf.io.parse_single_sequence_example(
        example.encode(flow),
        context_features={
            "image/format": tf.io.FixedLenFeature([], tf.string),
            "FORWARD_FLOW/image/format": tf.io.FixedLenFeature([], tf.string),
            "FORWARD_FLOW/image/channels": tf.io.FixedLenFeature([], tf.int64),
            "FORWARD_FLOW/image/height": tf.io.FixedLenFeature([], tf.int64),
            "FORWARD_FLOW/image/width": tf.io.FixedLenFeature([], tf.int64),
            "FORWARD_FLOW/image/saturation": tf.io.FixedLenFeature([], tf.float32),
        },
        sequence_features={
            "image/encoded": tf.io.FixedLenSequenceFeature([], tf.string),
            "FORWARD_FLOW/image/encoded": tf.io.FixedLenSequenceFeature([], tf.string),
            "FORWARD_FLOW/image/timestamp": tf.io.FixedLenSequenceFeature([], tf.int64),
        },
    )
    assert {key: value.numpy() for key, value in context.items()} == {
        "image/format": b"JPEG",
        "FORWARD_FLOW/image/format": b"PNG",
        "FORWARD_FLOW/image/channels": 3,
        "FORWARD_FLOW/image/height": 256,
        "FORWARD_FLOW/image/width": 340,
        "FORWARD_FLOW/image/saturation": 20.0,
    }
    assert {key: value.numpy().tolist() for key, value in lists.items()} == {
        "image/encoded": [b"first", b"second"],
        "FORWARD_FLOW/image/encoded": [b"field"],
        "FORWARD_FLOW/image/timestamp": [0],
    }


def test_a_record_without_flow_says_nothing_of_it():
    assert b"FLOW" not in example.encode(VIDEO)


def test_the_same_video_gives_the_same_bytes_in_another_process():
    script = (
        "import hashlib, pickle, sys; from i3d_jax.records import example; "
        "print(hashlib.sha256(example.encode(pickle.load(sys.stdin.buffer))).hexdigest())"
    )
    ran = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(VIDEO), capture_output=True, check=True)
    assert ran.stdout.decode().strip() == hashlib.sha256(example.encode(VIDEO)).hexdigest()


def test_tensorflow_reads_our_shards(tmp_path):
    path = tmp_path / "train-00000-of-00001.tfrecord"
    contents = [b"", b"a", b"b" * 100_000]
    with ShardWriter(path) as writer:
        for content in contents:
            writer.write(content)
    assert writer.lengths == [0, 1, 100_000]
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == contents


def test_our_framing_is_tensorflows(tmp_path):
    path = tmp_path / "file"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"payload")
    assert path.read_bytes() == shards.header(7) + b"payload" + shards.footer(b"payload")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_shard_is_written_whole_or_not_at_all(tmp_path, error):
    path = tmp_path / "train-00000-of-00001.tfrecord"

    def write_half():
        with ShardWriter(path) as writer:
            writer.write(b"record")
            assert not path.exists()
            raise error

    with pytest.raises(error):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_names():
    assert shards.shard_name("train", 3, 1200) == "train-00003-of-01200.tfrecord"
    shard = Path("data/test-00000-of-00004.tfrecord")
    assert shards.index_path(shard) == Path("data/index/test-00000-of-00004.json")


def test_an_index_comes_back_as_it_was(tmp_path):
    path = tmp_path / "index" / "train.json"
    INDEX.write(path)
    assert ShardIndex.read(path) == INDEX
    empty = ShardIndex(fingerprint="", names=(), frames=(), lengths=(), skipped=())
    empty.write(path)
    assert ShardIndex.read(path) == empty
    assert "notes" not in json.loads(path.read_bytes())
    noted = dataclasses.replace(INDEX, notes=(("a", "it is HDR"),))
    noted.write(path)
    assert ShardIndex.read(path) == noted


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        json.dumps(dataclasses.asdict(INDEX) | {"lengths": [100]}),
        json.dumps(dataclasses.asdict(INDEX) | {"lengths": [100, -1]}),
        json.dumps(dataclasses.asdict(INDEX) | {"frames": None}),
        json.dumps(dataclasses.asdict(INDEX) | {"skipped": [["name"]]}),
        json.dumps(dataclasses.asdict(INDEX) | {"notes": [["name"]]}),
    ],
)
def test_an_unreadable_index_is_none(tmp_path, content):
    path = tmp_path / "train.json"
    assert ShardIndex.read(path) is None
    path.write_text(content)
    assert ShardIndex.read(path) is None


def test_importing_needs_no_tensorflow():
    script = "import sys; sys.modules['tensorflow'] = None; import i3d_jax.records.shards, i3d_jax.data.dataset"
    subprocess.run([sys.executable, "-c", script], check=True)
