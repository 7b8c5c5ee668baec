from fractions import Fraction

import av
import numpy as np
import pytest

from i3d_jax.system.errors import UserError
from i3d_jax.video.write import write_video


def moving_ramps(frames=12, height=48, width=64) -> np.ndarray:
    """Smooth colours that shift by two pixels a frame: what a codec keeps to within a few grey levels."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    red = 128 + 40 * np.sin((x + 2 * t) / 9)
    green = 128 + 40 * np.cos((y - 2 * t) / 11)
    blue = 128 + 30 * np.sin((x + y) / 13)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def read(path):
    """Decodes a whole file: (frames, average rate, time of every frame in seconds, sample aspect ratio)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames, seconds = [], []
        for frame in container.decode(stream):
            frames.append(frame.to_ndarray(format="rgb24"))
            seconds.append(frame.pts * frame.time_base)
        return np.stack(frames), stream.average_rate, seconds, stream.sample_aspect_ratio


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("a.mp4", "libx264", "yuv420p"), ("a.mkv", "libx264", "yuv444p"), ("a.avi", "mpeg4", "yuv420p")],
)
def test_frames_come_back_within_a_few_grey_levels(tmp_path, name, codec, pixel_format):
    frames = moving_ramps()
    write_video(tmp_path / name, frames, 25, codec=codec, pixel_format=pixel_format)
    decoded, *_ = read(tmp_path / name)
    assert decoded.shape == frames.shape
    difference = np.abs(decoded.astype(int) - frames)
    assert difference.mean() < 2
    assert difference.max() <= 12


def test_ffv1_keeps_every_pixel(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 31, 47, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mkv", frames, 25, codec="ffv1", pixel_format="bgr0")
    np.testing.assert_array_equal(read(tmp_path / "a.mkv")[0], frames)


@pytest.mark.parametrize(
    ("frame_rate", "expected"),
    [
        (15, Fraction(15)),
        (12.5, Fraction(25, 2)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
        (30000 / 1001, Fraction(30000, 1001)),
    ],
)
def test_frame_rate_and_timestamps_are_exact(tmp_path, frame_rate, expected):
    write_video(tmp_path / "a.mp4", moving_ramps(frames=9), frame_rate)
    _, rate, seconds, _ = read(tmp_path / "a.mp4")
    assert rate == expected
    assert seconds == [index / expected for index in range(9)]


@pytest.mark.parametrize("frames", [1, 2, 40])
def test_frame_count(tmp_path, frames):
    write_video(tmp_path / "a.mp4", moving_ramps(frames=frames), 25)
    assert len(read(tmp_path / "a.mp4")[0]) == frames


def test_sample_aspect_ratio(tmp_path):
    write_video(tmp_path / "a.mp4", moving_ramps(), 25, sample_aspect_ratio=Fraction(64, 51))
    assert read(tmp_path / "a.mp4")[3] == Fraction(64, 51)


def test_takes_an_iterable_and_a_view(tmp_path):
    frames = moving_ramps()
    write_video(tmp_path / "array.mp4", frames[:, ::-1], 25)
    write_video(tmp_path / "iterable.mp4", (frame[::-1] for frame in frames), 25)
    assert (tmp_path / "array.mp4").read_bytes() == (tmp_path / "iterable.mp4").read_bytes()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_same_frames_give_same_bytes(tmp_path, name):
    # Blocks of random colour, moving, with B-frames: x264's macroblock tree would answer differently here.
    colours = np.random.default_rng(0).integers(0, 256, (14, 18, 3), dtype=np.uint8)
    picture = colours.repeat(8, axis=0).repeat(8, axis=1)
    frames = np.stack([np.roll(picture, shift, axis=1) for shift in range(30)])
    written = set()
    for _ in range(6):
        write_video(tmp_path / name, frames, 25)
        written.add((tmp_path / name).read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), "found none"),
        (np.zeros((2, 8, 8, 3), np.float32), "frame 0: expected uint8"),
        (np.zeros((2, 8, 8), np.uint8), r"found uint8 \[8, 8\]"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"found uint8 \[8, 8, 4\]"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)], r"frame 1: expected \[8, 8, 3\]"),
        (np.zeros((2, 9, 8, 3), np.uint8), "expected even sides"),
    ],
)
def test_refuses_wrong_frames_and_leaves_nothing(tmp_path, frames, found):
    with pytest.raises(UserError, match=found):
        write_video(tmp_path / "a.mp4", frames, 25)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("frame_rate", "codec", "found"), [(0, "libx264", "positive"), (25, "h264", "libx264, mpeg4")])
def test_refuses_wrong_rate_and_codec(tmp_path, frame_rate, codec, found):
    with pytest.raises(UserError, match=found):
        write_video(tmp_path / "a.mp4", moving_ramps(), frame_rate, codec=codec)
    assert list(tmp_path.iterdir()) == []


def test_failure_on_the_way_keeps_the_file_that_was_there(tmp_path):
    write_video(tmp_path / "a.mp4", moving_ramps(), 25)
    before = (tmp_path / "a.mp4").read_bytes()

    def breaks_off():
        yield from moving_ramps(frames=3)
        raise RuntimeError("the frames end here")

    with pytest.raises(RuntimeError, match="end here"):
        write_video(tmp_path / "a.mp4", breaks_off(), 25)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == before
