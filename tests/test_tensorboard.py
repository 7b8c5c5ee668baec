import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from i3d_jax.report.tensorboard import TensorBoard


def scalars(directory):
    read = EventAccumulator(str(directory)).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in sorted(read.Tags()["scalars"])}


def test_tensorboard_reads_what_was_written_in_one_run_and_in_the_one_that_went_on(tmp_path):
    first = TensorBoard(tmp_path / "run" / "tensorboard", after_step=0)
    first.write(10, "train", {"loss": 0.5, "top1": 0.25})
    first.write(20, "train", {"loss": 0.375, "top1": 0.5})
    first.write(20, "val", {"loss": 2.0})
    # Stopped there, without a word; and one more of the same process in the same second.
    second = TensorBoard(tmp_path / "run" / "tensorboard", after_step=20)
    second.write(30, "train", {"loss": 0.25, "top1": float("nan")})
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 2

    found = scalars(tmp_path / "run" / "tensorboard")
    assert found["train/loss"] == [(10, 0.5), (20, 0.375), (30, 0.25)]
    assert found["val/loss"] == [(20, 2.0)]
    assert found["train/top1"][:2] == [(10, 0.25), (20, 0.5)]
    step, value = found["train/top1"][2]
    assert step == 30
    assert value != value


def test_steps_that_are_taken_again_and_evaluations_that_are_made_again_stand_there_once(tmp_path):
    killed = TensorBoard(tmp_path, after_step=0)
    for step in (1, 2, 3):
        killed.write(step, "train", {"loss": 9.0 - step, "top1": 0.5})
    killed.write(2, "test", {"loss": 7.0})
    # Killed amid a record.
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    second = TensorBoard(tmp_path, after_step=2)
    second.write(2, "test", {"loss": 6.0})
    second.write(3, "train", {"loss": 1.0, "top1": 0.75})
    second.write(3, "test", {"loss": 5.0})
    second.write(3, "test", {"loss": 4.0})
    TensorBoard(tmp_path, after_step=3).write(4, "train", {"loss": 0.5, "top1": 1.0})
    assert scalars(tmp_path) == {
        "test/loss": [(2, 6.0), (3, 4.0)],
        "train/loss": [(1, 8.0), (2, 7.0), (3, 1.0), (4, 0.5)],
        "train/top1": [(1, 0.5), (2, 0.5), (3, 0.75), (4, 1.0)],
    }
    TensorBoard(tmp_path, after_step=0)
    assert scalars(tmp_path) == {}


@pytest.mark.parametrize("without", ["", "sys.modules['tensorflow'] = None\n"])
def test_it_needs_no_tensorflow_and_leaves_no_thread_and_no_open_file(tmp_path, without):
    script = f"""
import os, pathlib, sys, threading
{without}from i3d_jax.report.tensorboard import TensorBoard
files = os.listdir("/dev/fd")
writer = TensorBoard(pathlib.Path(sys.argv[1]), after_step=0)
writer.write(1, "train", {{"loss": 0.5}})
assert os.listdir("/dev/fd") == files
assert threading.active_count() == 1
assert not sys.modules.get("tensorflow")
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout + ran.stderr == ""
    assert scalars(tmp_path) == {"train/loss": [(1, 0.5)]}
