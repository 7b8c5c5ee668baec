"""Folders of a bucket as the commands read and write them, beside the same folders on this machine."""

from __future__ import annotations

import pytest
from helpers import emulators, studies

from i3d_jax.study.page import page_of_study
from i3d_jax.system import copies, files
from i3d_jax.training.profile import Profile, ProfiledSteps


@pytest.fixture
def bucket(google_emulator, monkeypatch, tmp_path):
    """A folder of this test alone."""
    emulators.used_by_this_process(monkeypatch, google_emulator)
    return files.path(f"gs://{emulators.BUCKET}/{tmp_path.name} ä")


def test_the_page_of_a_study(bucket, tmp_path):
    copies.upload(studies.leave_study(tmp_path / "study"), bucket / "study")
    ours, theirs = page_of_study(bucket / "study"), page_of_study(tmp_path / "study")
    # With a blank in it, the shell needs quotes around the folder.
    quoted = f"'{bucket}/study/runs/NAME'".replace("'", "&#39;")
    assert quoted in ours
    assert ours.replace(quoted, f"{tmp_path}/study/runs/NAME").replace(str(bucket), str(tmp_path)) == theirs


def test_a_trace(bucket):
    steps = ProfiledSteps(total_steps=3, first_step=2, steps=1)
    said = []
    with Profile(bucket / "profile", steps, first_step=1, say=said.append) as profile:
        step = profile.around(lambda: 0)
        for _ in range(3):
            step()
    assert said == [f"a trace of the steps from 2 to 2 is in {bucket}/profile"]
    found = {one.suffix for one in (bucket / "profile" / "plugins" / "profile").rglob("*")}
    assert found == {".gz", ".pb"}
