"""Annotations: the dialects csv and kinetics, and every mistake told with the file and the line."""

import pytest

from i3d_jax.ingest.annotations import AnnotatedClip, read
from i3d_jax.system.errors import UserError


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def write(tmp_path, text, encoding="utf-8"):
    file = tmp_path / "labels.csv"
    file.write_bytes(text.encode(encoding))
    return file


def add_file(videos, path):
    (videos / path).parent.mkdir(parents=True, exist_ok=True)
    (videos / path).touch()


def test_csv_whole_videos_and_pieces(tmp_path, videos):
    file = write(
        tmp_path,
        "video,label,split,start,end\n"
        "a/soup.mp4,stirring,train,,\n"
        "long.mp4,chopping,test,2.5,7.25\n"
        "long.mp4,slicing,test,10,\n"
        "long.mp4,peeling,test,,2\n",
    )
    assert read("csv", file, videos) == [
        AnnotatedClip(name="a/soup.mp4", path="a/soup.mp4", label="stirring", split="train"),
        AnnotatedClip(name="long.mp4#t=2.5,7.25", path="long.mp4", label="chopping", split="test", start=2.5, end=7.25),
        AnnotatedClip(name="long.mp4#t=10", path="long.mp4", label="slicing", split="test", start=10.0),
        AnnotatedClip(name="long.mp4#t=,2", path="long.mp4", label="peeling", split="test", end=2.0),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_csv_accepts_what_spreadsheets_write(tmp_path, videos, encoding, line_end):
    rows = [
        "split, video ,note,label",
        'train,"my ""best"" clip, two.mp4",x,"wash, rinse"',
        "",
        "val_2, Köln 1.avi,,喝水 ",
    ]
    clips = read("csv", write(tmp_path, line_end.join(rows), encoding), videos)
    assert [(clip.path, clip.label, clip.split) for clip in clips] == [
        ('my "best" clip, two.mp4', "wash, rinse", "train"),
        ("Köln 1.avi", "喝水", "val_2"),
    ]


def test_a_symbolic_link_may_lead_out_of_the_folder(tmp_path, videos):
    (tmp_path / "elsewhere.mp4").touch()
    (videos / "link.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    (clip,) = read("csv", write(tmp_path, "video,label,split\nlink.mp4,a,train\n"), videos)
    assert clip.path == "link.mp4"


HEADER = "video,label,split,start,end\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("video,label\na.mp4,b\n", None, "split missing, found video, label"),
        ("", None, "video, label, split missing, found none"),
        ('",video\na.mp4,b\n' + 99 * "c.mp4,d\n", None, "split missing, found ,video a.mp4,b c.mp4,d c.mp4,d"),
        (HEADER, None, "a row for each video was expected, found none"),
        (HEADER + "a.mp4,x,train,,\nb.mp4, ,train,,\n", 3, "a label was expected"),
        (HEADER + "a.mp4,x\n", 2, "a split was expected"),
        (HEADER + "a.mp4,x,my/split,,\n", 2, "'my/split'"),
        (HEADER + ",x,train,,\n", 2, "the path of a video was expected"),
        (HEADER + "a.mp4,x,train,,\n./a.mp4,y,train,,\n", 3, "line 2 with the label 'x', here 'y'"),
        (HEADER + "a.mp4,x,train,,\na.mp4,x,test,,\n", 3, "line 2 with the split 'train', here 'test'"),
        (HEADER + "a.mp4,x,train,1,2\na.mp4,x,train,1.0,2.0\n", 3, "listed twice"),
        (HEADER + "/etc/a.mp4,x,train,,\n", 2, "'/etc/a.mp4'"),
        (HEADER + "b/../../a.mp4,x,train,,\n", 2, "inside the videos folder"),
        (HEADER + "a.mp4,x,train,5,3\n", 2, "found 5 and 3"),
        (HEADER + "a.mp4,x,train,,0\n", 2, "found 0 and 0"),
        (HEADER + "a.mp4,x,train,soon,\n", 2, "start must be a number of seconds, 0 or more, found 'soon'"),
        (HEADER + "a.mp4,x,train,-1,\n", 2, "found '-1'"),
        (HEADER + "a.mp4,x,train,1,nan\n", 2, "end must be"),
        (HEADER + "a.mp4,wash, rinse,train,,\n", 2, "5 fields were expected, found 6"),
        (HEADER + "a.mp4,\0,train,,\n", None, "binary"),
    ],
)
def test_mistakes_name_the_file_and_the_line(tmp_path, videos, text, line, words):
    file = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        read("csv", file, videos)
    where = f"{file}, line {line}: " if line else f"{file}: "
    assert str(error.value).startswith(where)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(where) + 300


def test_mistakes_before_the_first_line(tmp_path, videos):
    file = write(tmp_path, "video,label,split\na.mp4,Köln,train\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"UTF-8 was expected.* at byte 25"):
        read("csv", file, videos)
    with pytest.raises(UserError, match=r"annotations file was expected at .*none\.csv, found nothing"):
        read("csv", tmp_path / "none.csv", videos)
    with pytest.raises(UserError, match="found a folder"):
        read("csv", videos, videos)
    with pytest.raises(UserError, match=r"folder of videos was expected at .*absent, found nothing"):
        read("csv", file, tmp_path / "absent")
    with pytest.raises(UserError, match="csv, kinetics, ucf101, hmdb51, found 'ava'"):
        read("ava", file, videos)


KINETICS = "label,youtube_id,time_start,time_end,split,is_cc\n"


@pytest.mark.parametrize(
    "path",
    [
        "-abc_1_000007_000017.mp4",
        "dancing ballet/-abc_1_000007_000017.mkv",
        "dancing_ballet/-abc_1_000007_000017.webm",
        "validate/-abc_1_000007_000017.avi",
        "val/dancing_ballet/-abc_1_000007_000017.mov",
        "validation/dancing ballet/-abc_1_000007_000017.mp4",  # FiftyOne
        "videos_val/dancing_ballet/-abc_1_000007_000017.mp4",  # MMAction2
        "videos/val/dancing ballet/-abc_1_000007_000017.mp4",  # CVDF, arranged by classes
    ],
)
def test_kinetics_finds_clips_that_are_cut_already(tmp_path, videos, path):
    add_file(videos, path)
    add_file(videos, "-abc_1.mp4")  # The whole video beside it is not needed.
    file = write(tmp_path, KINETICS + "dancing ballet,-abc_1,7,17,validate,0\n")
    (clip,) = read("kinetics", file, videos)
    assert clip == AnnotatedClip(name="-abc_1_000007_000017", path=path, label="dancing ballet", split="validate")


def test_kinetics_folders_without_quotes_and_brackets(tmp_path, videos):
    path = "train/punching_persons_boxing/abc_000000_000010.mp4"  # torchvision
    add_file(videos, path)
    file = write(tmp_path, KINETICS + "punching person's (boxing),abc,0,10,train,0\n")
    (clip,) = read("kinetics", file, videos)
    assert (clip.path, clip.label) == (path, "punching person's (boxing)")


def test_kinetics_prefers_the_replacement_of_a_damaged_file(tmp_path, videos):
    path = "replacement/replacement_for_corrupted_k400/abc_000000_000010.mp4"  # CVDF
    for one in (path, "train/abc_000000_000010.mp4"):
        add_file(videos, one)
    (clip,) = read("kinetics", write(tmp_path, KINETICS + "singing,abc,0,10,train,0\n"), videos)
    assert clip.path == path


def test_kinetics_without_is_cc_and_in_several_files(tmp_path, videos):
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text(
            f"label,youtube_id,time_start,time_end,split\nsinging,{split}1,0,10,{split}\n"
        )
    clips = read("kinetics", [tmp_path / "train.csv", tmp_path / "val.csv"], videos)
    assert [(clip.name, clip.split) for clip in clips] == [
        ("train1_000000_000010", "train"),
        ("val1_000000_000010", "val"),
    ]
    with pytest.raises(UserError, match=r"train.csv, line 2: .* is listed twice, first in .*train.csv, line 2"):
        read("kinetics", [tmp_path / "train.csv"] * 2, videos)


@pytest.mark.parametrize("split", ["test", "holdout_test"])
def test_kinetics_lists_without_labels_are_refused(tmp_path, videos, split):
    file = write(tmp_path, f"youtube_id,time_start,time_end,split\n--65_UAU7ao,0,10,{split}\n")
    with pytest.raises(UserError, match=r"labels.csv: the column label is missing, as in the test lists"):
        read("kinetics", file, videos)


def test_kinetics_cuts_whole_videos(tmp_path, videos):
    add_file(videos, "train/singing/xyz.mkv")
    file = write(tmp_path, KINETICS + "singing,xyz,7,17,train,0\nsinging,xyz,30,40,train,0\n")
    whole = {"path": "train/singing/xyz.mkv", "label": "singing", "split": "train"}
    assert read("kinetics", file, videos) == [
        AnnotatedClip(name="xyz_000007_000017", start=7.0, end=17.0, **whole),
        AnnotatedClip(name="xyz_000030_000040", start=30.0, end=40.0, **whole),
    ]


def test_kinetics_keeps_the_canonical_name_of_a_clip_that_is_not_there(tmp_path, videos):
    add_file(videos, "xyz_000007_000017.mp4.part")  # An unfinished download.
    (clip,) = read("kinetics", write(tmp_path, KINETICS + "singing,xyz,7,17,train,0\n"), videos)
    assert clip == AnnotatedClip(name="xyz_000007_000017", path="xyz_000007_000017.mp4", label="singing", split="train")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("singing,,7,17,train,0", "found an empty one"),
        ("singing,xyz,7,,train,0", "found an empty one"),
        ("singing,xyz,17,7,train,0", "found 17 and 7"),
        ("singing,../xyz,7,17,train,0", "inside the videos folder"),
        ("singing,abc,1,2,train,0", "abc_000001_000002 is listed twice"),
    ],
)
def test_kinetics_mistakes(tmp_path, videos, row, words):
    file = write(tmp_path, f"{KINETICS}singing,abc,1,2,train,0\n{row}\n")
    with pytest.raises(UserError, match=f"line 3.*{words}"):
        read("kinetics", file, videos)
