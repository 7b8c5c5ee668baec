"""Compilation: said before the first step, and kept for the next process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from i3d_jax.errors import UserError
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
import sys, jax
from i3d_jax.training.compilation import keep_compiled
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x - 1)(3.0)
keep_compiled(sys.argv[1])
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
jax.jit(lambda x: x * 2 + 1)(3.0)
print(*(event.rsplit("/", 1)[1] for event in found))
"""


def test_the_next_process_finds_what_was_compiled(tmp_path):
    directory = tmp_path / "made" / "compiled"
    command = [sys.executable, "-c", PROGRAM, str(directory)]
    first, second = (
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split() for _ in range(2)
    )
    assert "cache_misses" in first
    assert "cache_hits" not in first
    assert "cache_hits" in second
    assert "cache_misses" not in second
    assert any(directory.iterdir())


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"compilation_cache: .*file/below cannot be made: Not a directory"):
        keep_compiled(str(tmp_path / "file" / "below"))
