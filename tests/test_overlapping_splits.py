"""A miniature UCF-101 and HMDB-51 from their files to batches: videos are stored once, every split reads its own."""

import json

import numpy as np
import pytest

from i3d_jax import clips, prepare
from i3d_jax.data import pipeline
from i3d_jax.data.dataset import open_dataset
from i3d_jax.video.write import write_video

# Videos of each split; "same.avi" is in two folders, one name has blanks, a quote and a letter beyond ASCII.
UCF101 = {
    "train01": ["YoYo/it's a Köln.avi", "YoYo/same.avi", "Archery/a.avi"],
    "test01": ["Archery/same.avi", "Archery/b.avi"],
    "train02": ["Archery/same.avi", "YoYo/same.avi", "Archery/absent.avi"],
    "test02": ["YoYo/it's a Köln.avi", "Archery/a.avi"],
}
# In alphabetical order, the labels would be the other way round.
CLASSES = ["YoYo", "Archery"]


def write_videos(folder, names):
    """Writes a short video for each name but absent.avi, every one of its own grey."""
    present = [name for name in sorted(names) if "absent" not in name]
    for number, name in enumerate(present):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, np.full((3, 32, 32, 3), 20 * number, np.uint8), 25, codec="mpeg4")
    return {name: 20 * number for number, name in enumerate(present)}


def run(folder, dialect, *more):
    paths = {option: str(folder / option) for option in ("annotations", "videos", "output")}
    options = [word for option, path in paths.items() for word in (f"--{option}", path)]
    code = prepare.main([*options, "--dialect", dialect, "--short_side", "32", "--processes", "1", *more])
    assert code == 0
    return open_dataset(folder / "output")


def read_split(dataset, split):
    """Returns the label and the mean of the pixels of each video of a split, as evaluation reads them."""
    options = pipeline.BatchOptions(
        batch_size=2, sampling=clips.Sampling(frames=2), streams=("rgb",), crop=32, max_damaged_share=0
    )
    batches = list(pipeline.evaluation_batches(dataset, split, options, windows=1))
    rows = [
        (str(video), dataset.labels[label], rgb.mean())
        for batch in batches
        for video, label, rgb, mask in zip(batch["video"], batch["label"], batch["rgb"], batch["mask"], strict=True)
        if mask
    ]
    assert len(rows) == len({video for video, _, _ in rows})
    return {video: (label, grey) for video, label, grey in rows}


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory):
    """The dataset, what it was made from, and what the command said."""
    folder = tmp_path_factory.mktemp("ucf101")
    (folder / "annotations").mkdir()
    for split, names in UCF101.items():
        numbers = [CLASSES.index(name.split("/")[0]) + 1 for name in names]
        lines = [f"{name} {number}" if "train" in split else name for name, number in zip(names, numbers, strict=True)]
        (folder / "annotations" / f"{split[:-2]}list{split[-2:]}.txt").write_text("\n".join(lines) + "\n")
    (folder / "annotations" / "classInd.txt").write_text("1 YoYo\n2 Archery\n")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    greys = write_videos(folder / "videos", {name for names in UCF101.values() for name in names})
    return run(folder, "ucf101", "--classes", str(folder / "classes.txt")), greys


@pytest.mark.parametrize("split", UCF101)
def test_a_split_gives_exactly_the_videos_of_its_list(ucf101, split):
    dataset, greys = ucf101
    found = read_split(dataset, split)
    assert set(found) == {name for name in UCF101[split] if name in greys}
    for name, (label, grey) in found.items():
        assert label == name.split("/")[0]
        assert grey == pytest.approx(greys[name], abs=3)


def test_every_video_is_stored_once(ucf101):
    dataset, greys = ucf101
    assert sum(size.videos for size in dataset.splits.values()) == len(greys)
    assert set(dataset.splits) == {"train01_train02", "test02_train01", "test01_train02", "test01", "train02"}
    names = [name for file in dataset.directory.glob("index/*.json") for name in json.loads(file.read_text())["names"]]
    assert sorted(names) == sorted(greys)


def test_the_labels_are_numbered_as_in_the_list_of_classes(ucf101):
    assert ucf101[0].labels == tuple(CLASSES)


def test_a_stored_split_of_a_published_ones_name_does_not_hide_it(ucf101):
    dataset, _ = ucf101
    assert dataset.splits["test01"].videos == 1
    assert dataset.videos("test01") == 2


def test_hmdb51(tmp_path, capsys):
    marks = {"brush_hair/a.avi": "12", "brush_hair/#b .avi": "21", "wave/a.avi": "10", "wave/c.avi": "00"}
    (tmp_path / "annotations").mkdir()
    for label in ("brush_hair", "wave"):
        for split in (0, 1):
            own = {name: mark[split] for name, mark in marks.items() if name.startswith(f"{label}/")}
            text = "".join(f"{name.split('/')[1]} {mark} \n" for name, mark in own.items())
            (tmp_path / "annotations" / f"{label}_test_split{split + 1}.txt").write_text(text)
    write_videos(tmp_path / "videos", marks)
    dataset = run(tmp_path, "hmdb51")
    assert {split: set(read_split(dataset, split)) for split in ("train01", "test01", "train02", "test02")} == {
        "train01": {"brush_hair/a.avi", "wave/a.avi"},
        "test01": {"brush_hair/#b .avi"},
        "train02": {"brush_hair/#b .avi"},
        "test02": {"brush_hair/a.avi"},
    }
    said = capsys.readouterr().out
    assert "train01: 2 videos, those of test02_train01, train01\n" in said
    assert "--config.data.train_split=train01 --workdir DIR" in said
