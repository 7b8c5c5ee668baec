"""What a command says, and with which code it ends, when it is not its own fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from i3d_jax.system.errors import did_you_mean

ROOT = Path(__file__).resolve().parents[1]


def run(body: str, *, shell: str = '"$0" -c "$1"') -> subprocess.CompletedProcess:
    """Runs a command whose `main` has this body."""
    program = f"from i3d_jax.system.errors import run\ndef main(arguments):\n    {body}\nrun(main)\n"
    command = ["bash", "-o", "pipefail", "-c", shell, sys.executable, program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("package", "extras"), [("tqdm", "data"), ("cv2", "data,prepare")])
def test_an_extra_that_is_not_installed_is_named(package, extras):
    done = run(f"import sys; sys.modules.pop('{package}', None); sys.meta_path.clear(); import {package}")
    assert done.returncode == 2
    remedy = f'in a checkout of this project: pip install -e ".[{extras}]"'
    assert done.stderr == f"error: {package} was expected and is not installed; {remedy}\n"


def test_another_module_that_is_missing_is_our_own_failure():
    done = run("import i3d_jax.nothing")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("flush", ["", ", flush=True"])
def test_who_reads_no_more_is_no_failure(flush):
    """Without it the flush at the end fails, with it a print."""
    # Asked for nothing, poll ends when nobody reads any more.
    gone = "import select; pipe = select.poll(); pipe.register(1, 0); pipe.poll()"
    body = f"{gone}; print('a line of the output'{flush})"
    done = run(body, shell='env --unset=PYTHONUNBUFFERED "$0" -c "$1" | sleep 0')
    assert done.stderr == ""
    assert done.returncode == 141


def test_a_limit_on_the_size_of_files_is_one_sentence(tmp_path):
    path = tmp_path / "large"
    done = run(
        f"import pathlib; pathlib.Path({str(path)!r}).write_bytes(bytes(4096))", shell='ulimit -f 1; "$0" -c "$1"'
    )
    assert done.returncode == 2
    assert done.stderr == "error: a file may not be so large: [Errno 27] File too large\n"


def test_a_pipe_that_is_not_the_output_is_a_failure():
    done = run("raise BrokenPipeError(32, 'Broken pipe')")
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def test_the_nearest_word():
    assert did_you_mean("i3", ["c3d", "i3d"]) == " (did you mean 'i3d'?)"
    assert did_you_mean("whatever", ["c3d", "i3d"]) == ""
    assert did_you_mean("w", ["c3d"], cutoff=0) == " (did you mean 'c3d'?)"
