import csv
import math
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from i3d_jax.drawn import actions
from i3d_jax.system.errors import UserError
from i3d_jax.video.write import write_video

PARTNERS = [
    ("moving left", "moving right"),
    ("moving up", "moving down"),
    ("growing", "shrinking"),
    ("turning clockwise", "turning anticlockwise"),
]
LABELS = {action for pair in PARTNERS for action in pair}


def draw(action, seed, *, frames=25, height=64, width=64, frame_rate=25):
    rng = np.random.default_rng(seed)
    return actions.draw(action, rng, frames=frames, height=height, width=width, frame_rate=frame_rate)


def object_on_black(action, seed, *, height, width):
    """Draws an action's motion as a white object on a black background: float [T, H, W] in 0..1."""
    states = actions.trajectory(action, np.random.default_rng(seed), frames=25)
    background = np.zeros((height, width, 3), np.float32)
    texture = np.full((8, 8, 3), 255, np.float32)
    return actions.render(states, background=background, texture=texture)[..., 0] / 255


def test_the_eight_actions():
    assert set(actions.ACTIONS) == LABELS
    assert len(actions.ACTIONS) == 8


@pytest.mark.parametrize(("action", "partner"), PARTNERS)
def test_partner_is_the_same_draw_backwards(action, partner):
    for seed in range(3):
        np.testing.assert_array_equal(draw(action, seed), draw(partner, seed)[::-1])


@pytest.mark.parametrize("action", sorted(LABELS))
def test_shape_dtype_and_repetition(action):
    frames = draw(action, 3, frames=7, height=48, width=66)
    assert frames.shape == (7, 48, 66, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, draw(action, 3, frames=7, height=48, width=66))
    assert (frames != draw(action, 4, frames=7, height=48, width=66)).mean() > 0.5


@pytest.mark.parametrize("action", sorted(LABELS))
def test_one_parameter_runs_evenly_and_the_others_stand(action):
    column = {"moving left": 0, "moving right": 0, "moving up": 1, "moving down": 1, "growing": 2, "shrinking": 2}
    states = actions.trajectory(action, np.random.default_rng(0), frames=20)
    steps = np.diff(states, axis=0)
    runs = column.get(action, 3)
    assert (np.delete(steps, runs, axis=1) == 0).all()
    np.testing.assert_allclose(steps[:, runs], steps[0, runs], rtol=1e-9)
    assert steps[0, runs] != 0


def test_a_random_frame_has_the_same_states_in_all_actions():
    # One frame of each of 3000 videos, independent between actions. Of two samples of n from one distribution the
    # cumulative shares differ by more than 1.95 sqrt(2 / n) once in a thousand times; a parameter that stood in the
    # middle of its run would differ by ten times that.
    videos, frames = 3000, 25
    samples = {}
    for index, action in enumerate(actions.ACTIONS):
        rng = np.random.default_rng([11, index])
        samples[action] = np.stack(
            [actions.trajectory(action, rng, frames=frames)[rng.integers(frames)] for _ in range(videos)]
        )
    reference = samples["moving left"]
    for action, states in samples.items():
        for parameter in range(4):
            distance = largest_difference_of_shares(states[:, parameter], reference[:, parameter])
            assert distance < 1.95 * math.sqrt(2 / videos), (action, parameter)
        # Jointly too: no two parameters hang together.
        assert np.abs(np.corrcoef(states.T) - np.eye(4)).max() < 4 / math.sqrt(videos), action


def largest_difference_of_shares(first, second):
    """Returns Kolmogorov's and Smirnov's statistic of two samples."""
    edges = np.sort(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(sample), edges, side="right") / len(sample) for sample in (first, second)]
    return np.abs(shares[0] - shares[1]).max()


@pytest.mark.parametrize("shape", [{"height": 64, "width": 80}, {"height": 90, "width": 64}])
@pytest.mark.parametrize(
    ("action", "direction"),
    [("moving left", (-1, 0)), ("moving right", (1, 0)), ("moving up", (0, -1)), ("moving down", (0, 1))],
)
def test_moves_in_its_direction(action, direction, shape):
    for seed in range(5):
        frames = object_on_black(action, seed, **shape)
        moved = centroid(frames[20]) - centroid(frames[4])
        # 16 steps of 1/25 s at 0.33 to 0.45 shorter sides (64 pixels) a second: 13.5 to 18.4 pixels. The object may
        # begin to leave the picture on the way, which holds its visible part back.
        along = moved @ direction
        across = moved @ (direction[1], direction[0])
        assert 9 < along < 19
        assert abs(across) < 2


def centroid(frame):
    """Returns (x, y) in pixels of what is bright in a frame [H, W]."""
    moments = cv2.moments(frame.astype(np.float32))
    return np.array([moments["m10"], moments["m01"]]) / moments["m00"]


@pytest.mark.parametrize(("action", "sign"), [("growing", 1), ("shrinking", -1)])
def test_changes_its_area(action, sign):
    for seed in range(5):
        frames = object_on_black(action, seed, height=160, width=160)
        whole = [index for index, frame in enumerate(frames) if is_whole(frame)]
        areas = frames.sum(axis=(1, 2))[whole]
        # The side grows by 0.68 to 0.9 in its logarithm every second, the area by twice that.
        rate = (math.log(areas[-1]) - math.log(areas[0])) / ((whole[-1] - whole[0]) / 25)
        assert 2 * 0.66 < sign * rate < 2 * 0.92


def is_whole(frame):
    """Says whether the object lies in the picture as a whole."""
    return not (frame[[0, -1]].any() or frame[:, [0, -1]].any())


@pytest.mark.parametrize(("action", "sign"), [("turning clockwise", 1), ("turning anticlockwise", -1)])
def test_turns_in_its_direction(action, sign):
    for seed in range(5):
        frames = draw(action, seed, frames=6, height=160, width=160)
        states = actions.trajectory(action, np.random.default_rng(seed), frames=6)
        centre = tuple(80 + 160 * states[0, :2])
        radius = 160 * math.exp(states[0, 2])
        # Turning runs along the angle of a polar picture; OpenCV's angle grows clockwise, 360 degrees in 720 rows.
        polar = [
            cv2.warpPolar(np.ascontiguousarray(frame), (32, 720), centre, radius, cv2.INTER_LINEAR)
            for frame in frames[[0, 5]]
        ]
        first, last = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) for picture in polar)
        # Over 5 steps of 1/25 s at 1.5 to 2.2 radians a second: 17 to 25 degrees, 34 to 50 rows.
        errors = [np.abs(np.roll(first, shift, axis=0) - last).mean() for shift in range(-60, 61)]
        assert 33 <= sign * (int(np.argmin(errors)) - 60) <= 52


@pytest.mark.parametrize("frame_rate", [15, 30000 / 1001, Fraction(30000, 1001), 50])
def test_speed_is_one_a_second_at_every_rate(frame_rate):
    frames = round(2 * frame_rate) + 1
    slow = actions.trajectory("moving right", np.random.default_rng(0), frames=51)
    other = actions.trajectory("moving right", np.random.default_rng(0), frames=frames, frame_rate=frame_rate)
    np.testing.assert_allclose(np.diff(other[:, 0])[0] * float(frame_rate), np.diff(slow[:, 0])[0] * 25, rtol=1e-9)


def test_object_stays_largely_in_view():
    whole = inside = 0.0
    for seed in range(40):
        for action in ("moving left", "moving up", "growing"):
            inside += object_on_black(action, seed, height=64, width=64).sum()
            # A picture twice as large shows the same object, as large as before, with room around it.
            states = actions.trajectory(action, np.random.default_rng(seed), frames=25) * [0.5, 0.5, 1, 1]
            states[:, 2] -= math.log(2)
            black, white = np.zeros((128, 128, 3), np.float32), np.full((8, 8, 3), 255, np.float32)
            whole += actions.render(states, background=black, texture=white)[..., 0].sum() / 255
    assert inside / whole > 0.9


def test_refuses_unknown_action_and_no_frames():
    with pytest.raises(ValueError, match=r"expected an action of .*found 'jumping'"):
        draw("jumping", 0)
    with pytest.raises(ValueError, match="at least one frame, found 0"):
        draw("growing", 0, frames=0)


def test_plan():
    videos = actions.plan({"train": 60, "test": 5}, seed=3)
    assert len(videos) == 65 * 8
    assert len({video.name for video in videos}) == len(videos)
    assert videos[0].name == "moving_left_0000.mp4"
    train = [video for video in videos if video.split == "train"]
    test = [video for video in videos if video.split == "test"]
    assert len(train) == 480
    assert {video.scene for video in train}.isdisjoint({video.scene for video in test})
    # Whatever is not the motion is the same for all actions.
    described = {
        action: [(v.split, v.scene, v.frames, v.height, v.width, v.frame_rate) for v in videos if v.action == action]
        for action in LABELS
    }
    assert all(description == described["growing"] for description in described.values())
    assert len({(video.height, video.width, video.frame_rate, video.frames) for video in train}) == 60
    for video in videos:
        assert video.height % 2 == 0
        assert video.width % 2 == 0
        assert min(video.height, video.width) >= 80
        assert 0.98 <= video.frames / video.frame_rate <= 1.55
    assert {video.frame_rate for video in videos} == {15, 24, 25, Fraction(30000, 1001), 30}


def test_more_videos_leave_the_earlier_ones_as_they_were():
    fewer = actions.plan({"train": 4}, seed=0)
    assert actions.plan({"train": 9}, seed=0)[: len(fewer)] == fewer


@pytest.mark.parametrize(
    ("videos", "seed", "found"), [({"train": 0}, 0, "'train', found 0"), ({"train": 1}, -1, "found -1")]
)
def test_plan_refuses(videos, seed, found):
    with pytest.raises(UserError, match=found):
        actions.plan(videos, seed=seed)


def test_dataset_of_real_files(tmp_path):
    videos = actions.plan({"train": 2, "test": 1}, seed=0)
    annotations = actions.draw_dataset(tmp_path / "new", videos, write_video)
    with annotations.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["video"], row["label"], row["split"]) for row in rows] == [(v.name, v.action, v.split) for v in videos]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"labels.csv", *(video.name for video in videos)}
    for video in videos[::5]:
        with av.open(str(tmp_path / "new" / video.name)) as container:
            stream = container.streams.video[0]
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
            assert stream.codec_context.name == "h264"
            assert stream.average_rate == video.frame_rate
        rng = np.random.default_rng(video.scene)
        drawn = actions.draw(
            video.action,
            rng,
            frames=video.frames,
            height=video.height,
            width=video.width,
            frame_rate=video.frame_rate,
        )
        assert np.abs(decoded.astype(int) - drawn).mean() < 4


def test_dataset_goes_on_where_it_stopped(tmp_path):
    videos = actions.plan({"train": 2}, seed=0)
    written = []

    def write(path, frames, frame_rate):
        if len(written) == 5:
            raise OSError("the disk is full")
        written.append(path.name)
        path.write_bytes(frames.tobytes())

    with pytest.raises(OSError, match="full"):
        actions.draw_dataset(tmp_path, videos, write)
    assert not (tmp_path / "labels.csv").exists()
    first = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(first) == 5

    resumed = []
    actions.draw_dataset(
        tmp_path, videos, lambda path, frames, rate: (resumed.append(path.name), path.write_bytes(frames.tobytes()))
    )
    assert resumed == [video.name for video in videos[5:]]
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in first} == first
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 17


def test_a_still_frame_says_nothing_to_a_nearest_neighbour():
    # By chance one answer in eight is right; of 320, three standard deviations are 0.055.
    def frames_of(scenes):
        pictures, labels = [], []
        for scene in scenes:
            for label, action in enumerate(actions.ACTIONS):
                rng = np.random.default_rng([scene, label])
                frames = actions.draw(action, rng, frames=25, height=32, width=32)
                pictures.append(frames[rng.integers(25)].ravel())
                labels.append(label)
        return np.stack(pictures).astype(np.float32), np.array(labels)

    known, known_labels = frames_of(range(60))
    asked, labels = frames_of(range(100, 140))
    distances = (known**2).sum(axis=1) - 2 * asked @ known.T
    accuracy = (known_labels[distances.argmin(axis=1)] == labels).mean()
    assert abs(accuracy - 1 / 8) < 0.055
