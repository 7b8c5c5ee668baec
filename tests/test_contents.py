"""A dataset is as large as `dataset.json` says: what a shard or an index no longer has is damage, and counted."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.small_dataset import note_shards, stored_video, write_dataset

from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.reader import SplitReader
from i3d_jax.records.example import encode
from i3d_jax.records.shards import ShardWriter, framed, index_path, shard_name
from i3d_jax.system.errors import UserError

SHARDS = 3
PER_SHARD = 7
NAMES = [f"video{number}" for number in range(SHARDS * PER_SHARD)]
# Frames of each, so that no two shards have the same size.
LENGTHS = [1 + number // PER_SHARD for number in range(SHARDS * PER_SHARD)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """By whether `dataset.json` says what each shard holds; those of the time before do not."""
    folders = {}
    for noted in (True, False):
        folder = tmp_path_factory.mktemp("whole") / "dataset"
        write_dataset(folder, LENGTHS, shards=SHARDS)
        if noted:
            note_shards(folder)
        folders[noted] = folder
    return folders


def shard(folder, number):
    return folder / shard_name("train", number, SHARDS)


def without_index(folder):
    shutil.rmtree(folder / "index")


def empty(folder, *numbers):
    for number in numbers:
        shard(folder, number).write_bytes(b"")


def shorten(folder, number, records):
    """At the end of a record, where no header tells of it."""
    path = shard(folder, number)
    lengths = json.loads(index_path(path).read_text())["lengths"]
    path.write_bytes(path.read_bytes()[: framed(lengths[:records])])


def shorten_index(folder, number, records):
    path = index_path(shard(folder, number))
    fields = {key: value[:records] if isinstance(value, list) else value for key, value in read(path).items()}
    path.write_text(json.dumps(fields))


def read(path):
    return json.loads(path.read_text())


def exchange(one, other):
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def exchange_shards(folder):
    exchange(shard(folder, 0), shard(folder, 1))


def exchange_indexes(folder):
    exchange(index_path(shard(folder, 0)), index_path(shard(folder, 1)))


def exchange_both(folder):
    exchange_shards(folder)
    exchange_indexes(folder)


def another_dataset(folder, videos):
    """Other videos in place of a shard, as a wrong copy would leave them."""
    with ShardWriter(shard(folder, 1)) as writer:
        for video in range(videos):
            writer.write(encode(stored_video(100 + video, 2)))


# What is done, and the shards that are named where it is refused.
DAMAGE = {
    "two empty": (lambda folder: empty(folder, 0, 2), (0, 2)),
    "one empty": (lambda folder: empty(folder, 1), (1,)),
    "shortened": (lambda folder: shorten(folder, 1, 5), (1,)),
    "exchanged": (exchange_shards, (0, 1)),
    "exchanged with their indexes": (exchange_both, (0, 1)),
    "another's": (lambda folder: another_dataset(folder, PER_SHARD), (1,)),
    "a smaller one's": (lambda folder: another_dataset(folder, 3), (1,)),
    "a larger one's": (lambda folder: another_dataset(folder, 9), (1,)),
    "short index": (lambda folder: shorten_index(folder, 1, 4), (1,)),
    "empty index": (lambda folder: shorten_index(folder, 2, 0), (2,)),
    "exchanged indexes": (exchange_indexes, (0, 1)),
}


def names_of(folder):
    """The names of all that is read of the split, where at most one video in twenty may be damaged."""
    reader = SplitReader(open_dataset(folder), "train", max_damaged_share=0.05)
    assert len(reader.places) == len(NAMES)
    return [reader.read(place, lambda video: video.image("rgb", 0) and video.name) for place in reader.places]


# Without either nothing says which shard is which; an index that went with its shard says nothing of it.
CASES = [
    (name, indexed, noted)
    for name in DAMAGE
    for indexed in (True, False)
    for noted in (True, False)
    if noted
    or name not in ("exchanged", "another's", "exchanged with their indexes")
    or (indexed and name != "exchanged with their indexes")
]


@pytest.mark.parametrize(("name", "indexed", "noted"), CASES)
def test_all_videos_are_read_or_the_damage_is_told(whole, tmp_path, caplog, name, indexed, noted):
    folder = tmp_path / "dataset"
    shutil.copytree(whole[noted], folder)
    damage, shards = DAMAGE[name]
    damage(folder)
    if not indexed:
        without_index(folder)
    try:
        found = names_of(folder)
    except UserError as error:
        found, said = None, f"{error} {caplog.text}"
        assert any(shard(folder, number).name in said for number in shards)
    in_an_index = name in ("short index", "empty index", "exchanged indexes")
    if found is not None:
        assert in_an_index
        assert found == NAMES
        # Told, unless there is no index any more.
        assert not indexed or all(f"the index of {shard(folder, number).name}" in caplog.text for number in shards)
    else:
        assert not in_an_index or not noted


def test_the_whole_is_read_as_ever(whole):
    assert names_of(whole[True]) == names_of(whole[False]) == NAMES


def test_the_damage_is_counted_in_videos(whole, tmp_path, caplog):
    folder = tmp_path / "dataset"
    shutil.copytree(whole[True], folder)
    empty(folder, 0, 2)
    without_index(folder)
    with pytest.raises(UserError) as caught:
        SplitReader(open_dataset(folder), "train", max_damaged_share=0.05)
    zero, _, two = (shard(folder, number).name for number in range(SHARDS))
    assert str(caught.value) == (
        "14 of the 21 records of split 'train' are damaged, 66.7% where 5.0% are allowed; "
        f"{zero} lacks 7 of 7 videos, {two} lacks 7 of 7 videos; "
        "the same prepare command with --verify makes damaged shards again"
    )
    reader = SplitReader(open_dataset(folder), "train", max_damaged_share=0.7)
    found = [reader.read(place, lambda video: video.name) for place in reader.places]
    assert found == [None] * 7 + NAMES[7:14] + [None] * 7
    assert len(reader.damaged) == 14
    assert f"damaged: {zero} lacks 7 of 7 videos" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shard_videos": [7, 7]}, "shard_videos was expected to list a count for each of 3 shards"),
        ({"shard_bytes": [1, 2, "3"]}, "shard_bytes was expected to list a count for each of 3 shards"),
        ({"shard_videos": [7, 7, 6]}, "shard_videos were expected to be 21 together"),
    ],
)
def test_a_description_that_contradicts_itself(whole, tmp_path, change, words):
    folder = tmp_path / "dataset"
    shutil.copytree(whole[True], folder)
    description = read(folder / "dataset.json")
    description["splits"]["train"].update(change)
    (folder / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=words):
        open_dataset(folder)


@pytest.mark.parametrize("noted", [True, False])
def test_a_shard_that_vanishes_after_the_dataset_was_opened_is_damage(whole, tmp_path, noted):
    folder = shutil.copytree(whole[noted], tmp_path / "dataset")
    dataset = open_dataset(folder)
    shard(folder, 1).unlink()
    videos = SHARDS * PER_SHARD
    with pytest.raises(UserError, match=f"{PER_SHARD} of the {videos} records of split 'train' are damaged"):
        SplitReader(dataset, "train", max_damaged_share=0.05)
    reader = SplitReader(dataset, "train", max_damaged_share=1.0)
    assert len(reader.places) == videos
