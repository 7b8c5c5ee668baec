"""Training killed for real at random moments, again and again, ends as if nothing had happened: to the last bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import orbax.checkpoint as ocp
import pytest
from helpers import seeds

from i3d_jax import checkpoint

TESTS = Path(__file__).parent
STEPS = 75
KILLS = 20


class Runs:
    """Runs of killed_run.py, one after the other."""

    def __init__(self):
        paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore:os.fork", str(TESTS / "helpers" / "killed_run.py")],
            env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _next(self, word: str) -> int:
        """Reads until a line that begins with the word, and returns its number."""
        for line in self._server.stdout:
            found, number = line.split()
            if found == word:
                return int(number)
            assert found != "ended", f"the run ended with exit code {number} before its next {word}"
        raise AssertionError("killed_run.py ended")

    def start(self, workdir: Path, total_steps: int) -> int:
        """Starts a run, and returns the number of its process."""
        self._server.stdin.write(json.dumps([str(workdir), total_steps]) + "\n")
        self._server.stdin.flush()
        return self._next("process")

    def step(self) -> int:
        """Waits for the run's next line of the log, and returns its step."""
        return self._next("step")

    def end(self) -> int:
        """Waits for the run to end, and returns its exit code."""
        return self._next("ended")

    def close(self) -> None:
        self._server.stdin.close()
        assert self._server.wait(timeout=60) == 0
        self._server.stdout.close()


@pytest.fixture(scope="module")
def runs():
    runs = Runs()
    yield runs
    runs.close()


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """The workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    workdir.mkdir()
    runs.start(workdir, STEPS)
    assert runs.end() == 0
    # The rate falls at steps 25 and 50, and besides where the plateau schedule says so.
    assert len({line["learning_rate"] for line in lines(workdir) if line["split"] == "train"}) > 3
    return workdir


def lines(workdir: Path) -> list[dict]:
    """Everything in metrics.jsonl that is no time."""
    timing = ("clips_per_second", "data_wait_share", "seconds_left")
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timing} for line in found]


def arrays(workdir: Path, step: int) -> dict:
    """All that a checkpoint holds: variables, their average, optimizer and schedules, step and position in the data."""
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        items = {name: ocp.args.StandardRestore() for name in ("variables", "training")}
        return dict(reader.restore(workdir / "checkpoints" / str(step) / "tree", ocp.args.Composite(**items)).items())


def half_written(workdir: Path) -> list[Path]:
    """The checkpoints that a run has begun and not finished."""
    entries = (workdir / "checkpoints").glob("*")
    return [entry for entry in entries if entry.name.isdigit() and not checkpoint.is_whole(entry)]


def assert_same(workdir: Path, whole: Path) -> None:
    kept = checkpoint.steps_in(whole / "checkpoints")
    assert checkpoint.steps_in(workdir / "checkpoints") == kept
    assert kept[-1] == STEPS
    for step in kept:
        chex.assert_trees_all_equal(arrays(workdir, step), arrays(whole, step))
        descriptions = [(run / "checkpoints" / str(step) / "model.json").read_bytes() for run in (workdir, whole)]
        assert descriptions[0] == descriptions[1]


@pytest.mark.long
def test_killed_at_twenty_random_points(runs, whole):
    workdir = whole.parent / "killed"
    workdir.mkdir()
    moments = seeds.drawn()
    targets = sorted(moments.sample(range(1, STEPS - 30), KILLS))
    in_a_checkpoint = 0
    for number, target in enumerate(targets):
        process = runs.start(workdir, STEPS)
        while runs.step() < target:
            pass
        if number % 3 == 0:
            # In the middle of the next checkpoint.
            deadline = time.monotonic() + 60
            while not half_written(workdir) and time.monotonic() < deadline:
                time.sleep(0.001)
        else:
            time.sleep(moments.uniform(0, 0.05))
        os.kill(process, signal.SIGKILL)
        assert runs.end() == -signal.SIGKILL, f"over before it was killed at {targets}"
        in_a_checkpoint += bool(half_written(workdir))
    assert in_a_checkpoint >= 3
    runs.start(workdir, STEPS)
    assert runs.end() == 0
    assert lines(workdir) == lines(whole)
    assert_same(workdir, whole)


def test_a_finished_run_with_more_steps_ends_as_one_that_had_them_from_the_start(runs, whole):
    workdir = whole.parent / "longer"
    workdir.mkdir()
    for total_steps in (40, STEPS):
        runs.start(workdir, total_steps)
        assert runs.end() == 0
    assert lines(workdir) == lines(whole)
    assert_same(workdir, whole)
