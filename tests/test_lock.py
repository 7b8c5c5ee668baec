"""One process at a time in a folder, and none for ever."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from i3d_jax.system.errors import UserError
from i3d_jax.system.lock import held

ROOT = Path(__file__).resolve().parents[1]
HOLD = (
    "import sys, pathlib, i3d_jax.system.lock as lock\n"
    "with lock.held(pathlib.Path(sys.argv[1])): print(flush=True); input()"
)


def test_the_second_is_told_who_holds_it_until_the_holder_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(UserError) as caught, held(tmp_path / "run"):
            pass
        assert str(caught.value) == (
            f"{tmp_path / 'run'} is in use by process {holder.pid} on {socket.gethostname()}: "
            "it is for one run at a time"
        )
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with held(tmp_path / "run"):
        assert (tmp_path / "run" / "lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_where_the_file_system_has_no_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with held(tmp_path / "run"), held(tmp_path / "run"):
        (tmp_path / "run" / "config.json").touch()


def test_a_folder_into_which_nothing_was_put_is_gone_and_others_stay(tmp_path):
    with held(tmp_path / "empty"):
        pass
    assert not (tmp_path / "empty").exists()
    (tmp_path / "there").mkdir()
    with held(tmp_path / "there"):
        pass
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["lock"]
    with held(tmp_path / "used"):
        (tmp_path / "used" / "config.json").touch()
    assert {path.name for path in (tmp_path / "used").iterdir()} == {"lock", "config.json"}
