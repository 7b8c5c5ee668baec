"""What is written by hand against what the protobuf library writes."""

import numpy as np
import pytest
import tensorflow as tf

from i3d_jax.records.sequence_example_writer import serialize

CONTEXT = {"b": b"\x00" * 300, "a": 3, "negative": -1, "largest": 2**63 - 1, "zero": 0, "ä": b"", "rate": 29.97}
LISTS = {
    "image/encoded": [b"first", b"x" * 20_000, b""],
    "image/timestamp": [0, 40_000, 2**40],
    "A": [],
    "Ω": [1.5, -0.0],
}


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


@pytest.mark.parametrize(("context", "lists"), [(CONTEXT, LISTS), (CONTEXT, {}), ({}, LISTS), ({}, {})])
def test_the_bytes_are_those_of_protobuf(context, lists):
    example = tf.train.SequenceExample(
        context=tf.train.Features(feature={key: feature(value) for key, value in context.items()}),
        feature_lists=tf.train.FeatureLists(
            feature_list={
                key: tf.train.FeatureList(feature=[feature(value) for value in values]) for key, values in lists.items()
            }
        ),
    )
    assert serialize(context, lists) == example.SerializeToString(deterministic=True)


def test_every_length_of_a_length():
    """Around the places where the length of a message, of what is in it, or of both takes another byte."""
    for length in [*range(100, 140), *range(16_360, 16_400)]:
        parsed = tf.train.SequenceExample.FromString(serialize({"key": bytes(length)}, {"list": [bytes(length)] * 2}))
        assert parsed.context.feature["key"].bytes_list.value[0] == bytes(length)
        assert [len(one.bytes_list.value[0]) for one in parsed.feature_lists.feature_list["list"].feature] == [
            length
        ] * 2


def test_numbers_come_back():
    numbers = np.random.default_rng(0).integers(-(2**62), 2**62, 200).tolist()
    parsed = tf.train.SequenceExample.FromString(serialize({}, {"list": numbers}))
    assert [one.int64_list.value[0] for one in parsed.feature_lists.feature_list["list"].feature] == numbers
