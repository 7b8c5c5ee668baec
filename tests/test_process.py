"""From an annotated clip to what a record holds."""

import pickle

import cv2
import numpy as np
import pytest

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.ingest.annotations import AnnotatedClip
from i3d_jax.ingest.process import Skipped, process
from i3d_jax.video import encoded
from i3d_jax.video.decode import UnreadableVideo
from i3d_jax.video.encoded import decode_images, streams_of
from i3d_jax.video.write import write_video

SMALL = Preprocessing(short_side=32)
LABELS = ["chopping", "slicing"]


@pytest.fixture
def frames():
    """Eight plain frames, each of another colour: [8, 32, 48, 3]."""
    colours = [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 0),
        (0, 255, 255),
        (255, 0, 255),
        (90, 20, 200),
        (0, 0, 0),
    ]
    return np.array(colours, np.uint8)[:, None, None].repeat(32, axis=1).repeat(48, axis=2)


def clip(path="a.mkv", **piece):
    return AnnotatedClip(name="the clip", path=path, label="slicing", split="train", **piece)


def test_a_whole_video(tmp_path, frames):
    write_video(tmp_path / "a.mkv", frames, 25, codec="ffv1", pixel_format="bgr0")
    video = process(clip(), tmp_path, LABELS, SMALL)
    assert (video.name, video.data_path, video.label, video.label_index) == ("the clip", "a.mkv", "slicing", 1)
    assert (video.start_microseconds, video.end_microseconds) == (0, 320_000)
    assert (video.frame_rate, video.height, video.width) == (25.0, 32, 48)
    assert video.timestamps == (0, 40_000, 80_000, 120_000, 160_000, 200_000, 240_000, 280_000)
    np.testing.assert_allclose(decode_images(video.frames).astype(int), frames, atol=3)
    assert pickle.loads(pickle.dumps(video)) == video


def test_a_piece(tmp_path, frames):
    write_video(tmp_path / "a.mkv", frames, 25, codec="ffv1", pixel_format="bgr0")
    video = process(clip(start=0.12, end=0.2), tmp_path, LABELS, SMALL)
    assert (video.start_microseconds, video.end_microseconds) == (120_000, 200_000)
    assert video.timestamps == (0, 40_000)
    np.testing.assert_allclose(decode_images(video.frames).astype(int), frames[3:5], atol=3)


def test_frame_rates_that_are_no_whole_microseconds(tmp_path, frames):
    write_video(tmp_path / "a.mkv", frames, 30, codec="ffv1", pixel_format="bgr0")
    video = process(clip(), tmp_path, LABELS, Preprocessing(short_side=32, frame_rate=30))
    assert video.timestamps == (0, 33_333, 66_667, 100_000, 133_333, 166_667, 200_000, 233_333)


def test_a_repeated_frame_is_encoded_once(tmp_path, frames):
    write_video(tmp_path / "a.avi", frames[:2], 5, codec="ffv1", pixel_format="bgr0")
    jpegs = streams_of(tmp_path / "a.avi", SMALL)["rgb"]
    assert len(jpegs) == 10
    assert len({id(jpeg) for jpeg in jpegs}) == 2


def test_the_quality_decides_about_the_size(real_videos):
    path = real_videos / "v_Basketball_g01_c01.avi"
    low, high = (streams_of(path, Preprocessing(short_side=64, jpeg_quality=quality))["rgb"] for quality in (50, 95))
    assert len(low) == len(high) == 118
    assert 2 * sum(map(len, low)) < sum(map(len, high))


def test_a_video_with_timestamps_that_go_backwards_is_whole(real_videos):
    """The frames come from decoding a second time, and none of those of the first time is left."""
    streams = streams_of(real_videos / "v_ApplyEyeMakeup_g01_c01.avi", Preprocessing(short_side=240))
    frames = decode_images(streams["rgb"])
    captured = cv2.VideoCapture(str(real_videos / "v_ApplyEyeMakeup_g01_c01.avi"))
    assert frames.shape == (164, 240, 320, 3)
    for frame in frames:
        assert np.abs(frame.astype(int) - captured.read()[1][..., ::-1]).mean() < 5


def test_what_cannot_be_read_is_skipped(tmp_path, real_videos):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    assert process(clip("absent.mp4"), tmp_path, LABELS, SMALL) == Skipped("the clip", "missing")
    assert process(clip("folder.mp4"), tmp_path, LABELS, SMALL) == Skipped("the clip", "missing")
    assert process(clip("x" * 300), tmp_path, LABELS, SMALL) == Skipped("the clip", "missing")
    assert process(clip("empty.mp4"), tmp_path, LABELS, SMALL) == Skipped("the clip", "the file is empty")
    skipped = process(clip("corrupted.mp4"), real_videos, LABELS, SMALL)
    assert skipped.reason.startswith("decoding fails after 28 frames")


def test_a_video_too_long_for_a_record_is_skipped(tmp_path, frames, monkeypatch):
    write_video(tmp_path / "a.mkv", frames, 25, codec="ffv1", pixel_format="bgr0")
    sizes = [len(frame) for frame in streams_of(tmp_path / "a.mkv", SMALL)["rgb"]]
    monkeypatch.setattr(encoded, "MOST_BYTES", sum(sizes[:5]))
    with pytest.raises(UnreadableVideo, match=r"its first 6 frames take more than .* cut it with start and end"):
        streams_of(tmp_path / "a.mkv", SMALL)
