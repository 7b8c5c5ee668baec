"""The benchmarks of networks and flow: what they refuse, and the frames that one keeps for the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.moving_pictures import sliding, write_lossless

ROOT = Path(__file__).resolve().parents[1]


def run(script, *arguments, without=()):
    program = (
        "import runpy, sys\n"
        f"sys.modules.update({dict.fromkeys(without)!r})\n"
        f"sys.argv = {[script, *map(str, arguments)]!r}\n"
        "sys.path.insert(0, 'benchmarks')\n"
        f"runpy.run_path('benchmarks/{script}', run_name='__main__')\n"
    )
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("script", "arguments", "without", "words"),
    [
        ("model_speed.py", ["--models", "i3d"], ["torch"], "PyTorch, which is compared with, is not installed"),
        ("gpu_speed.py", [], ["torch"], "PyTorch, which is compared with, is not installed"),
        ("gpu_speed.py", ["--models", "i4d"], [], "there is no model 'i4d'; expected some of i3d, "),
        (
            "gpu_speed.py",
            ["--work", "sleep"],
            [],
            "there is no work 'sleep'; expected some of training, windows, video",
        ),
        ("flow_gpu.py", ["frames.npz"], [], "frames that flow_speed.py --keep has written were expected at frames.npz"),
        ("flow_speed.py", ["--videos", "docs", "--keep", "no/f.npz"], [], "a folder of videos (.avi, "),
    ],
)
def test_what_cannot_be_timed_is_refused_in_one_sentence(script, arguments, without, words):
    done = run(script, *arguments, without=without)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith(f"error: {words}")


def test_frames_that_are_kept_are_compared_with_opencvs_flow_elsewhere(tmp_path):
    (tmp_path / "videos").mkdir()
    write_lossless(str(tmp_path / "videos" / "sliding.mkv"), sliding(6, right=2, down=-1))
    kept = tmp_path / "frames.npz"
    done = run("flow_speed.py", "--videos", tmp_path / "videos", "--pairs", 3, "--short_side", 64, "--keep", kept)
    assert (done.returncode, done.stderr) == (0, "")
    with np.load(kept) as arrays:
        assert arrays["sliding.mkv/numbers"].tolist() == [0, 2]
        # What slides by two pixels does so in the flow.
        assert np.median(arrays["sliding.mkv/opencv"][..., 0]) > 0.5
    done = run("flow_gpu.py", kept, "--batches", "2,4")
    assert (done.returncode, done.stderr.partition(",")[0]) == (2, "error: --batches: at most 3 pairs were expected")
    (tmp_path / "half.npz").write_bytes(kept.read_bytes()[:-100])
    np.savez(tmp_path / "other.npz", frames=np.zeros(3))
    for other in ("half.npz", "other.npz", "videos/sliding.mkv"):
        done = run("flow_gpu.py", tmp_path / other)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "frames that flow_speed.py --keep has written were expected, found something else" in done.stderr
    # Neither videos nor OpenCV are needed there.
    written = tmp_path / "flow.json"
    done = run("flow_gpu.py", kept, "--batches", "3", "--json", written, without=["av", "cv2"])
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = json.loads(written.read_text())["rows"]
    assert (row["video"], row["pairs"], row["batch"], len(row["median_errors"])) == ("sliding.mkv", 3, 3, 2)
    assert max(row["median_errors"]) < 0.05
