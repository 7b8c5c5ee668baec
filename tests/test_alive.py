"""Who waits for Beam's workers is told that none is alive, whatever the cancelled pipeline says meanwhile."""

import re
import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading, time
from pathlib import Path
from i3d_jax.ingest import alive
from i3d_jax.system.errors import Failure, run

alive.SECONDS = 0.1
cancelled = threading.Event()

def cancel():
    cancelled.set()
    # The server's answer comes after the pipeline's end.
    time.sleep({answers_after})

def main(arguments):
    with alive.watched(Path(arguments[0]), most_seconds=0.3, from_now=True, cancel=cancel):
        {block}

run(main)
"""
SILENT = r"error: no worker of Beam's has shown itself for 0\.\d+ s: .*; start again to go on\n"


def ended(folder, block, answers_after=0):
    program = PROGRAM.format(block=block, answers_after=answers_after)
    return subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("then", ["raise Failure('the job failed in state CANCELLED')", "pass"])
def test_the_end_of_the_cancelled_pipeline_is_not_told_for_the_reason(tmp_path, then):
    found = ended(tmp_path, f"cancelled.wait(); {then}", answers_after=1)
    assert found.returncode == 1
    assert re.fullmatch(SILENT, found.stderr)


def test_what_fails_by_itself_says_so(tmp_path):
    found = ended(tmp_path, "raise Failure('the job failed: a video is missing')")
    assert found.returncode == 1
    assert found.stderr == "error: the job failed: a video is missing\n"
