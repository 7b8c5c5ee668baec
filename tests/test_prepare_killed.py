"""`prepare` killed for real, workers and all, at random moments: it ends with the bytes of an uninterrupted run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import seeds
from helpers.flow_videos import arguments, files, write_videos

ROOT = Path(__file__).parents[1]
FLOW = ("--flow", "tvl1", "--flow_backend", "opencv", "--shards", "6")
# Six of each of the two splits.
SHARDS = 12
KILLS = 10


def shards_in(directory):
    return len(list(directory.glob("index/*.json")))


@pytest.mark.long
def test_killed_ten_times(tmp_path):
    videos = write_videos(tmp_path / "videos", 12)

    def started(directory):
        command = [sys.executable, "-m", "i3d_jax.prepare", *arguments(videos, directory, "--processes", "2", *FLOW)]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    began = time.monotonic()
    assert started(tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - began
    whole = files(tmp_path / "whole")
    directory = tmp_path / "killed"
    moments = seeds.drawn()
    at_work = 0
    for kill in range(KILLS):
        before = files(directory)
        if (directory / "dataset.json").exists():
            shutil.rmtree(directory)
            before = {}
        shards = shards_in(directory)
        process = started(directory)
        if kill % 2:
            # At its first new shard, which is amid the work on a machine of any speed.
            deadline = time.monotonic() + 60
            while (
                shards_in(directory) == shards
                and not (directory / "dataset.json").exists()
                and time.monotonic() < deadline
            ):
                time.sleep(0.002)
        else:
            # At any time, from the start-up to the end.
            time.sleep(moments.uniform(0, seconds))
        # The process is waited for only afterwards, so its group is there even if it has ended by itself.
        os.killpg(process.pid, signal.SIGKILL)
        ended = process.wait()
        assert ended in (-signal.SIGKILL, 0)
        after = files(directory)
        at_work += ended != 0 and after != before
        assert (directory / "dataset.json").exists() <= (shards_in(directory) == SHARDS)
        for name, content in after.items():
            assert name == "unfinished.json" or ".tmp-" in name or content == whole[name]
    # Those that were waited for, but for what the last shards leave no time for.
    assert at_work >= 3
    assert started(directory).wait() == 0
    assert files(directory) == whole
