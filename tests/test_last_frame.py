"""The last frame lasts as long as the file says, in whole videos and in pieces that lie in it."""

from fractions import Fraction

import av
import pytest
from helpers.odd_videos import SHADES, numbered, quality, read

from i3d_jax.video.decode import UnreadableVideo
from i3d_jax.video.resample import resample


def write_still_end(path, frames, seconds, rate=25, codec="mpeg4", pixel_format="yuv420p"):
    """Writes frames of which the last one lasts so many seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=quality(codec))
        stream.height, stream.width, stream.pix_fmt = 32, 48, pixel_format
        packets = []
        for pixels in numbered(frames):
            packets += stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
        packets += stream.encode(None)
        packets[-1].duration = round(seconds / packets[-1].time_base)
        container.mux(packets)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("frames", [1, 2, 50])
def test_a_last_frame_that_lasts(tmp_path, suffix, frames):
    path = tmp_path / f"a{suffix}"
    write_still_end(path, frames, 4)
    expected = [number % SHADES for number in range(frames)] + [(frames - 1) % SHADES] * 99
    assert read(path) == (expected, [])
    begin = frames / 25 + 1
    assert read(path, start=begin, end=begin + 2) == (expected[-1:] * 50, [])
    with pytest.raises(UnreadableVideo, match="ends before the piece starts"):
        read(path, start=frames / 25 + 4, end=frames / 25 + 5)


def test_a_gif_whose_last_picture_stays(tmp_path):
    write_still_end(tmp_path / "a.gif", 10, 2, rate=10, codec="gif", pixel_format="gray")
    found, _ = read(tmp_path / "a.gif")
    assert len(found) == round(25 * (9 * 0.1 + 2))
    assert set(found[-50:]) == {9}


@pytest.mark.parametrize("lasts", [0, 10, 40, 55])
def test_a_usual_last_frame_changes_nothing(lasts):
    """It ends a mean frame interval after it begins, as ever: what writers state of it is rounded, or 0 or 1."""
    source = [(Fraction(40 * number, 1000), number) for number in range(10)]
    frames = list(resample(source, Fraction(100), last_until=lambda time, frame: time + Fraction(lasts, 1000)))
    assert frames == list(resample(source, Fraction(100)))


def test_a_last_frame_that_lasts_half_as_long_again():
    source = [(Fraction(40 * number, 1000), number) for number in range(10)]
    frames = list(resample(source, Fraction(100), last_until=lambda time, frame: time + Fraction(70, 1000)))
    assert len(frames) == 36 + 7


def test_the_public_file(cases):
    path = cases / "last_frame_lasts" / "still_end.mp4"
    assert len(read(path)[0]) == 249
    piece, notes = read(path, start=8, end=9)
    assert (len(piece), len(set(piece)), notes) == (25, 1, [])
