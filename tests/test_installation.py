"""What `pip install .` leaves works in any working directory, and what stands in its way says so in one sentence."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from i3d_jax import prepare
from i3d_jax.study import miniature
from i3d_jax.video.write import write_video

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("i3d_jax", "experiments")
FILES = ("setup.py", "pyproject.toml", "README.md")
# Two steps of a shallow network are enough to see that the parts find each other.
SHALLOW = "Mixed_3b"
SHORT = ("--config.total_steps=2", "--config.log_every=1", "--config.optimizer.boundaries=(1,)")
SHORT += (f"--config.model.last_block={SHALLOW}", "--config.batch_size=4")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh virtual environment with the package installed, not editable, that finds only libraries of this one."""
    folder = tmp_path_factory.mktemp("installed")
    for name in PACKAGES:
        # Other tests write bytecode meanwhile, which comes and goes.
        shutil.copytree(ROOT / name, folder / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / "checkout")
    venv.create(folder / "environment", symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "environment")}))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(folder / "environment"), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-build-isolation", str(folder / "checkout")], check=True, timeout=300)
    shutil.rmtree(folder / "checkout")
    return folder / "environment" / "bin" / "python"


def apart() -> dict[str, str]:
    """The environment without the way to this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(python: Path, where: Path, *arguments: str) -> str:
    command = [python, "-m", *arguments]
    done = subprocess.run(command, cwd=where, env=apart(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepare_here(arguments: list[str]) -> int:
    # Importing what they need takes other processes longer than so few videos.
    return prepare.main([*arguments, "--processes", "1"])


@pytest.mark.long
def test_quickstart_and_predict_away_from_the_checkout(installed, tmp_path):
    few = "--config.data.synthetic_videos_per_action=1"
    run(installed, tmp_path, "i3d_jax.main", "--config", "quickstart:i3d", "--workdir", "run", few, *SHORT)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["test"]["step"] == 2
    assert (tmp_path / "run/report.html").is_file()
    video = sorted((tmp_path / "run/synthetic/videos").glob("*.mp4"))[0]
    answer = run(installed, tmp_path, "i3d_jax.predict", str(video), "--checkpoint", "run", "--format", "json")
    assert len(json.loads(answer)[0]["predictions"]) == 5
    where = "import experiments, i3d_jax; print(experiments.__file__, i3d_jax.__file__)"
    found = subprocess.run(
        [installed, "-c", where], cwd=tmp_path, env=apart(), capture_output=True, text=True, check=True
    )
    assert all(Path(file).is_relative_to(installed.parents[1]) for file in found.stdout.split())


@pytest.mark.long
def test_the_study_in_miniature_away_from_the_checkout(installed, tmp_path):
    # Of the shortest videos: the flow of each field is most of the work.
    size = miniature.Size(train=2, validation=1, groups=3, clips=1, frames=2, short_side=36, last_block=SHALLOW)
    made = miniature.make(tmp_path / "datasets", size, prepare=prepare_here, write_video=write_video)
    made["imagenet"] = miniature.image_network(tmp_path / "imagenet", size)
    named = [word for name, folder in made.items() for word in (f"--{name}", str(folder))]
    cell = ("--table", "accuracy", "--rows", "i3d", "--columns", "ucf101/rgb")
    run(installed, tmp_path, "i3d_jax.study", "--miniature", *cell, *named, "--output", "study", *SHORT)
    with open(tmp_path / "study/table.csv", newline="") as file:
        measured = {(row["row"], row["column"]): row["value"] for row in csv.DictReader(file)}
    assert 0 <= float(measured["i3d", "ucf101/rgb"]) <= 100


def test_another_distribution_with_our_import_name_is_told_at_import(tmp_path):
    other = tmp_path / "i3d_jax-0.0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: i3d-jax\nVersion: 0.0.1\n")
    program = "import sys; sys.path.append(sys.argv[1]); import i3d_jax"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "the distribution i3d-jax 0.0.1 is another project" in done.stderr
    alone = subprocess.run([sys.executable, "-c", program, ""], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (alone.returncode, alone.stderr) == (0, "")


@pytest.mark.parametrize("statement", ["import i3d_jax", "import runpy; runpy.run_path('setup.py')"])
def test_an_interpreter_that_is_too_old_is_told_so(statement):
    program = f"import sys; sys.version_info = (3, 10, 13, 'final', 0); {statement}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stderr == "error: i3d_jax needs Python 3.11 or newer, found 3.10\n"
