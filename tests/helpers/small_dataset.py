"""A dataset of small videos for tests, and what its pixels are by OpenCV."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from i3d_jax.data.dataset import Dataset, Split, open_dataset, write_description
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.flow import codec
from i3d_jax.records.example import StoredVideo, encode
from i3d_jax.records.image_table import TableWriter
from i3d_jax.records.shards import ShardIndex, ShardWriter, index_path, shard_name

HEIGHT, WIDTH = 18, 21
LABELS = ("left", "right", "up")


@functools.cache
def jpegs(video: int, frames: int) -> tuple[bytes, ...]:
    """Frames of coloured blotches, no two alike."""
    random = np.random.default_rng([video, frames])
    blotches = random.integers(0, 256, (frames, 6, 6, 3), np.uint8)
    pictures = [cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for picture in blotches]
    return tuple(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes() for picture in pictures)


@functools.cache
def pixels(video: int, frames: int) -> np.ndarray:
    """The same frames as OpenCV decodes them, uint8 [frames, HEIGHT, WIDTH, 3], RGB."""
    decoded = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in jpegs(video, frames)]
    return np.stack(decoded)[..., ::-1]


@functools.cache
def fields(video: int, frames: int) -> np.ndarray:
    """Flow bytes of the video, no two fields alike: uint8 [frames - 1, HEIGHT, WIDTH, 2]."""
    return np.random.default_rng([1, video, frames]).integers(0, 256, (frames - 1, HEIGHT, WIDTH, 2), np.uint8)


def pngs(video: int, frames: int) -> tuple[bytes, ...]:
    """The same fields encoded: R = u, G = v, B = 0, which OpenCV takes as B, G, R."""
    pictures = [np.dstack([0 * field[..., 0], field[..., 1], field[..., 0]]) for field in fields(video, frames)]
    return tuple(cv2.imencode(".png", picture)[1].tobytes() for picture in pictures)


def stored_video(video: int, frames: int, *, flow: bool = False) -> StoredVideo:
    return StoredVideo(
        name=f"video{video}",
        data_path=f"folder/video{video}.mp4",
        label=LABELS[video % 3],
        label_index=video % 3,
        start_microseconds=1_000_000,
        end_microseconds=1_000_000 + 40_000 * frames,
        frame_rate=25.0,
        height=HEIGHT,
        width=WIDTH,
        frames=jpegs(video, frames),
        timestamps=tuple(range(0, 40_000 * frames, 40_000)),
        flow=pngs(video, frames) if flow else (),
    )


def write_dataset(
    directory: Path,
    lengths: Sequence[int],
    *,
    shards: int = 2,
    split: str = "train",
    flow: bool = False,
    index_version: int = 2,
) -> Dataset:
    """Writes video0, video1, … of `lengths` frames, in this order from the first shard to the last."""
    directory.mkdir(exist_ok=True)
    for shard, numbers in enumerate(np.array_split(np.arange(len(lengths)), shards)):
        videos = [stored_video(int(number), lengths[number], flow=flow) for number in numbers]
        path = directory / shard_name(split, shard, shards)
        table = TableWriter()
        with ShardWriter(path) as writer:
            for video in videos:
                table.add(writer.write(encode(video)), encode(video))
        index_path(path).parent.mkdir(exist_ok=True)
        index = ShardIndex(
            fingerprint="test",
            names=tuple(video.name for video in videos),
            frames=tuple(len(video.frames) for video in videos),
            lengths=tuple(writer.lengths),
            skipped=(),
            table_crc32c=table.write(path) if index_version == 2 else None,
        )
        index.write(index_path(path))
    size = Split(videos=len(lengths), frames=sum(lengths), shards=shards, skipped=0)
    description = codec.description(implementation="random", version="1") if flow else None
    preprocessing = Preprocessing(short_side=HEIGHT, flow=description)
    write_description(directory, name="small", labels=LABELS, splits={split: size}, preprocessing=preprocessing)
    return open_dataset(directory)


def note_shards(directory: Path) -> None:
    """Adds to `dataset.json` what each shard holds, by its index, as `prepare` writes it."""
    path = directory / "dataset.json"
    description = json.loads(path.read_text())
    for split, size in description["splits"].items():
        shards = [directory / shard_name(split, shard, size["shards"]) for shard in range(size["shards"])]
        size["shard_videos"] = [len(json.loads(index_path(shard).read_text())["names"]) for shard in shards]
        size["shard_bytes"] = [shard.stat().st_size for shard in shards]
    path.write_text(json.dumps(description))
