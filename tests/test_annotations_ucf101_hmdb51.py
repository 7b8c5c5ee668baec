"""The lists of UCF-101 and HMDB-51: splits that overlap, labels, files in either layout, and every mistake."""

import pytest

from i3d_jax.ingest.annotations import AnnotatedClip, combined_splits, read
from i3d_jax.system.errors import UserError


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


@pytest.fixture
def lists(tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    return folder


def write(lists, **texts):
    """Writes NAME.txt for each text and returns their paths in this order."""
    for name, text in texts.items():
        (lists / f"{name}.txt").write_text(text, newline="")
    return [lists / f"{name}.txt" for name in texts]


def add_file(videos, path):
    (videos / path).parent.mkdir(parents=True, exist_ok=True)
    (videos / path).touch()


CLASSES = "1 ApplyEyeMakeup\r\n2 YoYo\r\n"


def test_ucf101(lists, videos):
    write(lists, classInd=CLASSES)
    files = write(
        lists,
        trainlist01="ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\nYoYo/v_YoYo_g08_c01.avi 2\r\n",
        testlist01="ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n",
    )
    add_file(videos, "YoYo/v_YoYo_g08_c01.avi")
    add_file(videos, "v_ApplyEyeMakeup_g01_c01.mp4")  # Flat, and in another container.
    makeup = "ApplyEyeMakeup/v_ApplyEyeMakeup_g0{}_c01.avi"
    assert read("ucf101", files, videos) == [
        AnnotatedClip(
            name=makeup.format(8),
            path=makeup.format(8),  # It is not there.
            label="ApplyEyeMakeup",
            split="train01",
            splits=("train01",),
        ),
        AnnotatedClip(
            name="YoYo/v_YoYo_g08_c01.avi",
            path="YoYo/v_YoYo_g08_c01.avi",
            label="YoYo",
            split="train01",
            splits=("train01",),
        ),
        AnnotatedClip(
            name=makeup.format(1),
            path="v_ApplyEyeMakeup_g01_c01.mp4",
            label="ApplyEyeMakeup",
            split="test01",
            splits=("test01",),
        ),
    ]


def test_a_video_of_several_splits_is_one_clip(lists, videos):
    write(
        lists,
        trainlist01="A/a.avi 1\nA/b.avi 1\n",
        testlist01="A/c.avi\n",
        trainlist02="A/a.avi 1\nA/c.avi 1\n",
        testlist02="A/b.avi\n",
        trainlist03="A/b.avi 1\nA/c.avi 1\n",
        testlist03="A/a.avi\n",
        classInd="1 A\n",
        unrelated="A/a.avi",
    )
    clips = {clip.name: clip for clip in read("ucf101", lists, videos)}
    assert {name: clip.split for name, clip in clips.items()} == {
        "A/a.avi": "test03_train01_train02",
        "A/b.avi": "test02_train01_train03",
        "A/c.avi": "test01_train02_train03",
    }
    assert clips["A/a.avi"].splits == ("test03", "train01", "train02")
    combined = combined_splits(clips.values())
    assert combined["train02"] == ["test01_train02_train03", "test03_train01_train02"]
    assert combined["test02"] == ["test02_train01_train03"]
    assert set(combined) == {f"{half}0{number}" for half in ("train", "test") for number in (1, 2, 3)}


def test_a_published_split_may_be_named_as_a_stored_one(lists, videos):
    write(lists, trainlist01="A/a.avi 1\nA/b.avi 1\n", trainlist02="A/b.avi 1\n")
    assert combined_splits(read("ucf101", lists, videos)) == {
        "train01": ["train01", "train01_train02"],
        "train02": ["train01_train02"],
    }


def test_other_dialects_have_no_combined_splits():
    assert combined_splits([AnnotatedClip(name="a", path="a", label="x", split="train01_test02")]) == {}


@pytest.mark.parametrize("names", [('it\'s a "test" .. 1', "Köln 跑"), ("same", "same")])
def test_ucf101_names_of_any_kind(lists, videos, names):
    for folder, name in zip("AB", names, strict=True):
        add_file(videos, f"{folder}/{name}.avi")
    write(lists, trainlist01=f"A/{names[0]}.avi 1\nB/{names[1]}.avi 2\n")
    clips = read("ucf101", lists, videos)
    assert [clip.name for clip in clips] == [clip.path for clip in clips] == [f"A/{names[0]}.avi", f"B/{names[1]}.avi"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("v_YoYo_g01_c01.avi 2", "CLASS/NAME.avi, perhaps with the class's number, was expected"),
        ("YoYo/v_YoYo_g01_c01 2", "CLASS/NAME.avi"),
        ("YoYo/v_YoYo_g01_c01.avi two", "CLASS/NAME.avi"),
        (
            "YoYo/v_YoYo_g01_c01.avi 1",
            "number 1 is 'ApplyEyeMakeup' in classInd.txt, the video is in the folder 'YoYo'",
        ),
        ("YoYo/v_YoYo_g01_c01.avi 3", "number 3 is no class in classInd.txt"),
        ("YoYos/v_YoYo_g01_c01.avi 2", "classInd.txt has no class 'YoYos'; the nearest is 'YoYo'"),
        ("YoYo/../../x.avi 2", "a path of a file inside the videos folder was expected, found 'YoYo/../../x.avi'"),
        ("YoYo/first.avi 2", "YoYo/first.avi is listed twice, first in .*trainlist01.txt, line 1$"),
    ],
)
def test_ucf101_mistakes(lists, videos, line, words):
    write(lists, classInd=CLASSES, trainlist01=f"YoYo/first.avi 2\n\n{line}\n")
    with pytest.raises(UserError, match=f"trainlist01.txt, line 3: .*{words}"):
        read("ucf101", lists, videos)


def test_ucf101_a_video_in_both_halves_of_a_split(lists, videos):
    write(lists, testlist01="A/a.avi\n", trainlist01="A/a.avi 1\n")
    with pytest.raises(UserError, match=r"A/a.avi is listed twice, first in .*with the split 'test01', here 'train01'"):
        read("ucf101", lists, videos)


def test_ucf101_two_videos_with_one_file(lists, videos):
    add_file(videos, "same.avi")
    write(lists, trainlist01="A/same.avi 1\nB/same.avi 2\n")
    with pytest.raises(UserError, match=r"line 2: B/same.avi is found at same.avi, and so is A/same.avi of .*line 1"):
        read("ucf101", lists, videos)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 A\nB\n", "line 2: a number and the name of a class were expected, found 'B'"),
        ("1 A\n1 B\n", "line 2: class 1 'B' is listed twice"),
        ("\n", "lines of text were expected, found none"),
    ],
)
def test_ucf101_mistakes_in_the_file_of_classes(lists, videos, text, words):
    write(lists, classInd=text, trainlist01="A/a.avi 1\n")
    with pytest.raises(UserError, match=f"classInd.txt.*{words}"):
        read("ucf101", lists, videos)


def test_hmdb51(lists, videos):
    add_file(videos, "brush_hair/#1 of it's.avi")
    add_file(videos, "wave/wave_2.avi")
    write(
        lists,
        brush_hair_test_split1="#1 of it's.avi 1 \nb.avi 2 \nc.avi 0 \n",
        brush_hair_test_split2="#1 of it's.avi 2 \nb.avi 0 \nc.avi 0 \n",
        wave_test_split1="wave_2.avi 0 \n",
        wave_test_split2="wave_2.avi 1 \n",
    )
    name = "brush_hair/#1 of it's.avi"
    assert read("hmdb51", lists, videos) == [
        AnnotatedClip(name=name, path=name, label="brush_hair", split="test02_train01", splits=("test02", "train01")),
        AnnotatedClip(
            name="brush_hair/b.avi", path="brush_hair/b.avi", label="brush_hair", split="test01", splits=("test01",)
        ),
        AnnotatedClip(
            name="wave/wave_2.avi", path="wave/wave_2.avi", label="wave", split="train02", splits=("train02",)
        ),
    ]


def test_hmdb51_one_file_alone_keeps_the_number_of_its_split(lists, videos):
    (file,) = write(lists, wave_test_split3="a.avi 1\nb.avi 2\n")
    assert [clip.split for clip in read("hmdb51", file, videos)] == ["train03", "test03"]


@pytest.mark.parametrize("line", ["a.avi", "a.avi 3", "a.avi one", "a b.avi", "2"])
def test_hmdb51_mistakes(lists, videos, line):
    write(lists, wave_test_split1=f"first.avi 1\n{line}\n")
    with pytest.raises(UserError, match=rf"wave_test_split1.txt, line 2: .*a mark of 0, 1 or 2 .* found '{line}'"):
        read("hmdb51", lists, videos)


def test_hmdb51_contradictions(lists, videos):
    write(lists, wave_test_split1="a.avi 1\na.avi 2\n")
    with pytest.raises(UserError, match=r"line 2: wave/a.avi is listed twice, .*split 'train01', here 'test01'"):
        read("hmdb51", lists, videos)
    write(lists, wave_test_split1="a.avi 0\n")
    with pytest.raises(UserError, match="at least one video of a split was expected, found none"):
        read("hmdb51", lists, videos)


@pytest.mark.parametrize(
    ("dialect", "name", "words"),
    [
        ("ucf101", "trainlist1", "a name like trainlist01.txt or testlist01.txt was expected, which says the split"),
        ("ucf101", "train", "a name like trainlist01.txt"),
        ("hmdb51", "_test_split1", "a name like brush_hair_test_split1.txt was expected, which says class and split"),
        ("hmdb51", "wave_split1", "a name like brush_hair_test_split1.txt"),
    ],
)
def test_a_name_that_says_nothing(lists, videos, dialect, name, words):
    (file,) = write(lists, **{name: "A/a.avi 1\n"})
    with pytest.raises(UserError, match=f"{name}.txt: {words}"):
        read(dialect, file, videos)
    with pytest.raises(UserError, match=r"files named like .*1\.txt were expected in the folder .*, found none"):
        read(dialect, lists, videos)
    with pytest.raises(UserError, match=r"expected at .*absent, found nothing"):
        read(dialect, lists / "absent", videos)
