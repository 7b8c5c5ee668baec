"""`prepare --check`: what is there, missing and unreadable, and how far from the published counts."""

import numpy as np
import pytest

from i3d_jax import prepare
from i3d_jax.ingest.annotations import read
from i3d_jax.ingest.check import SplitCheck, check, report
from i3d_jax.ingest.published_counts import Spec
from i3d_jax.system.errors import UserError
from i3d_jax.video.write import write_video

SPEC = Spec(name="tiny", dialect="csv", classes=3, splits={"train": 6, "val": 1}, source="this test")
NOT_A_VIDEO = "it cannot be opened as a video: it is of no format that FFmpeg knows, or damaged at its beginning"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten seconds of a video, its copies, and files that are none, with labels.csv beside them."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", np.zeros((10, 32, 32, 3), np.uint8), 1)
    whole = (folder / "a.mp4").read_bytes()
    (folder / "b c'Ü.mp4").write_bytes(whole)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    (folder / "cut.mp4").write_bytes(whole[:100])
    (folder / "subtitles.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    (folder / "folder.mp4").mkdir()
    (folder / "labels.csv").write_text(
        "video,label,split,start,end\n"
        "a.mp4,x,train,,\nb c'Ü.mp4,y,train,,\nabsent.mp4,x,train,,\nempty.mp4,x,train,,\ntext.mp4,x,train,,\n"
        "cut.mp4,x,train,,\nsubtitles.srt,x,train,,\nfolder.mp4,x,train,,\n"
        "a.mp4,x,val,9,12\na.mp4,x,val,10,20\n"
    )
    return folder


@pytest.fixture(scope="module")
def clips(videos):
    return read("csv", videos / "labels.csv", videos)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_found(videos, clips, processes):
    found = check(clips, videos, processes=processes)
    assert found.splits == {
        "train": SplitCheck(listed=8, there=2, missing=2, unreadable=4),
        "val": SplitCheck(listed=2, there=1, missing=0, unreadable=1),
    }
    assert found.classes == 2
    assert [(skipped.name, skipped.reason) for skipped in found.skipped] == [
        ("absent.mp4", "missing"),
        ("empty.mp4", "the file is empty"),
        ("text.mp4", NOT_A_VIDEO),
        ("cut.mp4", NOT_A_VIDEO),
        ("subtitles.srt", "it has no video stream"),
        ("folder.mp4", "missing"),
        ("a.mp4#t=10,20", "it ends before the piece starts at 10 s"),
    ]


def test_the_report(videos, clips):
    lines = report(check(clips, videos, processes=1), SPEC)
    assert lines[:5] == [
        "train: 8 listed, 2 there, 2 missing, 4 unreadable; published 6 (2 more listed)",
        "val: 2 listed, 1 there, 0 missing, 1 unreadable; published 1 (1 more listed)",
        "classes: 2 listed; published 3 (1 fewer listed)",
        "published: this test",
        "  absent.mp4: missing",
    ]
    assert len(lines) == 11


def test_the_report_names_ten_at_most(videos):
    rows = "".join(f"{number}.mp4,x,train\n" for number in range(12))
    (videos / "absent.csv").write_text("video,label,split\n" + rows)
    found = check(read("csv", videos / "absent.csv", videos), videos, processes=1)
    lines = report(found, None)
    assert lines[:2] == ["train: 12 listed, 0 there, 12 missing, 0 unreadable", "classes: 1 listed"]
    assert lines[2:] == [*(f"  {number}.mp4: missing" for number in range(10)), "  and 2 more"]


def test_a_video_counts_in_each_of_its_splits(videos, tmp_path):
    (tmp_path / "trainlist01.txt").write_text("A/a.mp4 1\nA/absent.avi 1\n")
    (tmp_path / "testlist02.txt").write_text("A/a.mp4\n")
    found = check(read("ucf101", tmp_path, videos), videos, processes=1)
    assert {split: (counts.there, counts.missing) for split, counts in found.splits.items()} == {
        "test02": (1, 0),
        "train01": (1, 1),
    }


def arguments(videos, annotations, *more):
    return ["--check", "--annotations", str(annotations), "--videos", str(videos), "--processes", "1", *more]


def test_the_command_writes_nothing_and_its_exit_code_says_whether_all_is_there(videos, tmp_path, capsys):
    before = sorted(videos.iterdir())
    (tmp_path / "good.csv").write_text("video,label,split\na.mp4,x,train\n")
    output = ["--output", str(tmp_path / "dataset")]
    assert prepare.main(arguments(videos, tmp_path / "good.csv", *output)) == 0
    assert capsys.readouterr().out == "train: 1 listed, 1 there, 0 missing, 0 unreadable\nclasses: 1 listed\n"
    assert prepare.main(arguments(videos, videos / "labels.csv")) == 2
    assert sorted(videos.iterdir()) == before
    assert not (tmp_path / "dataset").exists()


def test_the_command_compares_with_the_dataset_of_the_dialect_or_of_the_option(videos, tmp_path, capsys):
    (tmp_path / "trainlist01.txt").write_text("A/a.mp4 1\n")
    assert prepare.main(arguments(videos, tmp_path, "--dialect", "ucf101")) == 0
    train, classes, source = capsys.readouterr().out.splitlines()
    assert train == "train01: 1 listed, 1 there, 0 missing, 0 unreadable; published 9537 (9536 fewer listed)"
    assert classes == "classes: 1 listed; published 101 (100 fewer listed)"
    assert "crcv.ucf.edu" in source
    file = tmp_path / "validate.csv"
    file.write_text("label,youtube_id,time_start,time_end,split\nx,a,2,5,validate\n")
    assert prepare.main(arguments(videos, file, "--dialect", "kinetics")) == 0
    assert "add --spec kinetics400 or kinetics600" in capsys.readouterr().out
    assert prepare.main(arguments(videos, file, "--dialect", "kinetics", "--spec", "kinetics400")) == 0
    assert "published 19906 (19905 fewer listed)" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("options", [[], ["--output", "x", "--spec", "ucf101"]])
def test_the_command_needs_an_output_without_check_and_a_check_with_spec(videos, options):
    with pytest.raises(UserError, match="--check"):
        prepare.main(["--annotations", str(videos / "labels.csv"), "--videos", str(videos), *options])


@pytest.mark.parametrize("more", [[], ["--output", "x"]])
def test_one_class_alone_is_said(videos, tmp_path, monkeypatch, capsys, more):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.csv").write_text("video,label,split\na.mp4,jump,train\nb c'Ü.mp4,jump,test\n")
    where = ["--annotations", "one.csv", "--videos", str(videos)]
    assert prepare.main([*where, *(more or ["--check"])]) == 0
    assert "note: the annotations have one class alone, 'jump'; " in capsys.readouterr().err


def test_mistakes_in_the_annotations_are_told_as_ever(videos, tmp_path):
    with pytest.raises(UserError, match="found nothing"):
        prepare.main(arguments(videos, tmp_path / "none.csv"))
