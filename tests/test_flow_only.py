"""Flow added to a dataset that was prepared without it: the same bytes as preparing with flow at once."""

import json
import os
import shutil

import pytest
from helpers.flow_videos import files, run, write_videos

from i3d_jax import prepare
from i3d_jax.system.errors import UserError

OPENCV = ("--flow_backend", "opencv")
ADD = (*OPENCV, "--flow_only")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), 6)


@pytest.fixture(scope="module")
def plain(videos, tmp_path_factory):
    return run(videos, tmp_path_factory.mktemp("plain") / "dataset", "--shards", "2")


@pytest.fixture(scope="module")
def with_flow(videos, tmp_path_factory):
    return run(videos, tmp_path_factory.mktemp("flow") / "dataset", "--shards", "2", "--flow", "tvl1", *OPENCV)


@pytest.fixture
def directory(plain, tmp_path):
    """A copy of the dataset without flow."""
    return shutil.copytree(plain, tmp_path / "dataset")


def test_adding_flow_is_preparing_with_flow(videos, with_flow, directory):
    run(videos, directory, *ADD)
    assert files(directory) == files(with_flow)
    assert 'still.mkv,"it has one frame' in (directory / "skipped.csv").read_text()


def test_other_options_than_the_usual_are_kept(videos, tmp_path):
    folders = ["--annotations", str(videos / "labels.csv"), "--videos", str(videos), "--processes", "1"]
    options = ["--short_side", "24", "--frame_rate", "12.5", "--jpeg_quality", "70", "--shards", "3", "--name", "other"]
    prepare.main([*folders, "--output", str(tmp_path / "a"), *options])
    prepare.main([*folders, "--output", str(tmp_path / "a"), *ADD])
    prepare.main([*folders, "--output", str(tmp_path / "b"), *options, "--flow", "tvl1", *OPENCV])
    assert files(tmp_path / "a") == files(tmp_path / "b")


class Interrupted(BaseException):
    """Neither an error nor the user's own interruption."""


def interrupted(monkeypatch, moment, videos, directory, *more):
    """Runs the command and ends it just before it gives the file of this number its name."""
    rename, count = os.replace, 0

    def counted(*paths):
        nonlocal count
        count += 1
        if count == moment:
            raise Interrupted
        rename(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted)
        with pytest.raises(Interrupted):
            run(videos, directory, *more)


# unfinished.json, then two files for each of the four shards, skipped.csv and dataset.json.
@pytest.mark.parametrize("moment", [1, 2, 3, 8, 10, 11])
def test_interrupted_it_goes_on(videos, with_flow, directory, monkeypatch, moment):
    interrupted(monkeypatch, moment, videos, directory, *ADD)
    assert (directory / "dataset.json").exists() == (moment == 1)
    run(videos, directory, *ADD)
    assert files(directory) == files(with_flow)


def test_a_folder_with_the_flow_is_left_alone(videos, with_flow, capsys):
    written = {path: path.stat().st_mtime_ns for path in with_flow.rglob("*")}
    run(videos, with_flow, *ADD)
    assert "has this flow already: nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in with_flow.rglob("*")} == written


def test_a_folder_with_the_flow_retries_what_was_skipped_when_asked_for(videos, with_flow, tmp_path):
    directory = shutil.copytree(with_flow, tmp_path / "dataset")
    before = {path: path.stat().st_mtime_ns for path in directory.glob("*.tfrecord")}
    run(videos, directory, *ADD, "--retry_skipped")
    assert files(directory) == files(with_flow)
    again = {path.name.partition("-")[0] for path in before if path.stat().st_mtime_ns != before[path]}
    # Both videos that are skipped are of the training split.
    assert again == {"train"}


def refused(videos, directory, message, *more):
    before = files(directory) if directory.is_dir() else None
    with pytest.raises(UserError, match=message):
        run(videos, directory, *ADD, *more)
    assert (files(directory) if directory.is_dir() else None) == before


def test_a_folder_without_a_dataset(videos, tmp_path):
    refused(videos, tmp_path / "none", r"a dataset folder was expected at .*none, found nothing")
    refused(videos, tmp_path, r"is not a dataset folder")


def test_an_unfinished_dataset(videos, tmp_path, monkeypatch):
    interrupted(monkeypatch, 4, videos, tmp_path / "dataset")
    refused(videos, tmp_path / "dataset", "is not finished: start prepare again without --flow_only first")


def test_another_flow(videos, with_flow, tmp_path):
    directory = shutil.copytree(with_flow, tmp_path / "dataset")
    description = json.loads((directory / "dataset.json").read_text())
    description["preprocessing"]["flow"]["version"] = "4.1"
    (directory / "dataset.json").write_text(json.dumps(description))
    refused(videos, directory, r"holds a dataset made with flow\.version '4\.1' instead of ")


def test_flow_begun_by_another_backend(videos, directory, monkeypatch):
    interrupted(monkeypatch, 4, videos, directory, *ADD)
    refused(videos, directory, "flow.implementation 'opencv' instead of 'i3d_jax'", "--flow_backend", "jax")


def test_other_videos(videos, directory, tmp_path):
    own = shutil.copytree(videos, tmp_path / "videos")
    (own / "1.mkv").write_bytes((own / "2.mkv").read_bytes())
    refused(own, directory, r"other annotations or videos than there are now, its shard t.*-of-00002\.tfrecord for one")


def test_videos_that_change_while_flow_is_added(videos, directory, tmp_path, monkeypatch):
    own = shutil.copytree(videos, tmp_path / "videos")
    interrupted(monkeypatch, 6, videos, directory, *ADD)
    for path in own.glob("[0-9].mkv"):
        path.write_bytes((own / "5.mkv").read_bytes())
    refused(own, directory, "other annotations or videos than there are now")


def test_other_annotations(videos, directory, tmp_path):
    own = shutil.copytree(videos, tmp_path / "videos")
    rows = (own / "labels.csv").read_text()
    (own / "labels.csv").write_text(rows.replace("1.mkv,right", "1.mkv,left"))
    refused(own, directory, "other annotations or videos than there are now")
    (own / "labels.csv").write_text(rows.replace("1.mkv,right", "1.mkv,up"))
    refused(own, directory, "has no label 'up', the annotations have")
    (own / "labels.csv").write_text(rows.replace(",test", ",validation"))
    refused(own, directory, "has the splits test, train, the annotations have train, validation")


def test_other_options_are_refused(videos, directory):
    refused(
        videos, directory, "--flow_only keeps the --short_side 48 of .*, found --short_side 64", "--short_side", "64"
    )
    refused(videos, directory, "--flow_only keeps the --shards 2 of .*, found --shards 3", "--shards", "3")


def test_videos_and_annotations_that_changed_after_the_flow_was_made(videos, with_flow, tmp_path):
    own, directory = shutil.copytree(videos, tmp_path / "videos"), shutil.copytree(with_flow, tmp_path / "dataset")
    rows = (own / "labels.csv").read_text()
    (own / "labels.csv").write_text(rows.replace("1.mkv,right", "1.mkv,left"))
    refused(own, directory, "other annotations or videos than there are now")


def test_the_number_of_shards_is_kept_and_with_it_what_was_made(tmp_path):
    """Where the user names none: of 21 videos with flow there would be two shards, without there is one."""
    videos = write_videos(tmp_path / "videos", 22)
    directory = run(videos, tmp_path / "dataset")
    assert (directory / "train-00000-of-00001.tfrecord").exists()
    run(videos, directory, *ADD)
    flow = {path: path.stat().st_mtime_ns for path in directory.glob("*.tfrecord")}
    shutil.copy(videos / "0.mkv", videos / "new.mkv")
    rows = (videos / "labels.csv").read_text()
    (videos / "labels.csv").write_text(rows + "\nnew.mkv,left,test")
    run(videos, directory, "--flow", "tvl1", *OPENCV)
    after = {path: path.stat().st_mtime_ns for path in directory.glob("*.tfrecord")}
    assert after.keys() == flow.keys()
    # Only that of the test split, in which there is a video more.
    assert [path.name for path in flow if after[path] != flow[path]] == ["test-00000-of-00001.tfrecord"]
