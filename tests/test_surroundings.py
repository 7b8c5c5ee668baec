"""What a command finds around it: limits, an OpenCV of another package, a platform without its plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import pytest

from i3d_jax.system import limits
from i3d_jax.system.errors import UserError
from i3d_jax.training import compilation
from i3d_jax.video import backend_choice, tvl1_backends

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "command", ["main", "prepare", "convert", "export", "predict", "features", "fuse", "fvd", "study"]
)
@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("-n 20", "room for 64 open files was expected, found 20"),
        ("-v 400000", "of addresses were expected, found 400000"),
    ],
)
def test_limits_with_which_nothing_can_run(command, limit, words):
    shell = f'ulimit {limit}; exec "$0" -m i3d_jax.{command} --help'
    done = subprocess.run(["bash", "-c", shell, sys.executable], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_limit_of_open_files_that_the_system_lets_us_raise():
    program = (
        "import resource; from i3d_jax.system.limits import refuse_too_little; refuse_too_little();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    shell = 'ulimit -S -n 20; ulimit -H -n 300; exec "$0" -c "$1"'
    command = ["bash", "-c", shell, sys.executable, program]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "300\n"


def test_a_module_may_be_imported_under_any_limit(monkeypatch):
    monkeypatch.setattr(limits, "LEAST_ADDRESSES", 1 << 62)
    limits.refuse_too_little()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise OSError(24, 'Too many open files')", "more files are open than the system allows"),
        ("raise ValueError from OSError(23, 'Too many open files in system')", "more files are open than"),
        ("bytearray(1 << 60)", "there is not enough memory: the system gives no more"),
        ("raise OSError(12, 'Cannot allocate memory')", "there is not enough memory: "),
    ],
)
def test_what_the_system_gives_no_more_of(body, words):
    program = f"from i3d_jax.system.errors import run\ndef main(arguments):\n    {body}\nrun(main)\n"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {words}")
    assert len(done.stderr.splitlines()) == 1


def test_another_opencv_over_ours(monkeypatch):
    monkeypatch.delattr(cv2, "optflow")
    for use in (lambda: backend_choice.choose("opencv"), tvl1_backends.OpenCV):
        with pytest.raises(UserError, match="opencv-contrib-python-headless"):
            use()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("Unable to initialize backend 'tpu': no libtpu.so (set JAX_PLATFORMS='' to choose)"),
            "no libtpu.so",
        ),
        (AssertionError(), "it has no plugin for it"),
    ],
)
def test_a_platform_without_its_plugin(monkeypatch, error, reason):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    with pytest.raises(UserError, match=rf"JAX_PLATFORMS is 'tpu', which JAX cannot use here \(.*{reason}\): leave it"):
        compilation.refuse_absent_platform()
    # Another failure is not blamed on it.
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(type(error)):
        compilation.refuse_absent_platform()


def test_a_process_with_a_platform_that_jax_knows_and_has_no_plugin_for():
    program = "from i3d_jax.system.errors import run; from i3d_jax.training.compilation import keep_compiled as keep\n"
    program += "run(lambda arguments: keep('off'))"
    environment = {**os.environ, "JAX_PLATFORMS": "rocm"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "error: JAX_PLATFORMS is 'rocm', which JAX cannot use here" in done.stderr
    assert "Traceback" not in done.stderr
