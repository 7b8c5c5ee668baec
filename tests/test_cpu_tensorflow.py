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
