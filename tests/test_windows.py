"""Windows of videos of any length: which frames they hold, how often a video is read, and what is kept of it."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from helpers.moving_pictures import sliding, write_lossless

from i3d_jax import clips
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.video import pictures, windows
from i3d_jax.video.counting import expected_count
from i3d_jax.video.decode import UnreadableVideo, UnusableTimestamps, count_frames, decode
from i3d_jax.video.frames import Frames
from i3d_jax.video.pictures import Making, Picture, VideoFile
from i3d_jax.video.plans import Sliding, Spread
from i3d_jax.video.tvl1_backends import description
from i3d_jax.video.view import View
from i3d_jax.video.write import write_video

SIDE = 48
PLAIN = Preprocessing(short_side=SIDE)
WITH_FLOW = Preprocessing(short_side=SIDE, flow=description("opencv"))


def view(frames, *, streams=("rgb",), windows=1, crop=32, **sampling):
    stored = WITH_FLOW if "flow" in streams else PLAIN
    return View(
        streams=streams, sampling=clips.Sampling(frames=frames, **sampling), windows=windows, stored=stored, crop=crop
    )


def opened(path, of, **piece):
    return VideoFile(path, of.frames, Making(streams=of.streams, stored=of.stored), **piece)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("windows") / "video.mkv"
    write_lossless(path, sliding(40, right=1, down=0))
    return path


class Endless:
    """Frames without end, each of one value, of which nothing is stored."""

    frame_rate = 25.0

    def __init__(self, count):
        self._count = count

    def count(self, most=None):
        return self._count

    def pictures(self, spans, needed):
        for number in range(self._count):
            yield Picture("rgb", number, np.full((SIDE, SIDE, 3), number % 251, np.uint8))
        yield self._count


@pytest.mark.parametrize(("window", "stride"), [(16, 4), (16, 16), (4, 10)])
def test_no_more_frames_are_kept_than_a_window_holds(window, stride):
    """Whatever the length of the video, there is never more than one window of it."""
    frames = 2_700
    reading = windows._Reading(Endless(frames), Sliding(window, stride), [view(window)], windows.middle)
    most = found = 0
    for one in reading.windows():
        most = max(most, len(reading._held[0]["rgb"]))
        expected = (one.number * stride + np.arange(window)) % 251
        np.testing.assert_array_equal(one.pixels[0]["rgb"][0, :, 0, 0, 0], expected)
        found += 1
    assert found == (frames - window) // stride + 1
    assert most <= window


@pytest.mark.parametrize("overlap", [1, 4])
def test_a_frame_is_decoded_and_its_flow_computed_once(video, monkeypatch, overlap):
    counts = {"rgb": 0, "flow": 0}

    def counted(kind, function):
        def count(*arguments, **options):
            counts[kind] += 1
            return function(*arguments, **options)

        return count

    from i3d_jax.video.tvl1_backends import OpenCV

    monkeypatch.setattr(pictures, "jpeg", counted("rgb", pictures.jpeg))
    monkeypatch.setattr(OpenCV, "add", counted("flow", OpenCV.add))
    both = view(9, streams=("rgb", "flow"))
    found = list(windows.windows(opened(video, both), Sliding(8, 8 // overlap), [both]))
    assert len(found) == (40 - 8) // (8 // overlap) + 1
    assert counts == {"rgb": 40, "flow": 39}


def test_between_windows_that_do_not_touch_nothing_is_made(video, monkeypatch):
    made = []
    encode = pictures.jpeg
    monkeypatch.setattr(pictures, "jpeg", lambda *given: made.append(1) or encode(*given))
    of = view(9)
    apart = list(windows.windows(opened(video, of), Sliding(9, 15), [of]))
    # Of 40 frames: 0 to 8, 15 to 23, 30 to 38.
    assert [one.first for one in apart] == [0, 15, 30]
    assert len(made) == 27
    whole = np.concatenate([one.pixels[0]["rgb"] for one in windows.windows(opened(video, of), Sliding(9, 1), [of])])
    for one in apart:
        np.testing.assert_array_equal(one.pixels[0]["rgb"][0], whole[one.first])


def test_the_last_field_stands_for_the_one_that_there_is_not(video):
    flow = view(9, streams=("flow",))
    *_, last = windows.windows(opened(video, flow), Sliding(10, 10), [flow])
    pixels = last.pixels[0]["flow"][0]
    np.testing.assert_array_equal(pixels[-1], pixels[-2])
    assert not np.array_equal(pixels[-2], pixels[-3])


@pytest.mark.parametrize("count", [12, 55, None])
def test_another_number_of_frames_than_expected_is_noticed(video, monkeypatch, count):
    """Whatever the packets tell, the windows are those of the video's own number of frames."""
    of = view(9, windows=3)
    expected = list(windows.windows(opened(video, of), Spread(3), [of]))
    assert [one.first for one in expected] == [0, 15, 31]
    monkeypatch.setattr(pictures, "expected_count", lambda *arguments, **options: count)
    found = list(windows.windows(opened(video, of), Spread(3), [of]))
    # From the number 0 on again, where windows came before.
    begins = [place for place, one in enumerate(found) if not one.number]
    for one, same in zip(found[begins[-1] :], expected, strict=True):
        assert (one.number, one.first, one.after) == (same.number, same.first, same.after)
        np.testing.assert_array_equal(one.pixels[0]["rgb"], same.pixels[0]["rgb"])


def test_a_video_that_is_another_each_time_is_refused(video, monkeypatch):
    of = view(9, windows=3)
    source = opened(video, of)
    monkeypatch.setattr(source, "begin_anew", lambda error: None)
    monkeypatch.setattr(source, "count", lambda most=None: 12)
    with pytest.raises(UnreadableVideo, match="each time that it is read it has another number of frames"):
        list(windows.windows(source, Spread(3), [of]))


def test_what_lies_between_distant_windows_is_not_decoded(tmp_path, monkeypatch):
    frames = np.repeat(sliding(60, right=1, down=1), 25, axis=0)
    frames = np.ascontiguousarray(frames[..., :48, :64, :])
    write_video(tmp_path / "long.mp4", frames, 25)
    of = view(9)
    made = []
    monkeypatch.setattr(windows, "FAR", 250)
    original = pictures.decode

    def counted(*arguments, **options):
        for frame in original(*arguments, **options):
            made.append(1)
            yield frame

    monkeypatch.setattr(pictures, "decode", counted)
    found = list(windows.windows(opened(tmp_path / "long.mp4", of), Spread(4), [of]))
    assert len(made) < 100
    monkeypatch.setattr(windows, "FAR", 10_000)
    made.clear()
    whole = list(windows.windows(opened(tmp_path / "long.mp4", of), Spread(4), [of]))
    assert len(made) == 1500
    for one, same in zip(found, whole, strict=True):
        assert (one.first, one.after) == (same.first, same.after)
        np.testing.assert_array_equal(one.pixels[0]["rgb"], same.pixels[0]["rgb"])


@pytest.mark.parametrize(
    ("frames", "own", "seconds_at_25", "expected"),
    [
        (250, 1, 10, 1),  # The published networks: ten seconds are one window,
        (250, 1, 11, 1),  # and a rest of a tenth adds none;
        (250, 1, 12, 2),
        (250, 1, 60, 6),
        (16, 15, 9.6, 15),  # C3D's fifteen are those of the evaluation up to ten seconds,
        (16, 15, 10, 15),
        (16, 15, 20, 32),  # and more of a longer video.
        (16, 4, 1, 4),
        (64, 4, 12, 5),
    ],
)
def test_how_many_windows_cover_a_video(frames, own, seconds_at_25, expected):
    one = view(frames, windows=own)
    places = list(Spread().places([one], round(25 * seconds_at_25)))
    assert len(places) == expected
    assert places[0].first == 0
    # The rest that may be left.
    assert places[-1].after >= 25 * seconds_at_25 - frames / 10


def test_packets_tell_the_number_of_frames(real_videos):
    """As decoding does, for every real clip that has timestamps, whole and in pieces."""
    told = 0
    paths = sorted(path for path in real_videos.iterdir() if path.suffix in (".mp4", ".mkv", ".mov", ".gif", ".avi"))
    rates = (Frames(frame_rate=25.0, size=SIDE), Frames(frame_rate=None))
    for path, wanted, piece in itertools.product(paths, rates, ({}, {"start": 0.4, "end": 2.1})):
        expected = expected_count(path, wanted, **piece)
        try:
            found = count_frames(path, wanted, **piece)
        except (UnreadableVideo, UnusableTimestamps):
            continue
        if expected is not None:
            assert found == expected, path
            told += 1
    assert told >= 16


def test_native_frames_are_each_of_the_file_once(tmp_path):
    frames = sliding(30, right=1, down=0)
    write_video(tmp_path / "a.mkv", frames, 30, codec="ffv1", pixel_format="bgr0")
    found = np.stack(list(decode(tmp_path / "a.mkv", Frames())))
    np.testing.assert_array_equal(found, frames)
    piece = np.stack(list(decode(tmp_path / "a.mkv", Frames(), start=0.5, end=0.8)))
    np.testing.assert_array_equal(piece, frames[15:24])
    squashed = np.stack(list(decode(tmp_path / "a.mkv", Frames(size=(20, 32)))))
    assert squashed.shape == (30, 32, 20, 3)
    assert pictures.native_rate(tmp_path / "a.mkv") == 30


def test_two_networks_see_one_reading(video):
    rgb, flow = view(9), view(9, streams=("flow",))
    both = dataclasses.replace(view(9, streams=("rgb", "flow")), streams=("rgb", "flow"))
    found = list(windows.windows(opened(video, both), Spread(2), [rgb, flow]))
    apart = [list(windows.windows(opened(video, own), Spread(2), [own])) for own in (rgb, flow)]
    for number, window in enumerate(found):
        for place, stream in enumerate(("rgb", "flow")):
            expected = apart[place][number].pixels[0][stream]
            np.testing.assert_array_equal(window.pixels[place][stream], expected)
