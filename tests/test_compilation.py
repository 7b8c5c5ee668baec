"""Compilation: said before the first step, and kept for the next process."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from i3d_jax.system.errors import UserError
from i3d_jax.training import compilation
from i3d_jax.training.compilation import compiled_at_first, keep_compiled

ROOT = Path(__file__).resolve().parents[1]


def test_a_step_is_compiled_once_and_says_so_before_it_runs():
    traced, said = [], []

    def step(state, batch):
        traced.append(said.copy())
        return state + batch, {"loss": state * batch}

    compiled = compiled_at_first(jax.jit(step, donate_argnums=0), said.append)
    assert said == []
    state = jnp.float32(2)
    for _ in range(3):
        state, metrics = compiled(state, jnp.float32(5))
    assert (float(state), float(metrics["loss"])) == (17, 60)
    assert traced == [["compiling the training step …"]]
    assert len(said) == 2
    assert re.fullmatch(r"compiling the training step took \d+ s", said[1])


PROGRAM = """
import os, sys, jax
from i3d_jax.training.compilation import keep_compiled
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.jit(lambda x: x - 1)(3.0)
keep_compiled(*sys.argv[1:])
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event.rsplit("/", 1)[1]))
assert float(jax.jit(lambda x: x * 2 + 1)(3.0)) == 7
print(*(event for event in found if event in ("cache_hits", "cache_misses")))
"""


def start(*arguments, **environment):
    """Starts a process that compiles a program and prints what became of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment = {**kept, "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **environment}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


def outcome(process):
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said == ""
    return printed.split()


def test_the_next_process_finds_what_was_compiled(tmp_path):
    directory = tmp_path / "made" / "compiled"
    assert outcome(start(str(directory))) == ["cache_misses"]
    assert outcome(start(str(directory))) == ["cache_hits"]
    assert any(directory.iterdir())


def test_unless_told_otherwise_it_is_kept_in_the_users_cache_folder(tmp_path):
    assert outcome(start(XDG_CACHE_HOME=str(tmp_path))) == ["cache_misses"]
    [directory] = (tmp_path / "i3d_jax" / "compiled").iterdir()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    before = {path.name for path in directory.iterdir()}
    # Of two at once neither disturbs the other; without the variable, or with a relative one, the folder is the home's.
    both = [start(XDG_CACHE_HOME=str(tmp_path)), start(XDG_CACHE_HOME=str(tmp_path))]
    at_home = start(XDG_CACHE_HOME="here", HOME=str(tmp_path / "home"))
    assert [outcome(process) for process in both] == [["cache_hits"]] * 2
    assert {path.name for path in directory.iterdir()} == before
    assert outcome(at_home) == ["cache_misses"]
    assert (tmp_path / "home" / ".cache" / "i3d_jax" / "compiled" / directory.name).is_dir()


def test_it_can_be_switched_off_and_put_elsewhere(tmp_path):
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    places = {"XDG_CACHE_HOME": str(cache), "JAX_COMPILATION_CACHE_DIR": str(elsewhere)}
    switched_off = [start("off", **places), start("", **places)]
    for process in switched_off:
        assert outcome(process) == []
    assert outcome(start(**places, JAX_ENABLE_COMPILATION_CACHE="false")) == []
    assert not elsewhere.exists()
    assert outcome(start(**places)) == ["cache_misses"]
    assert any(elsewhere.iterdir())
    assert not cache.exists()


def test_a_cache_folder_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    assert outcome(start(XDG_CACHE_HOME=str(tmp_path / "file"))) == []


def test_a_directory_that_is_named_and_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"compilation_cache: .*file/below cannot be made: Not a directory"):
        keep_compiled(str(tmp_path / "file" / "below"))


def test_what_was_not_used_for_the_longest_time_makes_room(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilation, "MOST_BYTES", 250)
    directory = Path(compilation.users_cache())
    other = directory.with_name("of-another-cpu")
    other.mkdir()
    # By the time of the last use, in seconds; the newest was made first.
    for name, used in ((directory / "newest", 900), (other / "oldest", 100), (directory / "middle", 500)):
        name.write_bytes(bytes(100))
        os.utime(name, (used, 50))
    assert compilation.users_cache() == str(directory)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["middle", "newest"]


def test_cpus_that_differ_share_no_programs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = compilation.users_cache()
    assert compilation.users_cache() == here
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse2\n")
    monkeypatch.setattr(compilation, "CPUINFO", cpuinfo)
    assert compilation.users_cache() != here
