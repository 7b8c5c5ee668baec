"""Files in which sound or subtitles last longer than the picture, and files that end before any of it should."""

import csv
import re

import av
import pytest
from helpers.odd_videos import numbered, read, write

from i3d_jax import prepare
from i3d_jax.video import decode
from i3d_jax.video.decode import UnreadableVideo, check_header

# Containers whose video track has a duration of its own, a tag, or neither.
SOUND = {
    ".mp4": ("mpeg4", "aac"),
    ".mov": ("mpeg4", "aac"),
    ".avi": ("mpeg4", "libmp3lame"),
    ".ts": ("mpeg2video", "aac"),
    ".mkv": ("mpeg4", "aac"),
    ".webm": ("libvpx", "libopus"),
    ".flv": ("flv", "libmp3lame"),
    ".asf": ("wmv2", "libmp3lame"),
    ".wmv": ("msmpeg4v3", "libmp3lame"),
    ".ogv": ("libvpx", "libopus"),
    ".nut": ("mpeg4", "libmp3lame"),
}


def write_with_sound(path, seconds, frames=75):
    codec, sound = SOUND[path.suffix]
    options = {"lag-in-frames": "0"} if codec == "libvpx" else {}
    write(path, numbered(frames), codec=codec, sound=(sound, seconds), options=options)


def without_tag(path):
    """Takes Matroska's tags of the tracks' durations away, as in what many recorders write."""
    content = path.read_bytes()
    assert b"DURATION" in content
    path.write_bytes(content.replace(b"DURATION", b"DEPARTED"))


@pytest.mark.parametrize(
    ("suffix", "tagged"), [*((suffix, True) for suffix in SOUND), (".mkv", False), (".webm", False)]
)
def test_sound_that_lasts_longer(tmp_path, suffix, tagged):
    path = tmp_path / f"a{suffix}"
    write_with_sound(path, 8)
    if not tagged:
        without_tag(path)
    found, notes = read(path)
    assert len(found) in (75, 76)  # Of an AVI file a frame may be lost at the start.
    assert notes == []


def test_subtitles_that_last_longer(cases):
    for name, frames in (("subs.mkv", 150), ("long_audio.mkv", 75), ("long_audio.webm", 75), ("long_audio.mp4", 75)):
        found, notes = read(cases / "other_track_longer" / name)
        assert (len(found), notes) == (frames, [])


# A WMV file that is cut off states no duration.
@pytest.mark.parametrize(
    ("suffix", "tagged"), [(".mkv", True), (".mkv", False), (".webm", True), (".webm", False), (".flv", False)]
)
def test_a_cut_off_file_with_sound_is_still_found_out(tmp_path, suffix, tagged):
    path = tmp_path / f"a{suffix}"
    codec, sound = SOUND[suffix]
    write_interleaved(path, codec, sound)
    if not tagged and suffix != ".flv":
        without_tag(path)
    assert len(read(path)[0]) == 150
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(UnreadableVideo, match=r"ends after \d\.\d of the 6\.\d s that the file states|cut off after"):
        read(path)


def write_interleaved(path, codec, sound):
    """Writes six seconds of picture and of sound, side by side as recorders do."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"lag-in-frames": "0"} if codec == "libvpx" else {})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        audio = container.add_stream(sound, rate=48000, layout="mono")
        for number, pixels in enumerate(numbered(150)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            for half in range(2):
                frame = av.AudioFrame(format="fltp", layout="mono", samples=960)
                for plane in frame.planes:
                    plane.update(bytes(plane.buffer_size))
                frame.sample_rate, frame.pts = 48000, 960 * (2 * number + half)
                container.mux(audio.encode(frame))
        container.mux(stream.encode(None))
        container.mux(audio.encode(None))


def test_a_tag_from_a_longer_file_does_not_count(tmp_path):
    """Cut out of a minute, the track keeps the minute's tag; no track lasts longer than its file."""
    path = tmp_path / "a.mkv"
    write(path, numbered(75))
    content = path.read_bytes()
    changed = re.sub(rb"00:00:0(\d\.\d{9})", rb"00:01:0\1", content)
    assert changed != content
    path.write_bytes(changed)
    assert len(read(path)[0]) == 75


@pytest.mark.parametrize(
    ("suffix", "tagged"), [(".mp4", True), (".mkv", True), (".mkv", False), (".flv", True), (".asf", True)]
)
def test_check_and_prepare_agree_on_pieces(tmp_path, suffix, tagged, capsys):
    path = tmp_path / f"a{suffix}"
    write_with_sound(path, 8)
    if not tagged:
        without_tag(path)
    (tmp_path / "labels.csv").write_text(f"video,label,split,start,end\na{suffix},x,train,2,3\na{suffix},x,train,5,6\n")
    arguments = ["--annotations", str(tmp_path / "labels.csv"), "--videos", str(tmp_path), "--processes", "1"]
    assert prepare.main([*arguments, "--check"]) == 2
    assert "train: 2 listed, 1 there, 0 missing, 1 unreadable" in capsys.readouterr().out
    assert prepare.main([*arguments, "--output", str(tmp_path / "dataset")]) == 0
    skipped = list(csv.reader((tmp_path / "dataset" / "skipped.csv").open()))[1:]
    assert skipped == [[f"a{suffix}#t=5,6", "it ends before the piece starts at 5 s", "train"]]


def test_check_decodes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.flv"
    write_with_sound(path, 8)
    monkeypatch.setattr(decode, "_frames", lambda *arguments: pytest.fail("frames are decoded"))
    check_header(path, start=2.5)
    with pytest.raises(UnreadableVideo, match="ends before the piece starts at 4 s"):
        check_header(path, start=4)
