"""Decoding: generated files whose every frame is known, real clips, and damage of many kinds."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.video import decode as decode_module
from i3d_jax.video.decode import UnreadableVideo, UnusableTimestamps, decode
from i3d_jax.video.write import write_video

AS_STORED = Preprocessing(short_side=32)  # The generated videos' own size: nothing is resized.
LOSSLESS = {"codec": "ffv1", "pixel_format": "bgr0"}


def noise(frames, height=32, width=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def smooth(frames, height=32, width=48):
    """A picture that moves and darkens, easy to compress; its frames all differ."""
    picture = cv2.GaussianBlur(noise(1, height, width + frames)[0], (0, 0), 3)
    return np.stack([picture[:, frame : frame + width] // 2 + 128 - frame % 128 for frame in range(frames)])


def write(path, frames, codec, pixel_format, frame_rate=25, options=None, degrees=0):
    """Writes what `write_video` does not: other codecs, keyframes at given places, a rotation tag."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=frame_rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        if degrees:
            stream.set_display_rotation(degrees)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_with_keyframes(path, frames, frame_rate, every):
    """Writes H.264 with B-frames and open groups of pictures."""
    options = {"x264-params": f"keyint={every}:min-keyint={every}:open-gop=1:bframes=3:mbtree=0"}
    write(path, frames, "libx264", "yuv420p", frame_rate, options)


def decoded(path, preprocessing=AS_STORED, **piece):
    return np.stack(list(decode(path, preprocessing, **piece)))


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_every_pixel_of_every_frame(tmp_path, suffix):
    frames = noise(20)
    write_video(tmp_path / f"a{suffix}", frames, 25, **LOSSLESS)
    np.testing.assert_array_equal(decoded(tmp_path / f"a{suffix}"), frames)


@pytest.mark.parametrize(
    ("frame_rate", "expected"),
    [
        (30, [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]),
        (28, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]),
        (Fraction(25, 2), [number // 2 for number in range(24)]),
        (Fraction(30000, 1001), [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]),
    ],
)
def test_resampling_a_file_to_25_frames_a_second(tmp_path, frame_rate, expected):
    frames = noise(12)
    write_video(tmp_path / "a.mkv", frames, frame_rate, **LOSSLESS)
    np.testing.assert_array_equal(decoded(tmp_path / "a.mkv"), frames[expected])


def test_other_target_frame_rate(tmp_path):
    frames = noise(12)
    write_video(tmp_path / "a.mkv", frames, 30, **LOSSLESS)
    np.testing.assert_array_equal(decoded(tmp_path / "a.mkv", Preprocessing(short_side=32, frame_rate=10)), frames[::3])


def test_a_repeated_frame_is_the_same_array(tmp_path):
    write_video(tmp_path / "a.mkv", noise(2), Fraction(25, 2), **LOSSLESS)
    first, second, third, fourth = decode(tmp_path / "a.mkv", AS_STORED)
    assert first is second
    assert third is fourth
    assert first is not third


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_the_rotation_tag_is_applied(tmp_path, degrees):
    frames = smooth(3)
    path = tmp_path / "a.mov"
    write(path, frames, "qtrle", "rgb24", degrees=degrees)  # Lossless.
    captured = cv2.VideoCapture(str(path))
    expected = np.stack([captured.read()[1][..., ::-1] for _ in frames])
    assert not np.array_equal(expected, frames)
    np.testing.assert_array_equal(decoded(path), expected)


def test_a_real_clip_held_upright(real_videos):
    """OpenCV applies the tag itself; its conversion to RGB differs a little."""
    _, expected = cv2.VideoCapture(str(real_videos / "rot_90.mov")).read()
    pixels = next(decode(real_videos / "rot_90.mov", Preprocessing(short_side=320)))
    assert pixels.shape == (568, 320, 3)
    assert np.abs(pixels.astype(int) - expected[..., ::-1]).mean() < 2


def test_pixels_become_square(tmp_path):
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    frames[:, :, :24] = 255
    write_video(tmp_path / "a.mp4", frames, 25, sample_aspect_ratio=Fraction(3, 2))
    pixels = decoded(tmp_path / "a.mp4")
    assert pixels.shape == (3, 32, 72, 3)
    assert (pixels[:, :, :34] > 240).all()
    assert (pixels[:, :, 38:] < 15).all()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("arm_wrestling.mp4", (250, 256, 427, 3)),
        ("cleaning_pool.mp4", (250, 256, 455, 3)),
        ("flipping_a_pancake.mkv", (258, 256, 454, 3)),
        ("v_BaseballPitch_g01_c01.avi", (89, 256, 341, 3)),
        ("v_CricketShot_g04_c01_rgb.gif", (79, 256, 256, 3)),
    ],
)
def test_real_clips(real_videos, name, shape):
    sizes = [frame.shape for frame in decode(real_videos / name, Preprocessing())]
    assert sizes == [shape[1:]] * shape[0]


def test_timestamps_that_go_backwards_are_not_used(real_videos):
    """By timestamps a third of this clip's frames would be repeated; by number all are there in their order."""
    path = real_videos / "v_ApplyEyeMakeup_g01_c01.avi"
    with pytest.raises(UnusableTimestamps):
        list(decode(path, Preprocessing()))
    frames = list(decode(path, Preprocessing(short_side=240), by_timestamps=False))
    captured = cv2.VideoCapture(str(path))
    assert len(frames) == 164
    for frame in frames:
        assert np.abs(frame.astype(int) - captured.read()[1][..., ::-1]).mean() < 3


def test_an_avi_file_with_b_frames_has_no_usable_timestamps(tmp_path):
    frames = smooth(40)
    write_with_keyframes(tmp_path / "a.avi", frames, 25, 20)
    with pytest.raises(UnusableTimestamps):
        decoded(tmp_path / "a.avi")
    by_number = decoded(tmp_path / "a.avi", by_timestamps=False)
    assert np.abs(by_number.astype(int) - frames).mean(axis=(1, 2, 3)).max() < 8


def test_timestamps_that_are_missing_are_not_used(tmp_path):
    write(tmp_path / "a.h264", smooth(20), "libx264", "yuv420p")
    with pytest.raises(UnusableTimestamps):
        decoded(tmp_path / "a.h264")
    assert len(decoded(tmp_path / "a.h264", by_timestamps=False)) == 20


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
@pytest.mark.parametrize("every", [30, 250])
def test_a_piece_is_a_slice_of_the_whole(tmp_path, suffix, every):
    path = tmp_path / f"a{suffix}"
    write_with_keyframes(path, smooth(300), 30, every)
    by_timestamps = suffix != ".avi"
    whole = decoded(path, by_timestamps=by_timestamps)
    assert len(whole) == 250
    for start, end in [(0, 0.4), (0.6, 1.2), (3.2, 4), (9, 30)]:
        piece = decoded(path, start=start, end=end, by_timestamps=by_timestamps)
        np.testing.assert_array_equal(piece, whole[round(start * 25) : round(end * 25)])


def test_a_start_is_the_decimal_number_that_was_written(tmp_path):
    """0.28 s is as near to 0.24 s as to 0.32 s; the float 0.28 is not."""
    frames = noise(8)
    write_video(tmp_path / "a.avi", frames, Fraction(25, 2), **LOSSLESS)
    np.testing.assert_array_equal(decoded(tmp_path / "a.avi", start=0.28, end=0.32), frames[3:4])


def test_a_piece_of_a_long_video_is_decoded_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write_with_keyframes(path, smooth(1000), 25, 25)
    decoded_frames = 0

    def counted(*arguments):
        nonlocal decoded_frames
        for frame in every_frame(*arguments):
            decoded_frames += 1
            yield frame

    every_frame = decode_module._frames
    monkeypatch.setattr(decode_module, "_frames", counted)
    assert len(decoded(path, start=35, end=36)) == 25
    assert decoded_frames < 100


def test_a_piece_after_the_end(tmp_path):
    write_video(tmp_path / "a.mkv", noise(50), 25, **LOSSLESS)
    with pytest.raises(UnreadableVideo, match=r"it ends before the piece starts at 7\.5 s"):
        decoded(tmp_path / "a.mkv", start=7.5, end=8)


@pytest.mark.parametrize(
    ("suffix", "reason"),
    [
        (".mp4", "opened as a video"),  # The table of frames stands at the end of an MP4 file.
        (".mkv", r"ends after \d\.\d of the 4\.0 s"),
        (".avi", r"damaged or cut off after \d+ frames"),
        (".ts", r"damaged or cut off after \d+ frames"),
    ],
)
def test_a_file_that_is_cut_off(tmp_path, suffix, reason):
    path = tmp_path / f"a{suffix}"
    # Of smaller pictures a third of all cuts in a .ts, which does not say how long it is, decodes without a complaint.
    write_with_keyframes(path, noise(100, 128, 160), 25, 20)
    by_timestamps = suffix != ".avi"
    assert len(decoded(path, by_timestamps=by_timestamps)) == 100
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(UnreadableVideo, match=reason):
        decoded(path, by_timestamps=by_timestamps)


def test_a_cut_off_packet_that_decodes_all_the_same(tmp_path):
    path = tmp_path / "a.avi"
    write(path, noise(40), "huffyuv", "yuv422p")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(UnreadableVideo, match=r"damaged or cut off after \d+ frames"):
        decoded(path)


def test_flipped_bits(tmp_path):
    path = tmp_path / "a.mp4"
    # In pictures of a few blocks one damage in eight decodes without a complaint, and the encoder's bytes, which decide
    # it, are not the same in every run.
    write_with_keyframes(path, noise(40, 128, 160), 25, 20)
    content = bytearray(path.read_bytes())
    for position in range(len(content) // 2, len(content) // 2 + 2000, 40):
        content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UnreadableVideo, match=r"after [1-9]\d* frames"):
        decoded(path)


def test_a_real_damaged_clip_says_how_far_it_came(real_videos):
    with pytest.raises(UnreadableVideo, match=r"^decoding fails after 28 frames: it is damaged there$"):
        decoded(real_videos / "corrupted.mp4", Preprocessing())


def test_a_frame_size_that_changes(tmp_path):
    parts = []
    for number, size in enumerate([(32, 48), (48, 64)]):
        write_with_keyframes(tmp_path / f"{number}.h264", smooth(30, *size), 25, 10)
        parts.append((tmp_path / f"{number}.h264").read_bytes())
    (tmp_path / "both.h264").write_bytes(b"".join(parts))
    notes = []
    frames = decoded(tmp_path / "both.h264", by_timestamps=False, note=notes.append)
    assert frames.shape == (60, 32, 48, 3)
    expected = [cv2.resize(frame, (48, 32)) for frame in smooth(30, 48, 64)]
    assert np.abs(frames[30:].astype(int) - expected).mean() < 8
    # The scan, then the frames.
    assert set(notes) == {
        "the frame size changes from 48x32 to 64x48 after 30 frames: all are brought to the first size"
    }


def test_files_that_are_no_videos(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name, reason in [
        ("empty.mp4", "the file is empty"),
        ("text.mp4", "it cannot be opened as a video: it is of no format that FFmpeg knows, or damaged"),
        ("sound.mp4", "it has no video stream"),
        ("absent.mp4", "it is not a file"),
    ]:
        with pytest.raises(UnreadableVideo, match=reason):
            decoded(tmp_path / name)


def test_a_picture_too_narrow_for_a_jpeg(tmp_path):
    write_video(tmp_path / "a.mkv", noise(2, 2, 1024), 25, **LOSSLESS)
    with pytest.raises(UnreadableVideo, match="1024x2 would become 131072x256"):
        decoded(tmp_path / "a.mkv", Preprocessing())


def test_a_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    write_video(tmp_path / "12:30 é.mkv", noise(2), 25, **LOSSLESS)
    monkeypatch.chdir(tmp_path)
    assert len(decoded("12:30 é.mkv")) == 2


def test_metadata_in_another_encoding_than_utf8(tmp_path):
    frames = noise(2)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        container.metadata["title"] = "Zuerich"
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    as_utf8 = (tmp_path / "a.mkv").read_bytes()
    assert as_utf8.count(b"Zuerich") == 1
    (tmp_path / "a.mkv").write_bytes(as_utf8.replace(b"Zuerich", "Zürich ".encode("latin-1")))
    np.testing.assert_array_equal(decoded(tmp_path / "a.mkv"), frames)
