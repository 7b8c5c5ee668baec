"""The miniature datasets: no single frame tells their actions apart, and their lists are as the published ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from i3d_jax.drawn.miniature_actions import ACTIONS, HEIGHT, WIDTH, Action, draw, states, swinging
from i3d_jax.ingest.annotations import ClassList, read
from i3d_jax.study import miniature
from i3d_jax.system.errors import UserError

SIZE = miniature.Size(train=2, validation=1, groups=3, clips=1, frames=3, short_side=36)


def test_a_swing_by_hand():
    assert list(swinging(5, start=1)) == [1, 3, 4, 2, 0]
    assert list(swinging(4, start=7)) == [0, 1, 3, 2]


def test_a_frame_of_a_swing_is_anywhere_equally_often():
    """So what swings is independent of what runs, whose place is the frame's number."""
    for frame in range(6):
        assert set(Counter(swinging(6, start=start)[frame] for start in range(12)).values()) == {2}


@pytest.mark.parametrize("swings", [None, 2])
def test_what_runs_and_what_swings(swings):
    moved = states(Action(0, -1, swings), np.random.default_rng(3), frames=20)
    steps = np.diff(moved, axis=0)
    assert (steps[:, 0] < 0).all()
    np.testing.assert_allclose(steps[:, 0], steps[0, 0])
    for column in (1, 2, 3):
        if column != swings:
            assert not steps[:, column].any()
    if swings is not None:
        assert {-1, 1} <= set(np.sign(steps[:, swings]))
        # The swing goes over the same range as the run of that column would.
        run = states(Action(swings, 1), np.random.default_rng(3), frames=20)[:, swings]
        assert run.min() <= moved[:, swings].min() < moved[:, swings].max() <= run.max()


def test_the_states_of_all_actions_agree_in_all_that_stands():
    """From one generator: so nothing but the motion goes with an action."""
    drawn = [states(action, np.random.default_rng(5), frames=8) for action in ACTIONS["ucf101"].values()]
    standing = drawn[0][:, 3]
    assert not np.diff(standing).any()
    for action, moved in zip(ACTIONS["ucf101"].values(), drawn, strict=True):
        for column in range(4):
            if column not in (action.column, action.swings) and column == 3:
                np.testing.assert_array_equal(moved[:, column], standing)


def test_what_a_random_frame_shows_has_one_distribution_in_all_actions():
    """The mean and the deviation of each column, over 400 takes: equal up to chance (a fifth is four errors)."""
    for name, actions in ACTIONS.items():
        shown = np.array(
            [
                [states(action, np.random.default_rng([1, take]), frames=20)[take % 20] for take in range(400)]
                for action in actions.values()
            ]
        )
        for figures in (shown.mean(1), shown.std(1)):
            assert (np.ptp(figures, axis=0) / shown.std((0, 1)) < 0.2).all(), name


def test_the_datasets_differ_in_their_actions_and_looks():
    motions = [set(actions.values()) for actions in ACTIONS.values()]
    assert [len(one) for one in motions] == [8, 8, 8]
    assert not motions[0] & motions[1]
    assert not motions[1] & motions[2]
    pictures = [draw(name, next(iter(ACTIONS[name])), scene=1, take=0, frames=2, seed=0) for name in ACTIONS]
    for picture in pictures:
        assert picture.shape == (2, HEIGHT, WIDTH, 3)
        assert (picture[0] != picture[1]).any()
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 20
    again = draw("hmdb51", next(iter(ACTIONS["hmdb51"])), scene=1, take=0, frames=2, seed=0)
    np.testing.assert_array_equal(again, pictures[2])


def paint(path, frames, rate, codec):
    """Stands in for the encoder: one picture of a video."""
    cv2.imwrite(str(path.with_suffix(".png")), frames[0])
    path.with_suffix(".png").rename(path)


def test_the_layouts_are_read_as_the_published_ones(tmp_path):
    asked = []
    miniature.make(tmp_path, SIZE, prepare=asked.append, write_video=paint)
    found = {}
    for arguments in asked:
        values = {flag: arguments[arguments.index(flag) + 1] for flag in ("--dialect", "--annotations", "--videos")}
        files = arguments[arguments.index("--annotations") + 1 : arguments.index("--videos")]
        classes = ClassList.read([arguments[-1]]) if "--classes" in arguments else None
        clips = read(values["--dialect"], files, values["--videos"], classes)
        for clip in clips:
            assert (Path(values["--videos"]) / clip.path).is_file()
        found[values["--dialect"]] = clips
    assert Counter((clip.split, clip.label) for clip in found["kinetics"]) == {
        **{("train", label): 2 for label in ACTIONS["minikinetics"]},
        **{("val", label): 1 for label in ACTIONS["minikinetics"]},
    }
    for dialect in ("ucf101", "hmdb51"):
        # Three groups, each the test group of one split; HMDB-51's videos marked 0 are in none.
        assert len(found[dialect]) == 3 * 8
        for clip in found[dialect]:
            assert sorted(split[:4] for split in clip.splits) == ["test", "trai", "trai"]
            assert {split[-2:] for split in clip.splits} == {"01", "02", "03"}
    with pytest.raises(UserError, match="another size"):
        miniature.make(tmp_path, miniature.Size(), prepare=asked.append, write_video=paint)
