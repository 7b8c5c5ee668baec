import json

import pytest

from i3d_jax.data.dataset import Split, open_dataset, write_description
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.system.errors import UserError

TRAIN = Split(videos=3, frames=90, shards=2, skipped=1)
TEST = Split(videos=0, frames=0, shards=0, skipped=0)


@pytest.fixture
def directory(tmp_path):
    for shard in ("train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"):
        (tmp_path / shard).touch()
    write_description(
        tmp_path,
        name="kinetics",
        labels=["abseiling", "überholen"],
        splits={"train": TRAIN, "test": TEST},
        preprocessing=Preprocessing(jpeg_quality=90),
    )
    return tmp_path


def change(directory, **fields):
    path = directory / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_dataset_comes_back_as_it_was_described(directory):
    dataset = open_dataset(directory)
    assert dataset.directory == directory
    assert dataset.name == "kinetics"
    assert dataset.labels == ("abseiling", "überholen")
    assert dataset.splits == {"train": TRAIN, "test": TEST}
    assert dataset.preprocessing == Preprocessing(jpeg_quality=90)
    assert dataset.shard_paths("train")[1] == directory / "train-00001-of-00002.tfrecord"


def test_combined_splits_are_their_parts_one_after_the_other(directory):
    change(directory, combined={"all": ["train", "test"], "train01": ["train"]})
    dataset = open_dataset(directory)
    assert dataset.split_names == ("all", "train01", "train", "test")
    assert dataset.shard_paths("all") == [*dataset.shard_paths("train"), *dataset.shard_paths("test")]
    assert (dataset.videos("all"), dataset.videos("train01")) == (3, 3)
    with pytest.raises(UserError, match=r"has no split 'val'; it has all, train01, train, test"):
        dataset.parts("val")


@pytest.mark.parametrize("combined", [["train"], {"all": []}, {"all": "train"}, {"all": ["train", "valid"]}])
def test_combined_splits_of_nothing(directory, combined):
    change(directory, combined=combined)
    with pytest.raises(UserError, match=r"'combined'.* was expected to"):
        open_dataset(directory)


def test_the_file_is_the_contract(directory):
    assert json.loads((directory / "dataset.json").read_text()) == {
        "format_version": 1,
        "name": "kinetics",
        "labels": ["abseiling", "überholen"],
        "splits": {
            "train": {"videos": 3, "frames": 90, "shards": 2, "skipped": 1},
            "test": {"videos": 0, "frames": 0, "shards": 0, "skipped": 0},
        },
        "preprocessing": {"frame_rate": 25.0, "short_side": 256, "interpolation": "bilinear", "jpeg_quality": 90},
    }


def test_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"a dataset folder was expected at .*nowhere, found nothing"):
        open_dataset(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder(directory):
    with pytest.raises(UserError, match=r"expected at .*dataset\.json, found a file"):
        open_dataset(directory / "dataset.json")


def test_a_folder_that_is_no_dataset(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "unfinished.json").touch()
    with pytest.raises(UserError, match="begun is a dataset that is not finished: start the same `prepare`"):
        open_dataset(tmp_path / "begun")
    with pytest.raises(UserError, match=r"is not a dataset folder: it has no dataset\.json"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00"])
def test_a_description_that_is_not_json(directory, content):
    (directory / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.json cannot be read as JSON"):
        open_dataset(directory)


def test_a_description_that_is_no_object(directory):
    (directory / "dataset.json").write_text("[1]")
    with pytest.raises(UserError, match="a JSON object was expected, found list"):
        open_dataset(directory)


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_another_format_version(directory, version):
    change(directory, format_version=version)
    with pytest.raises(UserError, match=rf"format version 1 was expected, found {version!r}"):
        open_dataset(directory)


def test_missing_keys(directory):
    (directory / "dataset.json").write_text('{"format_version": 1, "name": "x", "labels": []}')
    with pytest.raises(UserError, match=r"dataset\.json lacks splits, preprocessing"):
        open_dataset(directory)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": "abseiling"}, "'labels' was expected to be a list, found 'abseiling'"),
        (
            {"splits": {"train": 3}},
            "split 'train': an object with videos, frames, shards, skipped was expected, found 3",
        ),
        ({"splits": {"train": {"videos": 1, "frames": 1, "skipped": 0}}}, "split 'train' lacks shards"),
        (
            {"splits": {"train": {"videos": 1, "frames": 1, "shards": "2", "skipped": 0}}},
            "split 'train': shards was expected to be a count, found '2'",
        ),
        (
            {"preprocessing": {**Preprocessing().to_json(), "flow": "tvl1"}},
            "the description of the flow must be an object, found 'tvl1'",
        ),
        ({"preprocessing": {"frame_rate": 25.0}}, "'preprocessing' lacks short_side, interpolation, jpeg_quality"),
    ],
)
def test_wrong_values(directory, fields, message):
    change(directory, **fields)
    with pytest.raises(UserError, match=message):
        open_dataset(directory)


def test_missing_shards(directory):
    (directory / "train-00001-of-00002.tfrecord").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of its 2 shards, the first train-00001-of-00002\.tfrecord"):
        open_dataset(directory)
