"""JSON and archives that anybody may have written: one sentence, whatever they hold."""

from __future__ import annotations

import io
import json
import re
import zipfile

import numpy as np
import pytest
from helpers.small_checkpoints import save_stream
from helpers.small_dataset import write_dataset

from i3d_jax import checkpoint, clips, models
from i3d_jax.data.dataset import open_dataset
from i3d_jax.evaluation import features
from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.fvd import saved
from i3d_jax.fvd.sets import open_set
from i3d_jax.ingest import output
from i3d_jax.records.shards import ShardIndex
from i3d_jax.run import recipe
from i3d_jax.system.archives import read_arrays
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import parse_json, read_json
from i3d_jax.training.logs import MetricsFile
from i3d_jax.video.windows import read_windows

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (DEEP, "levels without end"),
        ('{"a":' * 100_000, "levels without end"),
        ("[" * 40 + "]" * 40, "more than 30 levels"),
        ('{"a": NaN}', "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "a number is too large"),
        (f"[{10**30}]", "the number 1(0{30}|e.30) is too large"),
        ("9" * 5000, "limit|digits"),
        ('["\\ud83d"]', "no character"),
        ('{"\\udfff": 1}', "no character"),
        (b"\xff\xfe\x00", "codec"),
        ("", "Expecting value"),
        (b" " * ((64 << 20) + 1), "more than 64 MiB"),
    ],
    ids=range(13),
)
def test_json_that_none_of_our_files_holds(content, words):
    with pytest.raises(UserError, match=f"^here cannot be read as JSON: .*({words})"):
        parse_json(content, "here")


def test_json_that_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes('\ufeff{"a": [1.5, "喝水", "caf\\udce9", "\\ud83c\\udfc3"]}'.encode())
    assert read_json(tmp_path / "a.json") == {"a": [1.5, "喝水", "caf\udce9", "\U0001f3c3"]}


def change(path, key, value):
    fields = json.loads(path.read_text())
    *outer, last = key.split(".")
    inner = fields
    for one in outer:
        inner = inner[one]
    inner[last] = value
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("splits.train.shards", 10**9, "lacks 1000000000 of its 1000000000 shards, .*-of-1000000000"),
        ("splits.train.videos", True, "videos was expected to be a count, found True"),
        (
            "splits",
            {"../train": {"videos": 1, "frames": 1, "shards": 1, "skipped": 0}},
            "a split is named with letters",
        ),
        ("combined", {"all": ["train", ["train"]]}, "'combined' of 'all' was expected to list splits"),
        ("labels", ["a", "\ud83d", "c"], "no character"),
        ("labels", ["a", "b\udce9", "c"], "'labels' was expected to hold texts"),
        ("labels", ["a", 7, "c"], "'labels' was expected to hold texts, found 7"),
        ("preprocessing.frame_rate", True, "a number was expected as frame_rate, found True"),
        ("preprocessing.short_side", 40.5, "a number was expected as short_side, found 40.5"),
        ("preprocessing.jpeg_quality", "95", "a number was expected as jpeg_quality, found '95'"),
        ("preprocessing.frame_rate", float("inf"), "Infinity is no number"),
    ],
)
def test_a_description_of_a_dataset(tmp_path, key, value, words):
    write_dataset(tmp_path / "ds", [3, 3])
    change(tmp_path / "ds" / "dataset.json", key, value)
    with pytest.raises(UserError, match=words):
        open_dataset(tmp_path / "ds")


@pytest.mark.parametrize("content", [DEEP, '{"lengths": [Infinity]}', "[1]", '{"lengths": [true]}', b"\xb2"])
def test_an_index_and_a_mark_that_are_damaged_are_none(tmp_path, content):
    path = tmp_path / "unfinished.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert ShardIndex.read(path) is None
    assert output.Mark.read(tmp_path) is None
    path.rename(tmp_path / "dataset.json")
    assert output.shard_counts(tmp_path) == {}


@pytest.mark.parametrize("lengths", [[1e3], [True], ["7"], [-1], [10**19]])
def test_the_lengths_of_an_index_are_counts(tmp_path, lengths):
    index = ShardIndex(fingerprint="a", names=("b",), frames=(1,), lengths=(7,), skipped=())
    index.write(tmp_path / "i.json")
    assert ShardIndex.read(tmp_path / "i.json") == index
    change(tmp_path / "i.json", "lengths", lengths)
    assert ShardIndex.read(tmp_path / "i.json") is None


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("preprocessing.flow_per_frame", 10**30, "too large"),
        ("preprocessing.flow_per_frame", 10**9, "flow_per_frame must be at most 1000"),
        ("preprocessing.frames", 10**15, "frames must be at most 15000"),
        ("preprocessing.windows", 10**15, "windows must be at most 10000"),
        ("preprocessing.frame_rate", True, "a number was expected as frame_rate, found True"),
        ("preprocessing.crop", True, "has the crop True, a whole number was expected"),
        ("num_classes", True, "'num_classes' was expected to be a int, found True"),
        ("labels", [1, 2, 3], "'labels' was expected to hold texts"),
        ("options.width_multiplier", "wide", "width_multiplier was expected to be of the kind float, found 'wide'"),
        ("options.width_multiplier", [1], r"width_multiplier was expected to be of the kind float, found \[1\]"),
        ("options.dtype", "(None,)", "the dtype must be one of"),
    ],
)
def test_a_description_of_a_checkpoint(tmp_path, key, value, words):
    save_stream(tmp_path / "ck", stream="rgb")
    (tmp_path / "video.mp4").touch()
    change(tmp_path / "ck" / "model.json", key, value)

    def use():
        _, _, metadata = checkpoint.load(tmp_path / "ck")
        read_windows(tmp_path / "video.mp4", metadata["preprocessing"], streams=("rgb",), where="ck")

    with pytest.raises(UserError, match=words):
        use()


def archive(*members, compression=zipfile.ZIP_STORED, **marks):
    """An archive of (name, bytes); `marks` are numbers put into every header: `flags` or `method`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as written:
        for name, content in members:
            written.writestr(name, content)
    content = bytearray(file.getvalue())
    for mark, value in marks.items():
        for signature, place in (
            (b"PK\x03\x04", {"flags": 6, "method": 8}),
            (b"PK\x01\x02", {"flags": 8, "method": 10}),
        ):
            for found in re.finditer(re.escape(signature), bytes(content)):
                content[found.start() + place[mark]] = value
    return bytes(content)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000000, 3), }".ljust(117) + b"\n"
HUGE = b"\x93NUMPY\x01\x00v\x00" + HUGE
BOMB = archive(("video.npy", npy(np.zeros(200 << 20, np.uint8))), compression=zipfile.ZIP_DEFLATED)
WHOLE = ("video.npy", npy(np.arange(300)))
ARCHIVES = {
    "encrypted": (archive(WHOLE, flags=1), "encrypted"),
    "an unknown method": (archive(WHOLE, method=99), "compression method"),
    "lzma of nothing": (archive(WHOLE, method=14), ""),
    "cut short": (archive(WHOLE)[:200], "not a zip file"),
    "nothing": (b"", "not a zip file"),
    "no archive": (npy(np.arange(3)), "not a zip file"),
    "a damaged array": (archive(WHOLE).replace(b"\x05\x00\x00\x00\x00\x00\x00\x00", b"\x06" + bytes(7), 1), "CRC"),
    "objects": (archive(("video.npy", npy(np.array([{}], object)))), "allow_pickle|Object arrays"),
    "a shape without end": (archive(("video.npy", HUGE)), ""),
    "no array": (archive(("video.npy", b"text")), "magic"),
    "a bomb": (BOMB, "unpack to 209715328 bytes"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(tmp_path, name):
    content, words = ARCHIVES[name]
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=f"a.npz cannot be read as an .npz file of things: .*({words})"):
        read_arrays(tmp_path / "a.npz", "things")
    with pytest.raises(UserError, match=r"a.npz cannot be read as an .npz file of predictions"):
        Predictions.load(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"a.npz cannot .*: remove it, and they are computed again"):
        features.read(tmp_path / "a.npz")


def test_an_archive_that_is_read(tmp_path):
    arrays = {"a": np.arange(3), "b/c": np.array(["喝水"]), "d": np.zeros((2, 0))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = read_arrays(tmp_path / "a.npz", "things")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("provenance", ["", "[]", DEEP, '"\\ud83d"'])
def test_features_of_which_it_is_not_said_what_they_are_of(tmp_path, provenance):
    np.savez(tmp_path / "f.npz", video=["a"], label=[0], damaged=[], provenance=np.array(provenance))
    with pytest.raises(UserError, match=r"'provenance' in .*f.npz .*: remove it"):
        features.read(tmp_path / "f.npz")


@pytest.mark.parametrize("damage", [b"\xb2\xff", b'{"step": NaN}', b'{"step": "3"}', b"[7]", DEEP.encode(), b'{"st'])
def test_a_damaged_line_of_the_metrics_is_left_out(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    good = [b'{"step": %d, "split": "train"}' % step for step in (1, 2, 3)]
    lines = [good[0], damage, *good[1:]]
    path.write_bytes(b"\n".join(lines) + b"\n")
    MetricsFile(path, after_step=2)
    assert path.read_bytes().splitlines() == [lines[0], lines[2]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimizer.learning_rates=(nan,)", "optimizer.learning_rates was expected to hold numbers"),
        ("optimizer.learning_rates=('a',)", "optimizer.learning_rates was expected to hold numbers"),
        ("optimizer.boundaries=(1e999,)", "optimizer.boundaries|inf"),
        ("optimizer.weight_decay=nan", "optimizer.weight_decay was expected to be finite, found nan"),
        ("data.directory=a\0b", r"data.directory was expected to be a text without .* of zero, found 'a\\x00b'"),
        ("label_smoothing=-inf", "label_smoothing was expected to be finite, found -inf"),
        ("data.frames=1000000000000000000", "data.frames was expected to be below 2,147,483,648, found 1(0{18}|e.18)"),
        ("batch_size=-9999999999", "batch_size was expected to be below"),
    ],
)
def test_numbers_of_a_configuration_with_which_nothing_can_be_computed(change, words):
    with pytest.raises(UserError, match=words):
        recipe.load("experiments/custom.py:small", [f"--config.{change}"])


@pytest.mark.parametrize("dtype", ["(-1.0,)", "(None,)", "f4,f4", "float16", "nothing"])
def test_what_no_network_computes_in(dtype):
    with pytest.raises(UserError, match="the dtype must be one of float32, bfloat16"):
        models.create("i3d", 3, dtype=dtype)


@pytest.mark.parametrize("name", ["frames", "stride", "flow_per_frame"])
def test_a_window_that_no_memory_holds(name):
    with pytest.raises(UserError, match=f"{name} must be at most"):
        clips.Sampling(**{"frames": 1, name: 100_000_000})


@pytest.mark.parametrize(
    ("place", "value"),
    # In the archive's list of names: a name that is said to be UTF-8 and is not; a version that nobody knows.
    [(9, b"\x08"), (6, b"\xff\xff")],
)
def test_an_archive_whose_list_of_names_is_damaged(tmp_path, place, value):
    path = tmp_path / "videos.npz"
    np.savez(path, description=np.zeros((2, 9, 8, 8, 3), np.uint8))
    content = bytearray(path.read_bytes())
    begin = content.index(b"PK\x01\x02")
    content[begin + place : begin + place + len(value)] = value
    content[begin + 46] = 0x91
    path.write_bytes(content)
    assert not saved.are_at(path)
    with pytest.raises(UserError, match=r"videos\.npz cannot be read as an array"):
        open_set(path)
