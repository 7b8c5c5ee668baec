"""Names in other spellings: case, Unicode forms, blanks, and letters that look alike."""

import unicodedata

import pytest

from i3d_jax.data.labels import check_labels, spelt
from i3d_jax.ingest.annotations import ClassList, read
from i3d_jax.system.errors import UserError

COMPOSED, DECOMPOSED = "Zo\u00eb.mp4", "Zoe\u0308.mp4"


@pytest.fixture
def listed(tmp_path):
    """A function from a dialect, its file and names of videos to the clips."""

    def clips(dialect, files, videos, classes=None):
        (tmp_path / "videos").mkdir(exist_ok=True)
        for name in videos:
            (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "videos" / name).touch()
        paths = []
        for name, text in files.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
            paths.append(tmp_path / name)
        if classes:
            (tmp_path / "classes.txt").write_text(classes, encoding="utf-8")
            return read(dialect, paths[:1], tmp_path / "videos", ClassList.read([tmp_path / "classes.txt"]))
        return read(dialect, paths[:1], tmp_path / "videos")

    return clips


@pytest.mark.parametrize(
    ("named", "there", "found"),
    [
        (COMPOSED, [DECOMPOSED], DECOMPOSED),
        (DECOMPOSED, [COMPOSED], COMPOSED),
        (COMPOSED, [DECOMPOSED, COMPOSED], COMPOSED),
        ("video.mp4", ["VIDEO.MP4"], "VIDEO.MP4"),
        ("video.mp4", ["VIDEO.MP4", "video.mp4"], "video.mp4"),
        # The nearest: another form before another case.
        (COMPOSED, [DECOMPOSED, COMPOSED.upper()], DECOMPOSED),
        ("Stra\u00dfe/a.mp4", ["STRASSE/A.mp4"], "STRASSE/A.mp4"),
        ("./a.mp4", ["a.mp4"], "./a.mp4"),
        ("a/../B.mp4", ["a/x.mp4", "b.mp4"], "b.mp4"),
        ("c.mp4", ["a.mp4"], "c.mp4"),
    ],
)
def test_a_file_is_found_in_another_case_and_unicode_form(listed, named, there, found):
    (clip,) = listed("csv", {"l.csv": f"video,label,split\n{named},run,train\n"}, there)
    assert (clip.name, clip.path) == (named, found)


def test_the_lists_of_ucf101_and_hmdb51_find_files_in_another_case(listed):
    line = "HandstandPushups/v_HandStandPushups_g08_c01.avi 1\n"
    there = "HandstandPushups/v_HandstandPushups_g08_c01.avi"
    (clip,) = listed("ucf101", {"trainlist01.txt": line, "classInd.txt": "1 HandstandPushups\n"}, [there])
    assert (clip.path, clip.label) == (there, "HandstandPushups")
    (clip,) = listed("hmdb51", {"brush_hair_test_split1.txt": "Hair.avi 1\n"}, ["Brush_Hair/hair.MP4"])
    assert (clip.path, clip.label) == ("Brush_Hair/hair.MP4", "brush_hair")


def test_case_tells_videos_of_youtube_apart_and_says_nothing_of_a_container(listed):
    text = "label,youtube_id,time_start,time_end,split\nrun,aaaaaaaaaaB,0,10,train\n"
    assert listed("kinetics", {"k.csv": text}, ["aaaaaaaaaab_000000_000010.mp4"])[0].path == (
        "aaaaaaaaaaB_000000_000010.mp4"
    )
    assert listed("kinetics", {"k.csv": text}, ["aaaaaaaaaaB_000000_000010.MP4"])[0].path.endswith("10.MP4")


def test_what_is_ambiguous_or_one_file_twice_is_refused_with_the_line(listed):
    with pytest.raises(UserError, match=r"l.csv, line 2: there is no A.mp4, but a.MP4 and a.mp4 in .*videos"):
        listed("csv", {"l.csv": "video,label,split\nA.mp4,run,train\n"}, ["a.mp4", "a.MP4"])
    with pytest.raises(UserError, match=r"line 3: B.mp4 is listed twice, .*line 2 with the name 'b.mp4', here 'B.mp4'"):
        listed("csv", {"l.csv": "video,label,split\nb.mp4,run,train\nB.mp4,run,train\n"}, ["b.mp4"])


@pytest.mark.parametrize("other", ["cafe\u0301  noir", "caf\u00e9\u00a0noir", "\tcafe\u0301 noir "])
def test_one_label_has_one_spelling(listed, other):
    rows = f'video,label,split\na.mp4,caf\u00e9 noir,train\nb.mp4,"{other}",train\n'
    assert {clip.label for clip in listed("csv", {"l.csv": rows}, [])} == {"caf\u00e9 noir"}
    assert unicodedata.is_normalized("NFC", spelt(other))
    assert len(listed("csv", {"l.csv": rows}, [], classes="cafe\u0301_noir\n")) == 2


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["run", "ru\u200bn"], r"'run' and 'ru.u200bn'|'ru.u200bn' and 'run'"),
        (["cop", "\u0441\u043e\u0440"], r"'cop', which|u0441"),
        (["\uff52un", "run"], "uff52un"),
        (["fi", "\ufb01"], "ufb01"),
        (["\u200b"], "letters that are seen .*u200b"),
        (["a\x1b[31m"], "letters that are seen .*x1b"),
    ],
)
def test_labels_that_look_the_same_or_like_nothing_are_refused_by_name(labels, words):
    with pytest.raises(UserError, match=words):
        check_labels(labels)


def test_labels_that_look_different_are_not_refused():
    persian = "\u0645\u06cc\u200c\u062f\u0648\u062f"
    check_labels(["run", "Run", "bike", "\u0431\u0435\u0433", "\u559d\u6c34", "brush_hair", "brush hair", persian])
