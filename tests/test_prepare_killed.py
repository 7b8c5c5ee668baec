"""`prepare` killed for real, workers and all, at random moments: it ends with the bytes of an uninterrupted run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from flow_videos import arguments, files, run, write_videos

ROOT = Path(__file__).parents[1]
FLOW = ("--flow", "tvl1", "--flow_backend", "opencv", "--shards", "6")
# Six of each of the two splits.
SHARDS = 12
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
        # Every third is killed at its first new shard, which is half-way on a machine of any speed, since at least half
        # of the shards are still to be made; the others at any time.
        if shards_in(directory) > SHARDS // 2:
            shutil.rmtree(directory)
        before = shards_in(directory)
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        if kill % 3 == 1:
            deadline = time.monotonic() + 60
            while shards_in(directory) == before and time.monotonic() < deadline:
                time.sleep(0.002)
        else:
            time.sleep(moments.uniform(0, 2))
        # The process is waited for only afterwards, so its group is there even if it has ended by itself.
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0)
        if 0 < shards_in(directory) < SHARDS:
            partly += 1
            assert not (directory / "dataset.json").exists()
        for name, content in files(directory).items():
            assert name == "unfinished.json" or ".tmp-" in name or content == whole[name]
    assert partly >= KILLS // 3
    run(videos, directory, *FLOW)
    assert files(directory) == whole
