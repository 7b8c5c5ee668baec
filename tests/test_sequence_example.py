import pytest
import tensorflow as tf

from i3d_jax.records import sequence_example


def bytes_feature(*values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def integer_feature(*values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


CONTEXT = tf.train.Features(
    feature={
        "name": bytes_feature("Käse".encode(), b"second"),
        "index": integer_feature(300, 1),
        "negative": integer_feature(-2),
        "large": integer_feature((1 << 63) - 1),
        "no bytes": bytes_feature(),
        "no integers": integer_feature(),
        "nothing": tf.train.Feature(),
        "rate": tf.train.Feature(float_list=tf.train.FloatList(value=[25.0])),
    }
)
LISTS = tf.train.FeatureLists(
    feature_list={
        "frames": tf.train.FeatureList(feature=[bytes_feature(b"one"), bytes_feature(b"x" * 300), bytes_feature()]),
        "times": tf.train.FeatureList(feature=[integer_feature(time) for time in (5, -1, 1 << 40)]),
        "empty": tf.train.FeatureList(),
    }
)
RECORD = tf.train.SequenceExample(context=CONTEXT, feature_lists=LISTS).SerializeToString()


def test_finds_what_protobuf_wrote():
    context, lists = sequence_example.split(RECORD)
    assert set(context) == set(CONTEXT.feature)
    assert set(lists) == {"frames", "times", "empty"}
    assert sequence_example.bytes_value(RECORD, context["name"]) == "Käse".encode()
    frames = sequence_example.features(RECORD, lists["frames"])
    assert [sequence_example.bytes_value(RECORD, frame) for frame in frames] == [b"one", b"x" * 300, None]
    times = sequence_example.features(RECORD, lists["times"])
    assert [sequence_example.integer_value(RECORD, time) for time in times] == [5, -1, 1 << 40]
    assert sequence_example.features(RECORD, lists["empty"]) == []


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("index", 300),
        ("negative", -2),
        ("large", (1 << 63) - 1),
        ("no integers", None),
        ("nothing", None),
        ("name", None),
        ("rate", None),
    ],
)
def test_integers(key, expected):
    context, _ = sequence_example.split(RECORD)
    assert sequence_example.integer_value(RECORD, context[key]) == expected


@pytest.mark.parametrize("key", ["no bytes", "nothing", "index", "rate"])
def test_features_without_bytes(key):
    context, _ = sequence_example.split(RECORD)
    assert sequence_example.bytes_value(RECORD, context[key]) is None


def test_floats():
    context, _ = sequence_example.split(RECORD)
    assert sequence_example.float_value(RECORD, context["rate"]) == 25.0
    for key in ("nothing", "name", "index"):
        assert sequence_example.float_value(RECORD, context[key]) is None
    # By hand: a float_list (field 2) of 5 bytes with the value (field 1, wire type 5) 0.5, with a tag of its own.
    feature = b"\x12\x05\x0d\x00\x00\x00\x3f"
    assert tf.train.Feature.FromString(feature).float_list.value == [0.5]
    assert sequence_example.float_value(feature, (0, len(feature))) == 0.5


def test_an_example_is_a_context_alone():
    record = tf.train.Example(features=CONTEXT).SerializeToString()
    features, lists = sequence_example.split(record)
    assert (set(features), lists) == (set(CONTEXT.feature), {})
    values = sequence_example.bytes_values(record, features["name"])
    assert [record[slice(*value)] for value in values] == ["Käse".encode(), b"second"]
    for key in ("no bytes", "nothing", "index"):
        assert sequence_example.bytes_values(record, features[key]) == []


def test_a_context_is_read_from_the_beginning_alone():
    context, _ = sequence_example.split(RECORD)
    size = len(tf.train.SequenceExample(context=CONTEXT).SerializeToString())
    assert size < len(RECORD)
    assert sequence_example.leading_context(RECORD[:size]) == context
    assert sequence_example.leading_context(RECORD[: size - 1]) is None
    assert sequence_example.leading_context(RECORD[size:]) is None
    assert sequence_example.leading_context(b"") is None


def test_integers_that_are_not_packed():
    # By hand: an int64_list (field 3) of 5 bytes with the values (field 1) 7 and 300, each with a tag of its own.
    feature = b"\x1a\x05\x08\x07\x08\xac\x02"
    assert tf.train.Feature.FromString(feature) == integer_feature(7, 300)
    assert sequence_example.integer_value(feature, (0, len(feature))) == 7


def test_fields_in_another_order_and_split_contexts_are_read():
    parts = (
        tf.train.SequenceExample(feature_lists=LISTS),
        tf.train.SequenceExample(context=CONTEXT),
        tf.train.SequenceExample(context=tf.train.Features(feature={"more": bytes_feature(b"1")})),
    )
    record = b"".join(part.SerializeToString() for part in parts)
    context, lists = sequence_example.split(record)
    assert set(context) == {*CONTEXT.feature, "more"}
    assert set(lists) == {"frames", "times", "empty"}


@pytest.mark.parametrize(
    "record", [b"no message at all", b"\xff" * 20, b"\x0a\x05abc", b"\x12\x02\x0a\x00", RECORD[:-3], RECORD[3:]]
)
def test_other_bytes_are_refused(record):
    with pytest.raises(ValueError, match=r"expected|leaves|without an end"):
        sequence_example.split(record)
