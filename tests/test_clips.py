import numpy as np
import pytest

from i3d_jax import clips
from i3d_jax.clips import Sampling
from i3d_jax.system.errors import UserError

# Table 1 of the paper.
I3D = Sampling(frames=64)
C3D = Sampling(frames=16, flow_per_frame=0)
CONV_LSTM = Sampling(frames=25, stride=5, flow_per_frame=0)
TWO_STREAM = Sampling(frames=1, flow_per_frame=10)
FUSED = Sampling(frames=5, stride=10, flow_per_frame=10)
BOTH = ("rgb", "flow")


def assert_windows(found, **expected):
    assert found.keys() == expected.keys()
    for stream, numbers in expected.items():
        assert found[stream].dtype == np.int64
        np.testing.assert_array_equal(found[stream], numbers)


@pytest.mark.parametrize(
    ("num_frames", "frames", "draw", "expected"),
    [
        (10, 4, 0.0, [0, 1, 2, 3]),
        (10, 4, 0.999999, [6, 7, 8, 9]),
        (10, 4, 0.5, [3, 4, 5, 6]),  # seven starts, 0 to 6
        (4, 4, 0.999999, [0, 1, 2, 3]),
        (3, 7, 0.999999, [0, 1, 2, 0, 1, 2, 0]),
        (1, 3, 0.2, [0, 0, 0]),
    ],
)
def test_windows_of_consecutive_frames(num_frames, frames, draw, expected):
    assert_windows(clips.training_window(num_frames, Sampling(frames=frames), draw), rgb=expected)


@pytest.mark.parametrize(
    ("num_frames", "sampling", "draw", "expected"),
    [
        (12, Sampling(frames=3, stride=5), 0.0, [0, 5, 10]),
        (12, Sampling(frames=3, stride=5), 0.999999, [1, 6, 11]),
        (11, Sampling(frames=3, stride=5), 0.999999, [0, 5, 10]),
        (7, Sampling(frames=4, stride=5), 0.999999, [0, 5, 3, 1]),  # 0, 5, 10, 15 in a video that is looped
        (121, CONV_LSTM, 0.999999, range(0, 121, 5)),
        (122, CONV_LSTM, 0.999999, range(1, 122, 5)),
    ],
)
def test_windows_of_frames_apart(num_frames, sampling, draw, expected):
    assert_windows(clips.training_window(num_frames, sampling, draw), rgb=list(expected))


@pytest.mark.parametrize(
    ("num_frames", "sampling", "draw", "rgb", "flow"),
    [
        # Five frames have the fields 0 to 3.
        (5, Sampling(frames=4), 0.999999, [0, 1, 2, 3], [0, 1, 2, 3]),
        (6, Sampling(frames=4), 0.0, [0, 1, 2, 3], [0, 1, 2, 3]),
        (6, Sampling(frames=4), 0.999999, [1, 2, 3, 4], [1, 2, 3, 4]),
        # Too short: frames 0 to 2, each with its field, again and again; frame 3 has none.
        (4, Sampling(frames=5), 0.999999, [0, 1, 2, 0, 1], [0, 1, 2, 0, 1]),
        (2, Sampling(frames=3), 0.5, [0, 0, 0], [0, 0, 0]),
        # Three fields around a frame: the one before, its own and the one after.
        (9, Sampling(frames=2, stride=4, flow_per_frame=3), 0.0, [1, 5], [0, 1, 2, 4, 5, 6]),
        (9, Sampling(frames=2, stride=4, flow_per_frame=3), 0.999999, [2, 6], [1, 2, 3, 5, 6, 7]),
        # Frame 5 with the fields 0 to 9, which lead from frame 0 to frame 10.
        (11, TWO_STREAM, 0.999999, [5], range(10)),
        (30, TWO_STREAM, 0.0, [5], range(10)),
        (30, TWO_STREAM, 0.999999, [24], range(19, 29)),
        (8, TWO_STREAM, 0.0, [5], [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]),
        (51, FUSED, 0.999999, [5, 15, 25, 35, 45], range(50)),
        (60, FUSED, 0.999999, [14, 24, 34, 44, 54], range(9, 59)),
    ],
)
def test_windows_of_frames_and_fields(num_frames, sampling, draw, rgb, flow):
    found = clips.training_window(num_frames, sampling, draw, streams=BOTH)
    assert_windows(found, rgb=list(rgb), flow=list(flow))
    for stream, numbers in (("rgb", rgb), ("flow", flow)):
        assert len(found[stream]) == sampling.count(stream) == len(numbers)
    alone = clips.training_window(num_frames, sampling, draw, streams=("flow",))
    assert_windows(alone, flow=list(flow))


@pytest.mark.parametrize(
    ("sampling", "num_frames", "streams", "starts"),
    [
        (Sampling(frames=4), 10, ("rgb",), range(7)),
        (Sampling(frames=4), 10, ("flow",), range(6)),
        (Sampling(frames=2, stride=3, flow_per_frame=4), 11, ("flow",), range(4)),
    ],
)
def test_every_start_is_equally_likely(sampling, num_frames, streams, starts):
    draws = (np.arange(100 * len(starts)) + 0.5) / (100 * len(starts))
    windows = [clips.training_window(num_frames, sampling, draw, streams=streams)[streams[0]] for draw in draws]
    np.testing.assert_array_equal(np.bincount([window[0] for window in windows]), [100] * len(starts))
    # The last window ends with the last frame or field.
    assert windows[-1][-1] == num_frames - (2 if "flow" in streams else 1)


@pytest.mark.parametrize(
    ("num_frames", "frames", "windows", "expected"),
    [
        (10, 4, 1, [[0, 1, 2, 3]]),
        (10, 4, 2, [[0, 1, 2, 3], [6, 7, 8, 9]]),
        (11, 4, 3, [[0, 1, 2, 3], [3, 4, 5, 6], [7, 8, 9, 10]]),  # 3.5 is rounded down
        (3, 5, 2, [[0, 1, 2, 0, 1], [0, 1, 2, 0, 1]]),
        (3, 5, 1, [[0, 1, 2, 0, 1]]),
    ],
)
def test_a_cover_of_frames(num_frames, frames, windows, expected):
    assert_windows(clips.cover(num_frames, Sampling(frames=frames), windows), rgb=expected)


def test_a_cover_of_frames_and_fields():
    found = clips.cover(9, Sampling(frames=2, stride=4, flow_per_frame=3), 2, streams=BOTH)
    assert_windows(found, rgb=[[1, 5], [2, 6]], flow=[[0, 1, 2, 4, 5, 6], [1, 2, 3, 5, 6, 7]])
    found = clips.cover(4, Sampling(frames=4), 2, streams=BOTH)
    assert_windows(found, rgb=[[0, 1, 2, 0]] * 2, flow=[[0, 1, 2, 0]] * 2)


def test_the_25_snapshots_of_the_two_stream_network():
    """Table 1: 25 frames and 250 fields of ten seconds, whose 250 frames have 249 fields."""
    found = clips.cover(250, TWO_STREAM, 25, streams=BOTH)
    assert found["rgb"].shape == (25, 1)
    assert found["flow"].shape == (25, 10)
    assert found["flow"][0].tolist() == list(range(10))
    assert found["flow"][-1].tolist() == list(range(239, 249))
    np.testing.assert_array_equal(found["flow"] - found["rgb"], np.tile(np.arange(-5, 5), (25, 1)))
    assert set(np.diff(found["rgb"][:, 0])) == {9, 10}


@pytest.mark.parametrize(
    ("num_frames", "sampling", "streams", "rgb", "flow"),
    [
        (64, I3D, ("rgb",), range(64), None),
        (100, I3D, ("rgb",), range(36, 100), None),
        # 64 fields need 65 frames.
        (65, I3D, BOTH, range(64), range(64)),
        (100, I3D, BOTH, range(35, 99), range(35, 99)),
        (100, I3D, ("flow",), None, range(35, 99)),
        (64, I3D, BOTH, [*range(63), 0], [*range(63), 0]),
        (16, C3D, ("rgb",), range(16), None),
        (40, C3D, ("rgb",), range(24, 40), None),
        # 0, 5, 10, … in a video of 10 frames that is looped.
        (10, CONV_LSTM, ("rgb",), [0, 5] * 12 + [0], None),
    ],
)
def test_the_last_training_window_of_table_1(num_frames, sampling, streams, rgb, flow):
    found = clips.training_window(num_frames, sampling, 0.999999, streams=streams)
    assert_windows(found, **{name: list(part) for name, part in (("rgb", rgb), ("flow", flow)) if part is not None})


@pytest.mark.parametrize(
    ("sampling", "streams", "rgb", "flow"),
    [
        (Sampling(frames=250), ("rgb",), range(250), None),
        # 250 frames have the fields 0 to 248: the last place shows the first again, frame and field alike.
        (Sampling(frames=250), BOTH, [*range(249), 0], [*range(249), 0]),
        (Sampling(frames=240, flow_per_frame=0), ("rgb",), range(240), None),
        (Sampling(frames=50, stride=5, flow_per_frame=0), ("rgb",), range(0, 250, 5), None),
        # Two-Stream and 3D-Fused: 25 frames, each in the middle of its ten fields.
        (Sampling(frames=25, stride=10, flow_per_frame=10), BOTH, range(5, 250, 10), [*range(249), 0]),
    ],
    ids=["i3d", "two_stream_i3d", "c3d", "conv_lstm", "two_stream and fused"],
)
def test_the_cover_of_ten_seconds_of_table_1(sampling, streams, rgb, flow):
    found = clips.cover(250, sampling, 1, streams=streams)
    assert_windows(found, **{name: [list(part)] for name, part in (("rgb", rgb), ("flow", flow)) if part is not None})


def test_windows_over_a_video_of_every_architecture():
    assert_windows(clips.cover(48, C3D, 3), rgb=[range(16), range(16, 32), range(32, 48)])
    lstm = Sampling(frames=3, stride=5, flow_per_frame=0)
    assert_windows(clips.cover(21, lstm, 3), rgb=[[0, 5, 10], [5, 10, 15], [10, 15, 20]])
    rgb = [[5, 15, 25, 35, 45], [30, 40, 50, 60, 70], [55, 65, 75, 85, 95]]
    flow = [range(50), range(25, 75), range(50, 100)]
    assert_windows(clips.cover(101, FUSED, 3, streams=BOTH), rgb=rgb, flow=flow)
    assert_windows(
        clips.cover(130, I3D, 2, streams=BOTH), rgb=[range(64), range(65, 129)], flow=[range(64), range(65, 129)]
    )


@pytest.mark.parametrize("num_frames", [64, 65, 250, 301])
def test_windows_span_the_video(num_frames):
    numbers = clips.cover(num_frames, I3D, 10)["rgb"]
    assert numbers[0, 0] == 0
    assert numbers[-1, -1] == num_frames - 1
    steps = np.diff(numbers[:, 0])
    assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize(("num_frames", "streams"), [(0, ("rgb",)), (-1, ("rgb",)), (1, ("flow",)), (1, BOTH)])
def test_too_few_frames_are_refused(num_frames, streams):
    with pytest.raises(ValueError, match=r"num_frames must be [12] or more"):
        clips.training_window(num_frames, I3D, 0.5, streams=streams)
    with pytest.raises(ValueError, match=r"num_frames must be [12] or more"):
        clips.cover(num_frames, I3D, 1, streams=streams)


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="draw must be in"):
        clips.training_window(10, I3D, 1.0)
    with pytest.raises(ValueError, match="windows must be 1 or more"):
        clips.cover(10, I3D, 0)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"frames": 0}, "frames must be 1 or more, found 0"),
        ({"frames": 4, "stride": 0}, "stride must be 1 or more, found 0"),
        ({"frames": 4, "flow_per_frame": -1}, "flow_per_frame must be 0 or more, found -1"),
    ],
)
def test_samplings_out_of_range_are_refused(counts, message):
    with pytest.raises(UserError, match=message):
        Sampling(**counts)


@pytest.mark.parametrize("streams", [(), ("depth",), ("rgb", "rgb"), "rgb"])
def test_other_streams_are_refused(streams):
    with pytest.raises(UserError, match="the streams must be one or both of rgb, flow"):
        clips.check_streams(streams, I3D)


def test_flow_of_a_network_that_takes_none_is_refused():
    with pytest.raises(UserError, match="'flow' was asked for with flow_per_frame 0"):
        clips.cover(200, CONV_LSTM, 1, streams=("flow",))


@pytest.mark.parametrize("streams", [("rgb",), ("flow",), ("rgb", "flow")])
@pytest.mark.parametrize("sampling", [Sampling(frames=64), Sampling(frames=5, stride=10, flow_per_frame=10)])
def test_one_window_sees_the_frames_that_it_reaches_and_no_more(sampling, streams):
    frames = clips.reach(sampling, streams=streams)
    fitting, longer = (clips.cover(count, sampling, 1, streams=streams) for count in (frames, frames + 50))
    shorter = clips.cover(frames - 1, sampling, 1, streams=streams)
    for stream in streams:
        np.testing.assert_array_equal(fitting[stream], longer[stream])
    assert any(not np.array_equal(fitting[stream], shorter[stream]) for stream in streams)
