"""Lists of classes: which clips they choose, the order of the labels, and every mistake."""

import pytest

from i3d_jax.ingest.annotations import ClassList, read
from i3d_jax.system.errors import UserError

KINETICS = """\
label,youtube_id,time_start,time_end,split
arm wrestling,aaaaaaaaaaa,0,10,train
zumba,bbbbbbbbb_b,0,10,train
bookbinding,ccccccccccc,0,10,train
arm wrestling,ddddddddddd,0,10,val
"""
CSV = "video,label,split\na.mp4,arm wrestling,train\nb.mp4,zumba,train\n"


@pytest.fixture
def chosen(tmp_path):
    """A function from a dialect, its annotations and lists of classes to the names of the clips, and the labels."""

    def choose(dialect, annotations, *lists):
        (tmp_path / "annotations.csv").write_text(annotations)
        files = [tmp_path / f"list{number}.txt" for number in range(len(lists))]
        for file, text in zip(files, lists, strict=True):
            file.write_text(text)
        classes = ClassList.read(files)
        clips = read(dialect, tmp_path / "annotations.csv", tmp_path, classes)
        return [clip.name[:11] for clip in clips], classes.order(clips)

    return choose


def test_kinetics_clips_of_other_classes_are_left_out(chosen):
    names, labels = chosen("kinetics", KINETICS, "# two of the three\n\nzumba\narm wrestling\n")
    assert names == ["aaaaaaaaaaa", "bbbbbbbbb_b", "ddddddddddd"]
    assert labels == ["zumba", "arm wrestling"]


def test_underscores_stand_for_blanks_and_the_annotations_spell_the_label(chosen):
    assert chosen("kinetics", KINETICS, "arm_wrestling\n") == (["aaaaaaaaaaa", "ddddddddddd"], ["arm wrestling"])
    assert chosen("csv", CSV.replace("arm ", "arm_"), "arm wrestling\nzumba")[1] == ["arm_wrestling", "zumba"]


def test_a_class_may_look_like_an_identifier(chosen):
    assert chosen("kinetics", KINETICS, "bookbinding\n") == (["ccccccccccc"], ["bookbinding"])


def test_the_lists_of_mini_kinetics_200_name_youtube_identifiers(chosen):
    names, labels = chosen("kinetics", KINETICS, "bbbbbbbbb_b\nzzzzzzzzzzz\n", "ddddddddddd\n")
    assert names == ["bbbbbbbbb_b", "ddddddddddd"]
    assert labels == ["arm wrestling", "zumba"]


@pytest.mark.parametrize(
    ("dialect", "annotations", "text", "words"),
    [
        ("csv", CSV, "arm wrestling\nzumbo\n", "csv, line 3: the label 'zumba' is not in .*nearest class is 'zumbo'"),
        ("csv", CSV, "zumba\narm wrestling\nabseiling", r"list0.txt, line 3: .*'abseiling'; the nearest label is '"),
        ("kinetics", KINETICS, "zumba\n\narm wresting", "list0.txt, line 3: .*'arm wresting'; .* 'arm wrestling'"),
        ("kinetics", KINETICS, "zumbas\n", "line 1: .*found 'zumbas' .*the nearest class is 'zumba'"),
        ("kinetics", KINETICS, "zumba\nzumba\n", "line 2: 'zumba' is listed twice, first in .*list0.txt, line 1"),
        ("kinetics", KINETICS, "arm_wrestling\narm wrestling\n", "line 2: .* is listed twice"),
        ("csv", CSV, "\n# none\n", "list0.txt: a class on each line was expected, found none"),
        ("csv", CSV, "", "list0.txt: lines of text were expected, found none"),
    ],
)
def test_mistakes(chosen, dialect, annotations, text, words):
    with pytest.raises(UserError, match=words):
        chosen(dialect, annotations, text)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"expected at .*none.txt, found nothing"):
        ClassList.read([tmp_path / "none.txt"])


def test_ucf101_a_class_that_no_list_has(tmp_path):
    (tmp_path / "trainlist01.txt").write_text("YoYo/a.avi 1\n")
    (tmp_path / "classes.txt").write_text("YoYo\nYo-Yo\n")
    with pytest.raises(UserError, match=r"classes.txt, line 2: no clip shows the class 'Yo-Yo'; .* 'YoYo'"):
        read("ucf101", tmp_path, tmp_path, ClassList.read([tmp_path / "classes.txt"]))
