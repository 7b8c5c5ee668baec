"""Files whose frame size changes on the way, and what is said of them and of HDR: by prepare, --check and predict."""

import csv
import itertools
import json
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.odd_videos import numbered, read, write
from helpers.small_checkpoints import save_stream

from i3d_jax import predict, prepare
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.video.decode import decode

CHANGES = "the frame size changes from {} to {} after {} frames: all are brought to the first size"
HDR = "it is HDR ({}), which is not tone-mapped: its colours come out pale"


def write_changing(path, sizes, codec="libvpx", frames=20):
    """Writes VP8 (its packets hold their size), `frames` frames of each (width, height), of which the left is white."""
    packets = []
    for width, height in sizes:
        encoder = av.CodecContext.create(codec, "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
        encoder.options = {"lag-in-frames": "0"}
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:, : width // 2] = 255
        for _ in range(frames):
            packets += encoder.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
        packets += encoder.encode(None)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = sizes[0]
        stream.pix_fmt = "yuv420p"
        for number, packet in enumerate(packets):
            packet.stream = stream
            packet.time_base = Fraction(1, 25)
            packet.pts = packet.dts = number
            container.mux(packet)


@pytest.mark.parametrize("sizes", [[(64, 48), (32, 32)], [(32, 32), (128, 64), (32, 32)], [(48, 64), (64, 48)]])
def test_all_frames_come_out_at_the_first_size(tmp_path, sizes):
    path = tmp_path / "a.webm"
    write_changing(path, sizes)
    notes = []
    frames = list(decode(path, Preprocessing(short_side=32), note=notes.append))
    width, height = sizes[0]
    scale = 32 / min(width, height)
    assert {frame.shape for frame in frames} == {(round(height * scale), round(width * scale), 3)}
    assert len(frames) == 20 * len(sizes)
    for frame in frames:
        edge = frame.shape[1] // 2
        assert frame[:, : edge - 4].min() > 235
        assert frame[:, edge + 4 :].max() < 20
    pairs = itertools.pairwise(sizes)
    names = [["x".join(map(str, size)) for size in pair] for pair in pairs]
    assert notes == [CHANGES.format(*pair, 20 * (number + 1)) for number, pair in enumerate(names)]


def test_the_public_file(cases):
    found, notes = read(cases / "frame_size_changes" / "resize.webm")
    assert len(found) == 150
    assert notes == [CHANGES.format("320x240", "160x120", 50), CHANGES.format("160x120", "320x240", 100)]


def write_hdr(path, transfer):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.codec_context.color_trc = transfer
        for pixels in numbered(10, 48, 64):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p10le")
            frame.color_trc = transfer
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("changing")
    write_changing(folder / "changing.webm", [(64, 48), (32, 32)])
    write_hdr(folder / "pq.mp4", 16)
    write_hdr(folder / "hlg.mkv", 18)
    write(folder / "usual.mp4", numbered(20))
    names = ("hlg.mkv", "usual.mp4", "changing.webm", "pq.mp4")
    (folder / "labels.csv").write_text("video,label,split\n" + "".join(f"{name},x,train\n" for name in names))
    return folder


NOTES = [
    ["hlg.mkv", HDR.format("HLG"), "train"],
    ["changing.webm", CHANGES.format("64x48", "32x32", 20), "train"],
    ["pq.mp4", HDR.format("PQ"), "train"],
]


def arguments(folder):
    options = ["--short_side", "32", "--processes", "1"]
    return ["--annotations", str(folder / "labels.csv"), "--videos", str(folder), *options]


def test_prepare_says_it_and_writes_it_down(folder, tmp_path, capsys):
    command = [*arguments(folder), "--output", str(tmp_path / "dataset")]
    for _ in range(2):  # What the shards' indexes hold is said again.
        assert prepare.main(command) == 0
        printed = capsys.readouterr().out
        assert [line for line in printed.splitlines() if "note on" in line] == [
            f"  note on {name}: {note}" for name, note, _ in NOTES
        ]
        assert list(csv.reader((tmp_path / "dataset" / "notes.csv").open())) == [["video", "note", "split"], *NOTES]


def test_without_notes_there_is_no_file_of_them(folder, tmp_path):
    command = [*arguments(folder), "--output", str(tmp_path / "dataset")]
    assert prepare.main(command) == 0
    (tmp_path / "usual.csv").write_text("video,label,split\nusual.mp4,x,train\n")
    command[1] = str(tmp_path / "usual.csv")
    assert prepare.main(command) == 0
    assert not (tmp_path / "dataset" / "notes.csv").exists()
    [index] = tmp_path.glob("dataset/index/*.json")
    assert "notes" not in json.loads(index.read_text())


def test_check_says_which_are_hdr(folder, capsys):
    assert prepare.main([*arguments(folder), "--check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train: 4 listed, 4 there, 0 missing, 0 unreadable",
        "classes: 1 listed",
        f"  note on hlg.mkv: {HDR.format('HLG')}",
        f"  note on pq.mp4: {HDR.format('PQ')}",
    ]


def test_predict_says_it(folder, capsys):
    save_stream(folder / "rgb", stream="rgb")
    video = str(folder / "changing.webm")
    assert predict.main([video, str(folder / "usual.mp4"), "--checkpoint", str(folder / "rgb"), "--top_k", "1"]) == 0
    assert capsys.readouterr().err == f"{video}: {NOTES[1][1]}\n"
