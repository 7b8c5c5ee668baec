"""What may not be read or written is not called missing: one sentence with the path and the system's reason."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.small_checkpoints import save_stream
from helpers.small_dataset import write_dataset
from helpers.unprivileged import without_right

from i3d_jax import checkpoint
from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.foreign import Stated
from i3d_jax.data.foreign_records import open_records
from i3d_jax.evaluation import results
from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.importers import flax_i3d, labels, torch_file
from i3d_jax.ingest import output
from i3d_jax.ingest.annotations import ClassList, read
from i3d_jax.ingest.process import absence
from i3d_jax.run import recipe
from i3d_jax.study import table
from i3d_jax.system import files, lock
from i3d_jax.system.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ROWS = "video,label,split\na/b.mp4,run,train\n"


def held(folder, holder):
    with holder(folder):
        pass


# A path, what is to stand there, the mode that it gets, and who meets it.
CASES = {
    "annotations": ("l.csv", ROWS, 0, lambda path: read("csv", path, path.parent)),
    "the folder of lists": ("lists/trainlist01.txt", "A/a.avi 1\n", 0, lambda path: read("ucf101", path, ROOT)),
    "classes": ("classes.txt", "run\n", 0, lambda path: ClassList.read([path])),
    "the videos": ("videos/a/b.mp4", "", 0, lambda path: read_of(path.parents[1])),
    "a folder of videos": ("videos/a/b.mp4", "", 0, lambda path: read_of(path.parents[1])),
    "a recipe": ("recipe.py", "", 0, lambda path: recipe.find(str(path))),
    "a PyTorch file": ("x.pt", "x", 0, functools.partial(torch_file.read, stems=())),
    "safetensors": ("x.safetensors", "x", 0, functools.partial(torch_file.read, stems=())),
    "a pickle": ("x.ckpt", "x", 0, lambda path: flax_i3d.read(path, stream=None)),
    "labels": ("labels.txt", "x", 0, lambda path: labels.read_labels(path, 1)),
    "results": ("results.json", "{}", 0, results.read),
    "predictions": ("p.npz", "x", 0, Predictions.load),
    "a study's table": ("table.csv", "x", 0, table.from_csv),
    "records": (
        "r/train-00000-of-00001",
        "x" * 20,
        0,
        lambda path: open_records(path.parent, labels=None, stated=Stated()),
    ),
    "a lock": ("run/lock", "", 0o444, lambda path: held(path.parent, lock.held)),
}
FOLDERS = ("the folder of lists", "the videos", "a folder of videos")


def read_of(videos):
    (videos.parent / "l.csv").write_text(ROWS)
    return read("csv", videos.parent / "l.csv", videos)


@pytest.mark.parametrize("name", CASES)
def test_not_allowed_is_not_absent(tmp_path, name):
    place, text, mode, meet = CASES[name]
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    barred = {"the videos": tmp_path / "videos"}.get(name, path.parent if name in FOLDERS else path)
    with without_right(barred, mode), pytest.raises(UserError, match=f"{barred.name}.*: Permission denied$") as told:
        meet(path)
    assert "missing" not in str(told.value)
    assert "Errno" not in str(told.value)


@pytest.mark.parametrize("barred", ["dataset.json", "index", "index/train-00000-of-00002.json", "."])
def test_a_dataset(tmp_path, barred):
    write_dataset(tmp_path / "ds", [3, 3])
    with (
        without_right(tmp_path / "ds" / barred, 0),
        pytest.raises((UserError, PermissionError), match="Permission denied"),
    ):
        open_dataset(tmp_path / "ds").records("train")


@pytest.mark.parametrize("barred", ["model.json", "tree", "tree/variables", "tree/variables/_METADATA", "."])
def test_a_checkpoint(tmp_path, barred):
    save_stream(tmp_path / "ck", stream="rgb")
    with without_right(tmp_path / "ck" / barred, 0), pytest.raises(UserError, match=r"ck.*: Permission denied$"):
        checkpoint.load(tmp_path / "ck")


def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    with without_right(tmp_path / "folder", 0o555):
        for write in (
            lambda: held(tmp_path / "folder", lock.held),
            lambda: held(tmp_path / "folder" / "new", output.held),
            lambda: held(tmp_path / "folder" / "file", files.written_whole),
        ):
            with pytest.raises(UserError, match=r"folder/(lock|new|file) cannot be (made|written): Permission denied$"):
                write()


def test_a_video_in_a_folder_that_may_not_be_searched(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "video.mp4").touch()
    with without_right(tmp_path / "folder", 0o000):
        assert "Permission denied" in (absence(tmp_path / "folder" / "video.mp4") or "")
    assert absence(tmp_path / "folder" / "video.mp4") is None
    assert absence(tmp_path / "other" / "video.mp4") == "missing"


@pytest.mark.parametrize(
    ("number", "reason"), [(13, "Permission denied"), (30, "Read-only file system"), (1, "Operation not permitted")]
)
def test_what_nobody_foresaw_is_one_sentence_too(number, reason):
    program = (
        "import os; from i3d_jax.system.errors import run\n"
        f"def main(arguments):\n    raise OSError({number}, os.strerror({number}), 'a/file')\n"
        "run(main)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: a/file: {reason}\n")


def test_a_path_that_is_no_text_is_refused_for_a_checkpoint():
    path = Path(os.fsdecode(b"run\xe9"))
    with pytest.raises(UserError, match="text in UTF-8"):
        checkpoint.refuse_taken(path)
    with pytest.raises(UserError, match="text in UTF-8"):
        checkpoint.find(path)
