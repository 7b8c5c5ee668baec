"""Clips read the spans of their images and nothing else; an index of version 2 says where these stand."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
import re
import shutil
import tracemalloc

import google_crc32c
import numpy as np
import pytest
from helpers.small_dataset import LABELS, jpegs, pngs, stored_video, write_dataset

from i3d_jax import models, prepare
from i3d_jax.clips import Sampling
from i3d_jax.data import pipeline, reader
from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.pipeline import BatchOptions
from i3d_jax.ingest.indexing import index_dataset
from i3d_jax.records import image_table, shards, spans
from i3d_jax.records.example import encode
from i3d_jax.records.shards import RecordPlace, ShardIndex, index_path, table_path
from i3d_jax.system.errors import UserError

LENGTHS = [30, 41, 33, 28, 52]


def write(folder, version=2, **changes):
    return write_dataset(folder, LENGTHS, **{"flow": True, "index_version": version, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "dataset")


@pytest.fixture
def own(whole, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(whole.directory, tmp_path / "own")
    return open_dataset(tmp_path / "own")


@pytest.fixture
def preads(monkeypatch):
    """What `os.pread` has given so far: (offset, bytes)."""
    made = []
    pread = os.pread

    def counted(descriptor, length, offset):
        content = pread(descriptor, length, offset)
        made.append((offset, len(content)))
        return content

    monkeypatch.setattr(os, "pread", counted)
    return made


def options_of(name, stream=None):
    """The batches of an architecture's training clips, of the frames of the small videos."""
    network = models.create(name, 3, **({} if stream is None else {"stream": stream}))
    clip = network.training_clip
    sampling = Sampling(frames=clip.frames, stride=clip.stride, flow_per_frame=network.flow_per_frame)
    return BatchOptions(batch_size=2, sampling=sampling, streams=network.streams, crop=16, max_damaged_share=0.0)


VIDEO_NETWORKS = {name: network for name, network in models.MODELS.items() if network.sees_videos}
VARIANTS = [
    *((name, None) for name in VIDEO_NETWORKS),
    *((name, "flow") for name, network in VIDEO_NETWORKS.items() if hasattr(network, "stream")),
]


@pytest.mark.parametrize(("name", "stream"), VARIANTS)
def test_a_clip_reads_little_more_than_it_uses(whole, preads, name, stream):
    options = options_of(name, stream)
    batches = pipeline.training_batches(whole, "train", options, flip=True, seed=0)
    clips = [batches.encoded(row) for row in range(10)]
    used = sum(len(image) for clip in clips for own in clip.streams.values() for image in own.images)
    assert {len(clip.streams) for clip in clips} == {len(options.streams)}
    assert used <= sum(size for _, size in preads) <= 1.15 * used


def test_images_that_follow_each_other_are_one_read(whole, preads):
    opener = reader.VideoOpener(whole, ("rgb", "flow"))
    video = opener.open(whole.records("train")[1])
    assert not preads
    found = video.images([("rgb", 3), ("rgb", 2), ("flow", 7), ("rgb", 4)])
    assert found == [jpegs(1, 41)[3], jpegs(1, 41)[2], pngs(1, 41)[7], jpegs(1, 41)[4]]
    assert len(preads) == 2


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 1000)])
def test_an_index_that_goes_while_it_is_used(own, damage):
    """The places of a video's images are read when it is opened; before, its shard's table was whole."""
    opener = reader.VideoOpener(own, ("rgb",))
    first, second, *_ = own.records("train")
    assert opener.open(first).num_frames
    damage(table_path(first.path))
    with pytest.raises(reader.DamagedRecord, match=r"its shard's index cannot be read: (No such|.*npz has been cut)"):
        opener.open(second)


def test_the_places_of_images_take_no_memory(tmp_path):
    """Those of 300 videos of 1000 frames, 16 bytes each."""
    writer = image_table.TableWriter()
    images = np.arange(1000)
    for number in range(300):
        writer._videos.append((f"video{number}", 0, "a"))
        writer._records.append((number * 2000, 1984))
        places = image_table.ImagePlaces((2, 2), images + number * 2000 + 12, images % 7, images + number)
        none = image_table.ImagePlaces((0, 0), *[images[:0]] * 3)
        for stream, own in (("rgb", places), ("flow", none)):
            writer._images[stream].append(own)
    shard = tmp_path / "train-00000-of-00001.tfrecord"
    (tmp_path / "index").mkdir()
    index = ShardIndex(
        fingerprint="",
        names=tuple(map(str, images[:300])),
        frames=(1000,) * 300,
        lengths=(1984,) * 300,
        skipped=(),
        table_crc32c=writer.write(shard),
    )
    index.write(index_path(shard))
    image_table.read(shard, ["a"], ("rgb",))
    tracemalloc.start()
    table = image_table.read(shard, ["a"], ("rgb",))
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 300 * 1000 * 16 / 10 < most
    found = table.video(RecordPlace(shard, 7, 7 * 2000, 1984)).images["rgb"]
    for own, expected in zip(found[1:], (images + 7 * 2000 + 12, images % 7, images + 7), strict=True):
        assert own.tolist() == expected.tolist()


@pytest.mark.parametrize("wanted", [[(5, 3)], [(90, 20), (0, 1)], [(1, 2), (0, 100)], [(3, 0)], []])
def test_spans_are_those_of_the_file(tmp_path, wanted):
    content = bytes(range(100))
    (tmp_path / "file").write_bytes(content)
    assert spans.read(tmp_path / "file", wanted) == [content[start : start + length] for start, length in wanted]


@pytest.mark.parametrize(
    ("wanted", "blocks"),
    [
        ([(100, 10), (0, 10)], [(0, 10), (100, 10)]),
        ([(10 + spans.NEAR, 5), (0, 10)], [(0, 15 + spans.NEAR)]),
        ([(11 + spans.NEAR, 5), (0, 10)], [(0, 10), (11 + spans.NEAR, 5)]),
        ([(0, 100), (10, 5), (90, 20)], [(0, 110)]),
    ],
)
def test_only_near_spans_are_joined(wanted, blocks):
    assert spans.joined(wanted)[0] == blocks


def test_a_read_that_gives_less_than_was_asked_for_goes_on(tmp_path, monkeypatch):
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, offset: pread(descriptor, min(length, 7), offset))
    (tmp_path / "file").write_bytes(bytes(range(100)))
    assert spans.read(tmp_path / "file", [(10, 50)]) == [bytes(range(10, 60))]


def training(dataset, options, batches=6, **rest):
    return list(
        itertools.islice(pipeline.training_batches(dataset, "train", options, flip=True, seed=0, **rest), batches)
    )


def same(first, second):
    return all((one[key] == other[key]).all() for one, other in zip(first, second, strict=True) for key in one)


def test_either_version_gives_the_same_batches(whole, own):
    options = options_of("two_stream")
    expected = training(whole, options)
    for path in own.shard_paths("train"):
        index = dataclasses.replace(ShardIndex.read(index_path(path)), table_crc32c=None)
        index.write(index_path(path))
    assert same(training(own, options), expected)


def test_the_table_is_what_the_records_hold(whole):
    """By the file's own words, without our reader."""
    [path, *_] = whole.shard_paths("train")
    content = path.read_bytes()
    with np.load(table_path(path)) as table:
        assert table["name"].tolist() == ["video0", "video1", "video2"]
        assert table["label"].tolist() == [0, 1, 2]
        assert table["label_name"].tolist() == list(LABELS)
        for stream, images in (("rgb", jpegs), ("flow", pngs)):
            stored = [image for number in range(3) for image in images(number, LENGTHS[number])]
            found = zip(*(table[f"{stream}/{key}"].tolist() for key in ("offset", "length", "crc32c")), strict=True)
            for image, (offset, length, checksum) in zip(stored, found, strict=True):
                assert content[offset : offset + length] == image
                assert google_crc32c.value(image) == checksum
    fields = json.loads(index_path(path).read_text())
    assert fields["format_version"] == 2
    assert fields["table_crc32c"] == google_crc32c.value(table_path(path).read_bytes())


def read_all(dataset, stream="rgb"):
    split = reader.SplitReader(dataset, "train", max_damaged_share=1.0, streams=(stream,))
    images = {"rgb": jpegs, "flow": pngs}[stream]
    found = [
        split.read(place, lambda video: (video.name, video.label, video.image(stream, 1))) for place in split.places
    ]
    expected = [(f"video{n}", n % 3, images(n, length)[1]) for n, length in enumerate(LENGTHS)]
    return found, expected, list(split.damaged.values())


def exchange_tables(paths):
    one, other = map(table_path, paths)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def other_label(paths):
    """The index of a time when the labels were numbered otherwise: consistent in itself."""
    for path in paths:
        with np.load(table_path(path)) as table:
            arrays = {**table, "label": (table["label"] + 1) % 3}
        np.savez(table_path(path), **arrays)
        rewrite(path, table_crc32c=google_crc32c.value(table_path(path).read_bytes()))


def rewrite(path, **changes):
    fields = {**json.loads(index_path(path).read_text()), **changes}
    index_path(path).write_text(json.dumps(fields))


def flip_bit(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda paths: [table_path(path).unlink() for path in paths], "cannot be read: No such file"),
        (lambda paths: [flip_bit(table_path(path), 2000) for path in paths], "the CRC-32C"),
        (lambda paths: [table_path(path).write_bytes(b"") for path in paths], "of its 0 bytes"),
        (exchange_tables, "the CRC-32C"),
        (other_label, "its labels are not those of dataset.json"),
        (lambda paths: [rewrite(path, table_crc32c=1) for path in paths], "the CRC-32C 00000001 was expected"),
        (lambda paths: [rewrite(path, format_version=3) for path in paths], None),
        (lambda paths: [rewrite(path, table_crc32c="1") for path in paths], None),
    ],
)
def test_a_table_that_is_not_the_shards_is_left_out(own, caplog, damage, told):
    damage(own.shard_paths("train"))
    found, expected, damaged = read_all(own)
    assert found == expected
    assert not damaged
    assert told is None or told in caplog.text


def test_an_image_that_has_changed_is_named_and_harms_no_other(own):
    path = own.shard_paths("train")[0]
    offset = path.read_bytes().index(jpegs(1, 41)[1])
    flip_bit(path, offset + 300)
    length, checksum = len(jpegs(1, 41)[1]), google_crc32c.value(jpegs(1, 41)[1])
    found, expected, [told] = read_all(own)
    assert found == [expected[0], None, *expected[2:]]
    assert re.fullmatch(
        rf"{path.name}, record 1: its frame 1 does not match its checksum: {length} bytes at byte {offset} of the "
        rf"CRC-32C {checksum:08x} were expected, found \w{{8}}: the shard is damaged or younger than its index",
        told,
    )
    found, expected, damaged = read_all(own, "flow")
    assert found == expected
    assert not damaged


def test_a_shard_that_changes_while_it_is_read(own):
    """Another of the same length takes its place after the dataset was opened; then one that ends in the middle."""
    split = reader.SplitReader(own, "train", max_damaged_share=1.0)
    path = own.shard_paths("train")[0]
    [first, second, third] = [place for place in split.places if place.path == path]
    content = path.read_bytes()
    assert split.read(first, lambda video: video.image("rgb", 0)) == jpegs(0, 30)[0]
    path.write_bytes(content[first.offset :][:100] + bytes(len(content) - 100))
    assert split.read(second, lambda video: video.image("rgb", 0)) is None
    assert "found " in split.damaged[second]
    middle = content.index(jpegs(2, 33)[0]) + 5
    path.write_bytes(content[:middle])
    assert split.read(third, lambda video: video.image("rgb", 0)) is None
    assert split.damaged[third].endswith(f"its frame 0 is cut short, 5 of {len(jpegs(2, 33)[0])} bytes are there")


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_index_only_writes_what_prepare_writes_and_touches_no_shard(whole, tmp_path, capsys):
    old = write(tmp_path / "old", version=1)
    times = {path: path.stat().st_mtime_ns for path in old.shard_paths("train")}
    assert prepare.main(["--index_only", str(old.directory), "--processes", "1"]) == 0
    assert "wrote the index of 2 shards; 0 had theirs, 0 are left" in capsys.readouterr().out
    assert files_of(old.directory) == files_of(whole.directory)
    assert times == {path: path.stat().st_mtime_ns for path in old.shard_paths("train")}
    before = files_of(old.directory / "index")
    assert prepare.main(["--index_only", str(old.directory), "--processes", "1"]) == 0
    assert "wrote the index of 0 shards; 2 had theirs, 0 are left" in capsys.readouterr().out
    assert files_of(old.directory / "index") == before


def test_index_only_of_a_shard_with_a_damaged_record(tmp_path, caplog):
    old = write(tmp_path / "old", version=1)
    path = old.shard_paths("train")[0]
    flip_bit(path, path.read_bytes().index(jpegs(1, 41)[0]) + 300)
    found = index_dataset(old.directory, processes=1)
    assert (found.written, found.there, found.left) == (2, 0, 0)
    assert f"{path.name}, record 1: the bytes do not match their checksum" in caplog.text
    images, expected, [told] = read_all(old)
    assert images == [expected[0], None, *expected[2:]]
    assert told == f"{path.name}, record 1: the bytes do not match their checksum"


def test_index_only_leaves_what_is_not_the_indexs(tmp_path, capsys, caplog):
    old = write(tmp_path / "old", version=1)
    first, second = old.shard_paths("train")
    index_path(first).unlink()
    rewrite(second, names=["video4", "video3"])
    assert prepare.main(["--index_only", str(old.directory), "--processes", "1"]) == 2
    assert "wrote the index of 0 shards; 0 had theirs, 2 are left" in capsys.readouterr().out
    assert f"{first.name} is left as it is: it has no index" in caplog.text
    assert f"{second.name}, record 0: the video 'video4' was expected, found the video 'video3'" in caplog.text


def test_a_dataset_is_indexed_by_one_at_a_time(tmp_path):
    old = write(tmp_path / "old", version=1)
    descriptor = os.open(old.directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another prepare is at work in"):
            index_dataset(old.directory, processes=1)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--videos", "v"], "beside --index_only --processes and --quiet were expected alone, found --videos"),
        (["--flow", "tvl1"], "found --flow"),
        (["--verify"], "found --verify"),
        (["--", "--region=x"], "found --region=x"),
        ([], "a dataset folder was expected at"),
    ],
)
def test_index_only_goes_alone(tmp_path, arguments, words):
    with pytest.raises(UserError, match=re.escape(words)):
        prepare.main(["--index_only", str(tmp_path / "none"), *arguments])
    assert not (tmp_path / "none").exists()


def test_a_table_of_another_kind_is_left_out(own):
    """Consistent in itself, and no table: what somebody else may have written."""
    path = own.shard_paths("train")[0]
    with np.load(table_path(path)) as table:
        arrays = dict(table)
    for name, array in arrays.items():
        for other in (
            array[:-1],
            array.astype(object),
            array[None],
            array.astype("M8[s]") if array.dtype.kind == "i" else 0,
        ):
            np.savez(table_path(path), **{**arrays, name: other})
            rewrite(path, table_crc32c=google_crc32c.value(table_path(path).read_bytes()))
            found, expected, _ = read_all(own)
            assert found == expected
    far = {**arrays, "rgb/offset": arrays["rgb/offset"] + 10**18}
    np.savez(table_path(path), **far)
    rewrite(path, table_crc32c=google_crc32c.value(table_path(path).read_bytes()))
    found, expected, _ = read_all(own)
    assert found == expected


def test_a_video_of_one_frame_has_no_flow(tmp_path):
    dataset = write_dataset(tmp_path / "dataset", [1, 5], shards=1, flow=True)
    split = reader.SplitReader(dataset, "train", max_damaged_share=0.5, streams=("flow",))
    assert split.read(split.places[0], lambda video: video.name) is None
    assert split.damaged[split.places[0]].endswith("it has no flow fields (FORWARD_FLOW/image/encoded)")
    assert split.read(split.places[1], lambda video: video.num_frames) == 5


def test_an_empty_shard_has_a_table(tmp_path):
    dataset = write_dataset(tmp_path / "dataset", [3], shards=2)
    assert all(table_path(path).exists() for path in dataset.shard_paths("train"))
    split = reader.SplitReader(dataset, "train", max_damaged_share=0)
    assert split.read(split.places[0], lambda video: video.image("rgb", 2)) == jpegs(0, 3)[2]


def test_a_shard_that_has_been_written_anew_under_its_old_index(own):
    path = own.shard_paths("train")[1]
    with shards.ShardWriter(path) as writer:
        for number in (3, 4):
            writer.write(encode(stored_video(100 + number, LENGTHS[number], flow=True)))
    found, expected, damaged = read_all(own)
    assert found == [*expected[:3], None, None]
    assert len(damaged) == 2
