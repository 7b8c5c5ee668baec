"""The benchmark of the networks on a machine without PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_benchmark_without_pytorch_is_refused_in_one_sentence():
    program = (
        "import runpy, sys\n"
        "sys.modules['torch'] = None\n"
        "sys.argv = ['model_speed.py', '--models', 'i3d']\n"
        "sys.path.insert(0, 'benchmarks')\n"
        "runpy.run_path('benchmarks/model_speed.py', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "PyTorch" in done.stderr
    assert len(done.stderr.splitlines()) == 1
