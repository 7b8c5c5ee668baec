"""The `prepare` command: what it writes, what it says, and that being killed or started again makes no difference."""

import csv
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from i3d_jax import prepare
from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.ingest import output
from i3d_jax.ingest import shard as shard_module
from i3d_jax.ingest.annotations import AnnotatedClip
from i3d_jax.ingest.local import make_shards
from i3d_jax.ingest.options import DatasetOptions
from i3d_jax.ingest.preparation import prepare_dataset
from i3d_jax.ingest.process import Skipped, process
from i3d_jax.ingest.shard import Job
from i3d_jax.system.errors import UserError
from i3d_jax.video.write import write_video

SMALL = Preprocessing(short_side=32)
ROOT = Path(__file__).parents[1]
VIDEOS = 14
NO_VIDEO = "it is of no format that FFmpeg knows, or damaged at its beginning"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of generated videos of two actions, one of them damaged, with labels.csv beside them."""
    folder = tmp_path_factory.mktemp("videos")
    random = np.random.default_rng(0)
    for number in range(VIDEOS):
        frames = random.integers(0, 256, (20 + number, 48, 64, 3), dtype=np.uint8)
        write_video(folder / f"{number}.mp4", frames, 25)
    (folder / "3.mp4").write_bytes(b"damaged")
    rows = [
        f"{number}.mp4,{('left', 'right')[number % 2]},{'test' if number > 9 else 'train'}" for number in range(VIDEOS)
    ]
    (folder / "labels.csv").write_text("\n".join(["video,label,split", *rows, "absent.mp4,left,train"]))
    return folder


@pytest.fixture(scope="module")
def clips(videos):
    return prepare.read("csv", videos / "labels.csv", videos)


@pytest.fixture(scope="module")
def expected(videos, clips, tmp_path_factory):
    """The dataset as one process makes it, without an interruption."""
    directory = tmp_path_factory.mktemp("expected") / "dataset"
    make(clips, videos, directory)
    return directory


def make(clips, videos, directory, *, processes=1, isolated=False, shards=2, preprocessing=SMALL):
    return prepare_dataset(
        clips,
        videos,
        directory,
        DatasetOptions(name="moves", preprocessing=preprocessing, shards=shards),
        make_shards=functools.partial(make_shards, processes=processes, isolated=isolated),
    )


def files(directory):
    """Returns every file's bytes by its path in the folder."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def written_at(directory):
    """Returns when each shard was written, in nanoseconds, by its name."""
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("*.tfrecord")}


def arguments(videos, directory, *more):
    return [
        *("--annotations", str(videos / "labels.csv"), "--videos", str(videos), "--output", str(directory)),
        *("--short_side", "32", "--name", "moves", "--shards", "2", *more),
    ]


def test_the_dataset(expected):
    dataset = open_dataset(expected)
    assert dataset.name == "moves"
    assert dataset.labels == ("left", "right")
    assert dataset.preprocessing == SMALL
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (train.videos, train.shards, train.skipped) == (9, 2, 2)
    assert (test.videos, test.shards, test.skipped) == (4, 2, 0)
    assert train.frames == sum(20 + number for number in range(10) if number != 3)
    assert sorted(files(expected)) == [
        "dataset.json",
        *(
            f"index/{split}-0000{shard}-of-00002.{kind}"
            for split in ("test", "train")
            for shard in (0, 1)
            for kind in ("json", "npz")
        ),
        "skipped.csv",
        *(f"{split}-0000{shard}-of-00002.tfrecord" for split in ("test", "train") for shard in (0, 1)),
    ]
    names = [
        name for path in (expected / "index").glob("train*.json") for name in json.loads(path.read_text())["names"]
    ]
    assert sorted(names) == sorted(f"{number}.mp4" for number in range(10) if number != 3)
    assert list(csv.reader((expected / "skipped.csv").open())) == [
        ["video", "reason", "split"],
        ["3.mp4", f"it cannot be opened as a video: {NO_VIDEO}", "train"],
        ["absent.mp4", "missing", "train"],
    ]


def test_several_processes_write_the_same_bytes(videos, clips, expected, tmp_path):
    make(clips, videos, tmp_path / "dataset", processes=3)
    assert files(tmp_path / "dataset") == files(expected)


def test_the_order_of_the_annotations_does_not_matter_to_the_shards(videos, clips, expected, tmp_path):
    make(clips[::-1], videos, tmp_path / "dataset")
    again = files(tmp_path / "dataset")
    assert {name: again[name] for name in again if "0000" in name} == {
        name: content for name, content in files(expected).items() if "0000" in name
    }


def test_started_again_it_writes_no_shard(videos, clips, tmp_path):
    first = make(clips, videos, tmp_path / "dataset")
    before, times = files(tmp_path / "dataset"), written_at(tmp_path / "dataset")
    assert make(clips, videos, tmp_path / "dataset") == first
    assert files(tmp_path / "dataset") == before
    assert written_at(tmp_path / "dataset") == times


def copy(videos, folder):
    folder.mkdir()
    for path in videos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_an_interruption_leaves_the_other_shards(videos, clips, tmp_path, monkeypatch):
    """The disk is full while two shards are made again, in the second of them: no trace of that one may be left."""
    own, directory = copy(videos, tmp_path / "videos"), tmp_path / "dataset"
    make(clips, own, directory)
    times = written_at(directory)
    for number in range(10):
        (own / f"{number}.mp4").write_bytes((own / "13.mp4").read_bytes())
    whole = make(clips, own, tmp_path / "whole")
    first = json.loads((tmp_path / "whole" / "index" / "train-00000-of-00002.json").read_text())
    room = len(first["names"]) + 1

    def full_disk(video):
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        room -= 1
        return encode(video)

    encode = shard_module.encode
    monkeypatch.setattr(shard_module, "encode", full_disk)
    with pytest.raises(OSError, match="No space left"):
        make(clips, own, directory)
    assert sorted(path.name for path in (directory / "index").glob("*.json")) == [
        "test-00000-of-00002.json",
        "test-00001-of-00002.json",
        "train-00000-of-00002.json",
    ]
    assert not [name for name in files(directory) if ".tmp-" in name or name == "dataset.json"]
    monkeypatch.setattr(shard_module, "encode", encode)
    assert make(clips, own, directory).splits == whole.splits
    assert files(directory) == files(tmp_path / "whole")
    assert {name for name, time in written_at(directory).items() if times[name] == time} == {
        "test-00000-of-00002.tfrecord",
        "test-00001-of-00002.tfrecord",
    }


def test_a_video_that_appears_or_changes_is_picked_up(videos, clips, tmp_path):
    own, directory = copy(videos, tmp_path / "videos"), tmp_path / "dataset"
    make(clips, own, directory, shards=3)
    times = written_at(directory)
    (own / "absent.mp4").write_bytes((own / "5.mp4").read_bytes())
    (own / "3.mp4").write_bytes((own / "7.mp4").read_bytes())
    summary = make(clips, own, directory, shards=3)
    assert summary.skipped == ()
    assert summary.splits["train"].videos == 11
    again = written_at(directory)
    assert 1 <= sum(times[name] != again[name] for name in times) <= 2
    make(clips, own, tmp_path / "at once", shards=3)
    assert files(directory) == files(tmp_path / "at once")


@pytest.mark.parametrize("damage", ["cut off", "removed", "index removed", "index damaged"])
def test_a_shard_that_is_not_whole_is_made_again(videos, clips, expected, tmp_path, damage):
    directory = tmp_path / "dataset"
    make(clips, videos, directory)
    shard, index = directory / "train-00001-of-00002.tfrecord", directory / "index" / "train-00001-of-00002.json"
    if damage == "cut off":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "removed":
        shard.unlink()
    elif damage == "index removed":
        index.unlink()
    else:
        index.write_text("{")
    make(clips, videos, directory)
    assert files(directory) == files(expected)


def test_shards_of_the_time_before_their_table_of_images_are_not_made_again(videos, clips, expected, tmp_path):
    directory = tmp_path / "dataset"
    make(clips, videos, directory)
    for path in directory.glob("index/*.json"):
        fields = json.loads(path.read_text())
        del fields["format_version"], fields["table_crc32c"]
        path.write_text(json.dumps(fields, indent=1))
        path.with_suffix(".npz").unlink()
    (directory / "train-00001-of-00002.tfrecord").unlink()
    before = written_at(directory)
    make(clips, videos, directory)
    assert before.items() <= written_at(directory).items()
    assert sorted(path.name for path in directory.glob("index/*.npz")) == ["train-00001-of-00002.npz"]
    assert prepare.main(["--index_only", str(directory), "--processes", "2"]) == 0
    assert files(directory) == files(expected)


@pytest.mark.parametrize("damage", ["a flipped bit", "another video's record", "no table", "another shard's table"])
def test_what_only_the_bytes_tell_is_made_again_when_asked_for(videos, expected, tmp_path, damage, caplog):
    directory = tmp_path / "dataset"
    prepare.main(arguments(videos, directory))
    shard, index = directory / "train-00001-of-00002.tfrecord", directory / "index" / "train-00001-of-00002.json"
    if damage == "a flipped bit":
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 8
        shard.write_bytes(content)
    elif damage == "no table":
        index.with_suffix(".npz").unlink()
    else:
        fields = json.loads(index.read_text())
        if damage == "another video's record":
            fields["names"][1:3] = fields["names"][2:0:-1]
        else:
            # Whole, and by its checksum the index's own.
            other = index.with_name("train-00000-of-00002.json")
            index.with_suffix(".npz").write_bytes(other.with_suffix(".npz").read_bytes())
            fields["table_crc32c"] = json.loads(other.read_text())["table_crc32c"]
        index.write_text(json.dumps(fields))
    before = written_at(directory)
    prepare.main(arguments(videos, directory))
    assert written_at(directory) == before
    prepare.main(arguments(videos, directory, "--verify"))
    assert files(directory) == files(expected)
    assert {name for name, at in written_at(directory).items() if at != before[name]} == {shard.name}
    where = ": its index does not say where its images are" if "table" in damage else ", record"
    assert f"train-00001-of-00002.tfrecord{where}" in caplog.text
    assert "the shard is made again" in caplog.text


def test_what_earlier_plans_and_killed_runs_left_is_removed(videos, clips, expected, tmp_path):
    directory = tmp_path / "dataset"
    other_split = [AnnotatedClip(name="x", path="0.mp4", label="left", split="validation")]
    make([*clips, *other_split], videos, directory, shards=3)
    for name in ("train-00000-of-00002.tfrecord.tmp-12", "dataset.json.tmp-12", "index/test-00000-of-00003.json.tmp-1"):
        (directory / name).touch()
    (directory / "notes.txt").write_text("the user's own")
    make(clips, videos, directory)
    assert files(directory) == {**files(expected), "notes.txt": b"the user's own"}


def test_a_file_put_right_without_a_change_of_its_size_is_retried_when_asked_for(videos, expected, tmp_path):
    folder = copy(videos, tmp_path / "videos")
    good = (videos / "5.mp4").read_bytes()
    (folder / "5.mp4").write_bytes(bytes(len(good)))
    prepare.main(arguments(folder, tmp_path / "dataset"))
    (folder / "5.mp4").write_bytes(good)
    prepare.main(arguments(folder, tmp_path / "dataset"))
    assert "5.mp4," in (tmp_path / "dataset" / "skipped.csv").read_text()
    before = written_at(tmp_path / "dataset")
    prepare.main(arguments(folder, tmp_path / "dataset", "--retry_skipped"))
    assert files(tmp_path / "dataset") == files(expected)
    # 3.mp4 was skipped too: both are of the training split.
    after = written_at(tmp_path / "dataset")
    assert {name for name in after if "test-" in name and after[name] != before[name]} == set()


def test_a_second_run_on_one_folder_is_refused(videos, clips, expected, tmp_path):
    make(clips, videos, tmp_path / "dataset")
    with output.held(tmp_path / "dataset"), pytest.raises(UserError, match="another prepare is at work in"):
        make(clips, videos, tmp_path / "dataset")
    make(clips, videos, tmp_path / "dataset")
    assert files(tmp_path / "dataset") == files(expected)
    with output.held(tmp_path / "empty"):
        assert (tmp_path / "empty").is_dir()
    assert not (tmp_path / "empty").exists()


def test_a_folder_that_cannot_be_made(videos, clips, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the folder .*/file/dataset cannot be made: Not a directory"):
        make(clips, videos, tmp_path / "file" / "dataset")


def test_another_preprocessing_is_refused_by_name(videos, clips, expected, tmp_path):
    before = files(expected)
    other = Preprocessing(short_side=64, jpeg_quality=80)
    with pytest.raises(UserError, match=r"short_side 32 instead of 64, jpeg_quality 95 instead of 80: choose another"):
        make(clips, videos, expected, preprocessing=other)
    assert files(expected) == before
    # The same holds for a folder that a killed run has left.
    (tmp_path / "unfinished.json").write_bytes((expected / "dataset.json").read_bytes())
    with pytest.raises(UserError, match="short_side 32 instead of 64"):
        make(clips, videos, tmp_path, preprocessing=other)


def test_folders_that_are_not_ours_are_refused(videos, clips, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"an empty folder or a dataset of ours.*'thesis\.tex'"):
        make(clips, videos, tmp_path)
    with pytest.raises(UserError, match=r"found the file .*thesis\.tex"):
        make(clips, videos, tmp_path / "thesis.tex")
    assert files(tmp_path) == {"thesis.tex": b"years of work"}
    (tmp_path / "thesis.tex").rename(tmp_path / "dataset.json")
    with pytest.raises(UserError, match=r"dataset\.json is not a description of a dataset"):
        make(clips, videos, tmp_path)
    (tmp_path / "dataset.json").write_text('{"format_version": 99, "preprocessing": {}}')
    with pytest.raises(UserError, match="format version 1 was expected, found 99"):
        make(clips, videos, tmp_path)


def test_no_readable_video_at_all(videos, tmp_path):
    bad = [AnnotatedClip(name=name, path=name, label="left", split="train") for name in ("3.mp4", "absent.mp4")]
    with pytest.raises(UserError, match=r"found none among 2: 3\.mp4, for one, is skipped because"):
        make(bad, videos, tmp_path)
    assert not (tmp_path / "dataset.json").exists()
    assert len((tmp_path / "skipped.csv").read_text().splitlines()) == 3


def test_clips_of_one_name_are_refused(videos, tmp_path):
    twice = [AnnotatedClip(name="a", path=path, label="left", split="train") for path in ("0.mp4", "1.mp4")]
    with pytest.raises(UserError, match="'a' listed twice"):
        make(twice, videos, tmp_path)


def die_of_number_five(job, clip):
    if clip.path == "5.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    return process(clip, job.videos, job.labels, job.preprocessing)


@pytest.mark.parametrize("workers", [{"processes": 2}, {"processes": 1, "isolated": True}])
def test_a_video_that_crashes_the_decoder_is_skipped(videos, clips, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(Job, "read", property(lambda job: functools.partial(die_of_number_five, job)))
    summary = make(clips, videos, tmp_path / "dataset", **workers)
    assert Skipped("5.mp4", "the decoder crashed") in summary.skipped
    assert summary.splits["train"].videos == 8


@pytest.mark.parametrize(("accelerator", "recipe"), [(True, "custom.py "), (False, "custom.py:small ")])
def test_the_command(videos, expected, tmp_path, capsys, monkeypatch, accelerator, recipe):
    monkeypatch.setattr(prepare, "has_accelerator", lambda: accelerator)
    prepare.main(arguments(videos, tmp_path / "dataset", "--processes", "1"))
    assert files(tmp_path / "dataset") == files(expected)
    output = capsys.readouterr().out
    assert "train: 9 videos with 222 frames in 2 shards, 2 skipped\n" in output
    assert "test: 4 videos with 126 frames in 2 shards, 0 skipped\n" in output
    assert "skipped absent.mp4: missing\n" in output
    assert f"experiments/{recipe}--config.data.directory={tmp_path / 'dataset'} --workdir" in output


def test_a_long_list_of_skipped_videos_is_cut(videos, tmp_path, capsys):
    rows = [f"absent{number}.mp4,left,train" for number in range(25)]
    (tmp_path / "labels.csv").write_text("\n".join(["video,label,split", "0.mp4,left,train", *rows]))
    more = ["--annotations", str(tmp_path / "labels.csv"), "--processes", "1"]
    prepare.main(arguments(videos, tmp_path / "dataset", *more))
    output = capsys.readouterr().out
    assert output.count(": missing\n") == 10
    assert "and 15 more in " in output


def test_several_annotation_files_count_as_one(videos, tmp_path):
    for split, number in [("train", 0), ("test", 1)]:
        (tmp_path / f"{split}.csv").write_text(f"video,label,split\n{number}.mp4,left,{split}\n")
    more = ["--annotations", *(str(tmp_path / f"{split}.csv") for split in ("train", "test")), "--processes", "1"]
    prepare.main(arguments(videos, tmp_path / "dataset", *more))
    assert set(open_dataset(tmp_path / "dataset").splits) == {"train", "test"}


def run_command(*words):
    return subprocess.run([sys.executable, "-m", "i3d_jax.prepare", *words], cwd=ROOT, capture_output=True, text=True)


def test_exit_codes(videos, tmp_path):
    missing = run_command(*arguments(videos, tmp_path / "dataset", "--annotations", str(tmp_path / "none.csv")))
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: an annotations file was expected at ")
    assert missing.stderr.count("\n") == 1
    wrong = run_command(*arguments(videos, tmp_path / "dataset", "--jpeg_quality", "101"))
    assert (wrong.returncode, wrong.stderr) == (2, "error: the JPEG quality must be 1 to 100, found 101\n")
    assert run_command(*arguments(videos, tmp_path / "dataset", "--processes", "0")).returncode == 2
    assert not (tmp_path / "dataset").exists()


def test_help_is_quick_to_come():
    code = (
        "import sys; from i3d_jax import prepare\n"
        "try: prepare.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'tensorflow', 'jax', 'av', 'cv2'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "python -m i3d_jax.prepare --annotations labels.csv --videos videos --output" in shown.stdout


def test_real_clips(real_videos, tmp_path):
    """Seven are written and two skipped, in two processes as in one."""
    clips = prepare.read("csv", real_videos / "labels.csv", real_videos)
    preprocessing = Preprocessing(short_side=64)
    summary = make(clips, real_videos, tmp_path / "one", shards=None, preprocessing=preprocessing)
    assert (summary.splits["train"].videos, summary.splits["train"].frames) == (7, 1297)
    corrupted, missing = summary.skipped
    assert corrupted.name == "corrupted.mp4"
    assert corrupted.reason.startswith("decoding fails after 28 frames")
    assert missing == Skipped("missing.mp4", "missing")
    make(clips, real_videos, tmp_path / "two", shards=None, preprocessing=preprocessing, processes=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
