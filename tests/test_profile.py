"""A trace holds the steps that were asked for, as the profiler's own file tells them."""

from __future__ import annotations

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from i3d_jax.system.errors import UserError
from i3d_jax.training.profile import Profile, ProfiledSteps


def traced_steps(directory) -> set[int]:
    """The numbers of the steps in a trace, from the file that Perfetto opens."""
    [path] = directory.glob("plugins/profile/*/perfetto_trace.json.gz")
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    return {int(event["args"]["step_num"]) for event in events if event.get("name") == "train"}


def take_steps(directory, first, last, **traced):
    """Takes steps that count, within a profile; returns what was said."""
    said = []
    steps = ProfiledSteps(**{"total_steps": 9, **traced})
    with Profile(directory, steps, first_step=first, say=said.append) as profile:
        step = profile.around(jax.jit(lambda count: count + 1))
        count = jnp.int32(first)
        for _ in range(first, last + 1):
            count = step(count)
    assert int(count) == last + 1
    return said


def test_the_steps_asked_for_are_in_the_trace(tmp_path):
    said = take_steps(tmp_path / "profile", 2, 9, first_step=4, steps=3)
    assert traced_steps(tmp_path / "profile") == {4, 5, 6}
    assert said == [f"a trace of the steps from 4 to 6 is in {tmp_path / 'profile'}"]


def test_a_run_that_ends_early_leaves_a_trace(tmp_path):
    said = take_steps(tmp_path / "profile", 1, 5, first_step=4, steps=3)
    assert traced_steps(tmp_path / "profile") == {4, 5}
    assert said == [f"a trace of the steps from 4 to 5 is in {tmp_path / 'profile'}"]


def test_steps_that_are_over_are_not_traced(tmp_path):
    said = take_steps(tmp_path / "profile", 5, 9, first_step=4, steps=3)
    assert said == ["no trace is written: profile.first_step is 4, this run goes on with 5"]
    assert take_steps(tmp_path / "profile", 1, 2, first_step=None, steps=3) == []
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"first_step": 1, "steps": 0}, "profile.steps must be at least 1, found 0"),
        ({"first_step": 0, "steps": 5}, "at least 1 and leave room for 5 steps up to total_steps 9, found 0"),
        ({"first_step": 6, "steps": 5}, "leave room for 5 steps up to total_steps 9, found 6"),
    ],
)
def test_steps_that_cannot_be_traced(wrong, words):
    with pytest.raises(UserError, match=words):
        ProfiledSteps(**wrong, total_steps=9)
