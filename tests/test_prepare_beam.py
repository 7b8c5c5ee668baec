"""Shards made by Apache Beam: the bytes of the local run, only what is missing, counters, and failures."""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.flow_videos import arguments, die_of_number_one, files, run, write_videos
from helpers.moving_pictures import write_lossless

from i3d_jax import prepare
from i3d_jax.ingest.beam import kind_of
from i3d_jax.ingest.shard import Job
from i3d_jax.system.errors import UserError

ROOT = Path(__file__).parents[1]
SHARDS = ("--shards", "2")
FLOW = (*SHARDS, "--flow", "tvl1", "--flow_backend", "opencv")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), 6)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """One whose flow takes minutes."""
    path = tmp_path_factory.mktemp("long") / "long.mkv"
    write_lossless(path, np.random.default_rng(0).integers(0, 256, (1500, 96, 128, 3), np.uint8))
    return path


def run_command(videos, directory, *more):
    command = [sys.executable, "-m", "i3d_jax.prepare", *arguments(videos, directory, *more)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_one_process_four_and_beams_write_the_same_bytes(videos, tmp_path):
    """One shard stands already and is not made again; the counters are of the other three."""
    local = run(videos, tmp_path / "local", *FLOW)
    assert files(run(videos, tmp_path / "four", *FLOW, "--processes", "4")) == files(local)
    directory = shutil.copytree(local, tmp_path / "beam")
    for path in directory.glob("t*"):
        if path.name != "test-00000-of-00002.tfrecord":
            path.unlink()
    (directory / "dataset.json").unlink()
    shutil.copy(local / "dataset.json", directory / "unfinished.json")
    kept = (directory / "test-00000-of-00002.tfrecord").stat().st_mtime_ns
    done = run_command(videos, directory, *FLOW, "--runner", "direct", "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert files(directory) == files(local)
    assert (directory / "test-00000-of-00002.tfrecord").stat().st_mtime_ns == kept
    (counted,) = (line for line in done.stderr.splitlines() if line.startswith("Beam counted"))
    reasons = ("it cannot be opened as a video", "it has one frame, and flow needs two")
    assert {f"skipped: {reason} 1" for reason in reasons} <= set(counted.removeprefix("Beam counted: ").split("; "))
    assert "videos skipped 2" in counted
    assert "in 2 shards, 2 skipped" in done.stdout


def test_a_pipeline_that_fails(videos, tmp_path):
    """A file stands where the indexes would go."""
    run(videos, tmp_path, *SHARDS)
    whole = (tmp_path / "dataset.json").read_bytes()
    shutil.rmtree(tmp_path / "index")
    (tmp_path / "index").touch()
    done = run_command(videos, tmp_path, *SHARDS, "--runner", "direct", "--processes", "1")
    assert done.returncode == 1
    assert "Not a directory" in done.stderr
    assert not (tmp_path / "dataset.json").exists()
    assert not list(tmp_path.glob("*.tmp-*"))
    (tmp_path / "index").unlink()
    run(videos, tmp_path, *SHARDS)
    assert (tmp_path / "dataset.json").read_bytes() == whole


def at_work(group: int) -> list[str]:
    """The processes of a group that have not ended, as Linux tells of them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, own = path.read_text().rpartition(")")[2].split()[:3]
            if int(own) == group and state not in "ZX":
                found.append(path.parent.name)
    return found


def with_beam(processes) -> list[str]:
    """Those that have loaded one of Beam's libraries."""
    found = []
    for number in processes:
        with contextlib.suppress(OSError):
            if "/apache_beam/" in Path(f"/proc/{number}/maps").read_text():
                found.append(number)
    return found


@pytest.mark.parametrize(
    ("runner", "ending", "code", "words"),
    [
        ("direct", signal.SIGKILL, -signal.SIGKILL, ""),
        ("direct", signal.SIGINT, 130, "interrupted; the finished shards stay; start again to go on"),
        ("direct", signal.SIGTERM, 143, "stopped by SIGTERM; the finished shards stay; start again to go on"),
        ("local", signal.SIGTERM, 143, "stopped by SIGTERM; the finished shards stay; start again to go on"),
        ("local", signal.SIGINT, 130, "interrupted; the finished shards stay; start again to go on"),
    ],
)
def test_no_worker_outlives_a_command_that_is_told_to_end(videos, long_video, tmp_path, runner, ending, code, words):
    """Amid a video whose flow takes minutes, when the shard before it is done."""
    os.link(long_video, tmp_path / "long.mkv")
    shutil.copy(videos / "0.mkv", tmp_path / "short.mkv")
    (tmp_path / "labels.csv").write_text("video,label,split\nshort.mkv,a,test\nlong.mkv,a,train\n")
    more = ("--flow", "tvl1", "--flow_backend", "opencv", "--runner", runner, "--processes", "2")
    # Whoever starts the tests in the background may have left it ignored.
    program = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "runpy.run_module('i3d_jax.prepare', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", program, *arguments(tmp_path, tmp_path / "dataset", *more)]
    log = tmp_path / "log"
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("dataset/index/test-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        # The command, and two processes that read videos, of Beam's workers each its own.
        assert len(at_work(process.pid)) >= (5 if runner == "direct" else 3)
        # What takes longest to import is not imported by those that read videos.
        assert len(with_beam(at_work(process.pid))) == (3 if runner == "direct" else 0)
        process.send_signal(ending)
        assert process.wait(timeout=60) == code
        deadline = time.monotonic() + 60
        while at_work(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert at_work(process.pid) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "dataset" / "dataset.json").exists()
    # Workers say around it that they have lost the command: Beam's, and any that are just starting.
    assert not words or f"{words}\n" in log.read_text()
    if runner == "local":
        assert not list(tmp_path.glob("dataset/*.tmp-*"))


def test_a_video_that_crashes_the_decoder_costs_no_other(videos, tmp_path, monkeypatch, capsys):
    """With any other runner of Beam's and flags of its own, here the one in this process."""
    monkeypatch.setattr(Job, "read", property(lambda job: functools.partial(die_of_number_one, job)))
    own = ["--runner", "FnApiRunner", "--", "--direct_num_workers=1"]
    prepare.main(arguments(videos, tmp_path / "dataset", *SHARDS, *own))
    shown = capsys.readouterr()
    assert "skipped 1.mkv: the decoder crashed" in shown.out
    assert "skipped: the decoder crashed 1" in shown.err
    assert "videos written 6" in shown.err


def refused(videos, directory, message, *more):
    with pytest.raises(UserError, match=message):
        run(videos, directory, *SHARDS, *more)
    assert not directory.exists()


def test_runners_that_cannot_be_used(videos, tmp_path, monkeypatch):
    directory = tmp_path / "dataset"
    for name in ("flonk", "DirectRunner"):
        message = rf"local or one of Beam's \(direct, .*FlinkRunner.*\), found '{name}'"
        refused(videos, directory, message, "--runner", name)
    lacking = "--runner DataflowRunner cannot be used so: .*: region"
    refused(videos, directory, lacking, "--runner", "DataflowRunner", "--", "--project=x", "--temp_location=gs://x/y")
    refused(videos, directory, "what stands after -- .* found '--region=x' with --runner local", "--", "--region=x")
    cluster = ("--flink_master=localhost:1", "--environment_type=LOOPBACK")
    refused(
        videos,
        directory,
        "--processes is of this machine, .* has is for its own",
        "--runner",
        "FlinkRunner",
        "--",
        *cluster,
    )
    monkeypatch.setitem(sys.modules, "dask", None)
    for name in [name for name in sys.modules if name.startswith("apache_beam.runners.dask.")]:
        monkeypatch.delitem(sys.modules, name)
    refused(videos, directory, r'pip install -e "\.\[beam,dask\]"', "--runner", "DaskRunner")
    monkeypatch.delitem(sys.modules, "i3d_jax.ingest.beam")
    monkeypatch.delattr("i3d_jax.ingest.beam")
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    refused(videos, directory, r'needs Apache Beam.*pip install -e "\.\[beam\]"', "--runner", "direct")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("missing", "missing"),
        ("decoding fails after 28 frames: it is damaged there", "decoding fails after N frames"),
        (
            "the frame size changes from 48x32 to 64x48 after 30 frames",
            "the frame size changes from N to N after N frames",
        ),
        ("it ends after 2.3 of the 4.0 s that the file states", "it ends after N of the N s that the file states"),
        ("it cannot be opened as a video: http 404", "it cannot be opened as a video"),
    ],
)
def test_kinds_of_reasons_are_few(reason, kind):
    assert kind_of(reason) == kind
