"""`prepare` killed for real, workers and all, at random moments: it ends with the bytes of an uninterrupted run."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from flow_videos import arguments, files, run, write_videos

ROOT = Path(__file__).parents[1]
FLOW = ("--flow", "tvl1", "--flow_backend", "opencv", "--shards", "6")
KILLS = 10


def shards_in(directory):
    return len(list(directory.glob("index/*.json")))


def test_killed_ten_times(tmp_path):
    videos = write_videos(tmp_path / "videos", 12)
    whole = files(run(videos, tmp_path / "whole", *FLOW))
    directory = tmp_path / "killed"
    command = [sys.executable, "-m", "i3d_jax.prepare", *arguments(videos, directory, "--processes", "2", *FLOW)]
    moments = random.Random(0)
    partly = 0
    for kill in range(KILLS):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        before = shards_in(directory)
        # Some soon after a shard, so that there is progress on any machine; the others from the start on.
        deadline = time.monotonic() + 30
        waits = kill % 3 == 1
        while waits and shards_in(directory) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3 if waits else 2))
        # A run that ended by itself has left no processes to kill.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0)
        if 0 < shards_in(directory) < 12:
            partly += 1
            assert not (directory / "dataset.json").exists()
        for name, content in files(directory).items():
            assert name == "unfinished.json" or ".tmp-" in name or content == whole[name]
    assert partly >= 2
    run(videos, directory, *FLOW)
    assert files(directory) == whole
