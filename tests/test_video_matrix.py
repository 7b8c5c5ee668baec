"""Containers, codecs, depths, ranges, sizes and timings: the number that is drawn into each frame is read back."""

from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.odd_videos import quality

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.video.decode import UnusableTimestamps, decode
from i3d_jax.video.resample import resample

FRAMES = 60
BITS = (2, 4)  # Rows and columns of blocks, black or white: the binary digits of a frame's number.
RATE = Fraction(25)


def drawn(number, height, width):
    """Returns uint8 [H, W, 3] with the number in its blocks."""
    rows, columns = (np.arange(side) * blocks // side for side, blocks in zip((height, width), BITS, strict=True))
    bit = rows[:, None] * BITS[1] + columns
    return np.repeat((255 * (number >> bit & 1)).astype(np.uint8)[..., None], 3, axis=2)


def read_back(pixels):
    """Returns the number in uint8 [H, W, 3]; black must be black and white white."""
    height, width = pixels.shape[:2]
    number = 0
    for bit in range(BITS[0] * BITS[1]):
        row, column = divmod(bit, BITS[1])
        block = pixels[
            height * (4 * row + 1) // 8 : height * (4 * row + 3) // 8,
            width * (4 * column + 1) // 16 : width * (4 * column + 3) // 16,
        ]
        value = block.mean()
        assert min(value, 255 - value) < 12, value
        number |= int(value > 128) << bit
    return number


def numbers(path, short_side, **piece):
    preprocessing = Preprocessing(short_side=short_side)
    try:
        return [read_back(pixels) for pixels in decode(path, preprocessing, **piece)]
    except UnusableTimestamps:
        return [read_back(pixels) for pixels in decode(path, preprocessing, by_timestamps=False, **piece)]


def write(path, codec, pixel_format, *, size=(64, 48), rate=25, options=None, times=None, colour_range=None):
    """Writes `FRAMES` frames; times are milliseconds of each, None for a constant rate."""
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={**quality(codec), **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.thread_count = 1
        if colour_range:
            stream.codec_context.color_range = colour_range
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(drawn(number, height, width), format="rgb24")
            frame = frame.reformat(format=pixel_format, dst_color_range=colour_range or None)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


B_FRAMES = {"bf": "3", "g": "20"}
OPEN = {"x264-params": "keyint=20:min-keyint=20:open-gop=1:bframes=3:mbtree=0"}
VP8 = {"lag-in-frames": "0", "deadline": "realtime", "cpu-used": "8"}
CONTAINERS = [
    (".mp4", "libx264", "yuv420p", OPEN),
    (".mp4", "mpeg4", "yuv420p", B_FRAMES),
    (".mp4", "libvpx-vp9", "yuv420p", VP8),
    (".mov", "libx264", "yuv420p", OPEN),
    (".mov", "prores_ks", "yuv422p10le", {}),
    (".mov", "mjpeg", "yuvj420p", {"qmin": "1", "qmax": "2"}),
    (".mov", "qtrle", "rgb24", {}),
    (".mov", "png", "rgb24", {}),
    (".mkv", "libx264", "yuv420p", OPEN),
    (".mkv", "mpeg2video", "yuv420p", B_FRAMES),
    (".mkv", "ffv1", "yuv420p", {}),
    (".mkv", "rawvideo", "yuv420p", {}),
    (".webm", "libvpx", "yuv420p", VP8),
    (".webm", "libvpx-vp9", "yuv420p", VP8),
    (".avi", "mpeg4", "yuv420p", {"g": "20"}),
    (".avi", "mpeg4", "yuv420p", B_FRAMES),
    (".avi", "libx264", "yuv420p", OPEN),
    (".avi", "mjpeg", "yuvj420p", {"qmin": "1", "qmax": "2"}),
    (".avi", "huffyuv", "yuv422p", {}),
    (".flv", "flv", "yuv420p", {}),
    (".flv", "libx264", "yuv420p", OPEN),
    (".ts", "mpeg2video", "yuv420p", B_FRAMES),
    (".ts", "libx264", "yuv420p", OPEN),
    (".mpg", "mpeg2video", "yuv420p", B_FRAMES),
    (".ogv", "libvpx", "yuv420p", VP8),  # PyAV has no encoder for Theora.
    (".wmv", "wmv2", "yuv420p", {}),
    (".wmv", "wmv1", "yuv420p", {}),
    (".3gp", "mpeg4", "yuv420p", {"g": "20"}),
    (".3gp", "libx264", "yuv420p", {"bf": "0"}),
    (".y4m", "wrapped_avframe", "yuv420p", {}),
    (".h264", "libx264", "yuv420p", OPEN),
    (".gif", "gif", "rgb8", {}),
    (".apng", "apng", "rgb24", {}),
]


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format", "options"), CONTAINERS, ids=[f"{row[1]}{row[0]}" for row in CONTAINERS]
)
def test_containers(tmp_path, suffix, codec, pixel_format, options):
    path = tmp_path / f"a{suffix}"
    write(path, codec, pixel_format, options=options)
    whole = numbers(path, 48)
    assert whole == list(range(FRAMES))
    for start, end in ((0.4, 1.2), (1.6, 2.4), (1.32, 9)):
        assert numbers(path, 48, start=start, end=end) == whole[round(start * 25) : round(end * 25)]


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format"),
    [
        (".mkv", "ffv1", "yuv420p9le"),
        (".mkv", "ffv1", "yuv420p10le"),
        (".mkv", "ffv1", "yuv422p12le"),
        (".mkv", "ffv1", "gray12le"),
        (".mkv", "ffv1", "gbrp12le"),
        (".mkv", "ffv1", "gbrp16le"),
        (".mp4", "libx264", "yuv420p10le"),
        (".mp4", "libx264", "yuv444p"),
        (".mov", "prores_ks", "yuv444p10le"),
        (".webm", "libvpx-vp9", "yuv444p"),
        (".mp4", "libsvtav1", "yuv420p10le"),
        (".y4m", "wrapped_avframe", "yuv422p"),
    ],
)
def test_depths(tmp_path, suffix, codec, pixel_format):
    options = {"libvpx-vp9": {**VP8, "profile": "1"}, "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"}}
    write(tmp_path / f"a{suffix}", codec, pixel_format, options=options.get(codec))
    assert numbers(tmp_path / f"a{suffix}", 48) == list(range(FRAMES))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("colour_range", [1, 2], ids=["limited", "full"])
def test_ranges(tmp_path, suffix, colour_range):
    """`read_back` sees that black is black and white white."""
    write(tmp_path / f"a{suffix}", "libx264", "yuv420p", colour_range=colour_range)
    assert numbers(tmp_path / f"a{suffix}", 48) == list(range(FRAMES))


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format"),
    [
        (".mkv", "ffv1", "yuv420p"),
        (".mp4", "libx264", "yuv444p"),
        (".webm", "libvpx-vp9", "yuv420p"),
        (".gif", "gif", "rgb8"),
        (".apng", "apng", "rgb24"),
        (".mov", "qtrle", "rgb24"),
        (".y4m", "wrapped_avframe", "yuv420p"),
    ],
)
@pytest.mark.parametrize("size", [(63, 49), (65, 47), (33, 71)])
def test_odd_sizes(tmp_path, suffix, codec, pixel_format, size):
    options = VP8 if codec == "libvpx-vp9" else {}
    write(tmp_path / f"a{suffix}", codec, pixel_format, size=size, options=options)
    for short_side in (min(size), 64):
        assert numbers(tmp_path / f"a{suffix}", short_side) == list(range(FRAMES))


@pytest.mark.parametrize("rate", [10, 12, 15, Fraction(24000, 1001), Fraction(30000, 1001), 50, 60])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_rates(tmp_path, suffix, rate):
    if suffix == ".ts" and rate in (10, 12, 15):
        options, codec = {}, "libx264"  # MPEG-2 has no such rates.
    else:
        options, codec = B_FRAMES if suffix == ".ts" else {}, "mpeg2video" if suffix == ".ts" else "mpeg4"
    write(tmp_path / f"a{suffix}", codec, "yuv420p", rate=rate, options=options)
    expected = list(resample([(number / Fraction(rate), number) for number in range(FRAMES)], RATE))
    found = numbers(tmp_path / f"a{suffix}", 48)
    if suffix == ".mkv":  # Its milliseconds may break a tie.
        assert abs(len(found) - len(expected)) <= 1
        assert all(abs(one - other) <= 1 for one, other in zip(found, expected, strict=False))
    else:
        assert found == expected


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("seed", range(3))
def test_variable_rates(tmp_path, suffix, seed):
    steps = np.random.default_rng(seed).choice([17, 33, 34, 50, 100, 400], FRAMES, p=[0.2, 0.2, 0.2, 0.2, 0.15, 0.05])
    times = [0, *np.cumsum(steps).tolist()][:FRAMES]
    codec, options = ("libvpx", VP8) if suffix == ".webm" else ("libx264", OPEN)
    write(tmp_path / f"a{suffix}", codec, "yuv420p", options=options, times=times)
    expected = list(resample([(Fraction(time, 1000), number) for number, time in enumerate(times)], RATE))
    found = numbers(tmp_path / f"a{suffix}", 48)
    # The last frame may last longer by the file than the mean of all.
    assert found[: len(expected) - 1] == expected[: len(expected) - 1]
    assert set(found[len(expected) - 1 :]) <= {FRAMES - 1}


def remux(source, target, move):
    """Copies the packets of an MP4 file, moved in time by so many frames of 25 a second."""
    with av.open(str(source)) as original, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(original.streams.video[0])
        for packet in original.demux(video=0):
            if packet.dts is None:
                continue
            ticks = round(move / 25 / packet.time_base)
            packet.pts += ticks
            packet.dts += ticks
            packet.stream = stream
            container.mux(packet)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("move", [-12, 50])
def test_edit_lists(tmp_path, codec, move):
    """One that leaves out the first frames, and one that begins later: then time begins with the first frame."""
    write(tmp_path / "a.mp4", codec, "yuv420p", options=OPEN if codec == "libx264" else {"g": "20"})
    remux(tmp_path / "a.mp4", tmp_path / "b.mp4", move)
    assert numbers(tmp_path / "b.mp4", 48) == list(range(max(0, -move), FRAMES))
