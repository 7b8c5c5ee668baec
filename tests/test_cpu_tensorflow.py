import subprocess
import sys


def test_tensorflow_starts_silently_and_sees_no_accelerator():
    script = """
from i3d_jax.data import cpu_tensorflow
tf = cpu_tensorflow.load()
assert tf.config.get_visible_devices("GPU") == []
assert tf.constant([1, 2]).numpy().tolist() == [1, 2]
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout + ran.stderr == ""


def test_tensorboard_does_not_start_it_in_another_way(tmp_path):
    script = """
import os, pathlib, sys
from i3d_jax.report.tensorboard import TensorBoard
TensorBoard(pathlib.Path(sys.argv[1])).write(1, "train", {"loss": 0.5})
assert os.environ["TF_CPU_ALLOCATOR_USE_BFC"] == "1"
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout + ran.stderr == ""
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
