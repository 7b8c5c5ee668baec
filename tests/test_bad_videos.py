"""Videos that are unusual or broken, through the whole preparation, and how much memory a very long one takes."""

import csv
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.flow_videos import run

from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.ingest.process import streams_of
from i3d_jax.video.decode import UnreadableVideo, decode
from i3d_jax.video.write import write_video

ROOT = Path(__file__).parents[1]
SMALL = Preprocessing(short_side=32)
LOSSLESS = {"codec": "ffv1", "pixel_format": "bgr0"}


def noise(frames):
    return np.random.default_rng(0).integers(0, 256, (frames, 32, 48, 3), np.uint8)


def prepared(folder, rows):
    (folder / "labels.csv").write_text("\n".join(rows))
    run(folder, folder / "dataset", "--shards", "1")
    (index,) = folder.glob("dataset/index/*.json")
    index = json.loads(index.read_text())
    skipped = list(csv.reader((folder / "dataset" / "skipped.csv").open()))[1:]
    return dict(zip(index["names"], index["frames"], strict=True)), skipped


def test_names_of_files(tmp_path):
    names = ["with blanks.mkv", """it's "quoted".mkv""", "a,b.mkv", "Köln 跑.mkv", "a..b.mkv", "one/x.mkv", "two/x.mkv"]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, noise(2 + number), 25, **LOSSLESS)
    broken = """brö"ken, 1.mkv"""
    (tmp_path / broken).touch()
    quoted = [name.replace('"', '""') for name in [*names, broken]]
    found, skipped = prepared(tmp_path, ["video,label,split", *(f'"{name}",x,train' for name in quoted)])
    assert found == {name: 2 + number for number, name in enumerate(names)}
    assert skipped == [[broken, "the file is empty", "train"]]
    assert open_dataset(tmp_path / "dataset").splits["train"].videos == 7


def test_pieces_at_and_beyond_the_end(tmp_path):
    write_video(tmp_path / "a.mkv", noise(50), 25, **LOSSLESS)
    found, skipped = prepared(
        tmp_path, ["video,label,split,start,end", "a.mkv,x,train,1,9", "a.mkv,x,train,2,3", "a.mkv,x,train,0.5,1"]
    )
    assert found == {"a.mkv#t=1,9": 25, "a.mkv#t=0.5,1": 12}
    assert skipped == [["a.mkv#t=2,3", "it ends before the piece starts at 2 s", "train"]]


def test_a_thousand_frames_a_second(tmp_path):
    """Every 40th frame: 400 of them are 0.4 s, ten frames."""
    write_video(tmp_path / "a.mkv", noise(10).repeat(40, axis=0), 1000, **LOSSLESS)
    assert len(set(streams_of(tmp_path / "a.mkv", SMALL)["rgb"])) == 10


def test_no_frames_a_second(tmp_path):
    """An AVI file whose header says 0 frames a second, and 0 microseconds for each; FFmpeg takes them as 25."""
    write_video(tmp_path / "a.avi", noise(20), 25, **LOSSLESS)
    content = bytearray((tmp_path / "a.avi").read_bytes())
    rate, duration = content.index(b"strh") + 8 + 24, content.index(b"avih") + 8
    assert content[rate : rate + 4] == (25).to_bytes(4, "little")
    content[rate : rate + 4] = content[duration : duration + 4] = bytes(4)
    (tmp_path / "a.avi").write_bytes(content)
    assert len(streams_of(tmp_path / "a.avi", SMALL)["rgb"]) == 20


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix"),
    [
        ("ffv1", "gray", ".mkv"),
        ("ffv1", "gray16le", ".mkv"),
        ("png", "rgb48be", ".mov"),
        ("png", "rgba", ".mov"),
        ("ffv1", "yuv420p10le", ".mkv"),
        ("ffv1", "yuva444p", ".mkv"),
    ],
)
def test_files_of_other_pixel_formats(tmp_path, codec, pixel_format, suffix):
    """A grey slope from black on the left to white on the right comes back as it is."""
    slope = np.linspace(0, 255, 48).round().astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(np.broadcast_to(slope[:, None], (32, 48, 3)).copy(), format="rgb24")
    with av.open(str(tmp_path / f"a{suffix}"), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pixel_format
        for _ in range(3):
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode(None))
    frames = list(decode(tmp_path / f"a{suffix}", SMALL))
    assert len(frames) == 3
    for pixels in frames:
        assert np.abs(pixels.astype(int) - slope[:, None]).max() <= 2


def test_a_timestamp_far_in_the_future(tmp_path):
    """A year of still picture: it is too long, and neither time nor memory goes into finding that out."""
    milliseconds = Fraction(1, 1000)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "bgr0"
        stream.time_base = stream.codec_context.time_base = milliseconds
        for number, time in enumerate([0, 40, 365 * 24 * 3600 * 1000]):
            frame = av.VideoFrame.from_ndarray(noise(3)[number], format="rgb24")
            frame.pts, frame.time_base = time, milliseconds
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableVideo, match=r"its first \d+ frames take more than 1024 MiB: cut it"):
        streams_of(tmp_path / "a.mkv", SMALL)


# Prepares, in this process, a minute of a long video, then the video as a whole, with flow and without, and a piece
# that just fits; prints the reasons, the sizes and the peak of this process's memory in each, in MiB.
MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.flow import codec
from i3d_jax.video import encoded, fields
from i3d_jax.ingest.annotations import AnnotatedClip
from i3d_jax.ingest.local import make_shards
from i3d_jax.ingest.plan import plan
from i3d_jax.ingest.shard import Job

class Still:
    add = lambda self, previous, following: sys.exit("flow of a video that is too long")
    finish = lambda self: []

fields.BACKENDS["still"] = Still
encoded.MOST_BYTES = int(sys.argv[2]) << 20
folder = Path(sys.argv[1])
memory = lambda kind: int(Path("/proc/self/status").read_text().partition(kind + ":")[2].split()[0]) / 1024

def prepare(number, seconds, described=None):
    clip = AnnotatedClip(name=str(number), path="long.mkv", label="a", split="train", end=seconds)
    preprocessing = Preprocessing(short_side=96, frame_rate=1, flow=described)
    (shard,) = plan([clip], folder, labels=["a"], preprocessing=preprocessing)
    directory = folder / str(number)
    directory.mkdir()
    job = Job(videos=folder, directory=directory, labels=("a",), preprocessing=preprocessing)
    # The peak begins anew; that of the process which started this one would count otherwise.
    Path("/proc/self/clear_refs").write_text("5")
    make_shards([shard], job, processes=1)
    index = shard.finished(directory)
    return [reason for _, reason in index.skipped], sum(index.lengths), memory("VmHWM")

still = codec.description(implementation="still", version="1")
print(json.dumps([prepare(0, 60), prepare(1, None, still), prepare(2, None), prepare(3, 4000)]))
"""


def test_the_memory_of_three_hours(tmp_path):
    """Above what a minute takes, no more than twice the limit until the video is found too long, and no more than three
    times the limit for one that is written."""
    world = np.random.default_rng(0).integers(0, 256, (96, 528, 3), np.uint8)
    frames = (world[:, number % 400 : number % 400 + 128] for number in range(3 * 3600))
    write_video(tmp_path / "long.mkv", frames, 1, codec="mpeg4")
    # Large, so that what an allocator keeps and a codec's threads take counts for little.
    limit = 64
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(limit)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    minute, with_flow, whole, fitting = json.loads(done.stdout)
    assert minute[0] == fitting[0] == []
    # With flow the frames are counted first, and fields take as much again.
    for (reasons, size, peak), most in ((whole, limit), (with_flow, limit // 2)):
        assert f"take more than {most} MiB: cut it with start and end" in reasons[0]
        assert size == 0
        assert peak - minute[2] < 2 * limit
    assert 0.8 * limit < fitting[1] / 2**20 < limit * 1.1
    assert fitting[2] - minute[2] < 3 * limit


PLAYLISTS = {
    # HLS, by absolute path and by address; FFmpeg's own, by a name beside it.
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{video}\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile beside.mp4\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_no_other_file(tmp_path, name):
    (tmp_path / "videos").mkdir()
    for folder in (tmp_path, tmp_path / "videos"):
        write_video(folder / "beside.mp4", noise(10), 25, codec="libx264")
    path = tmp_path / "videos" / name
    path.write_text(PLAYLISTS[name].format(video=tmp_path / "beside.mp4"))
    # FFmpeg follows it where nothing is said.
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).width > 0
    with pytest.raises(UnreadableVideo, match="playlist"):
        next(iter(decode(path, Preprocessing())))
