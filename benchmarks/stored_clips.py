"""How many bytes a clip reads of a prepared dataset with flow, and how fast clips come where each request takes time.

Two indexes are compared: version 1, by which records are read whole, and version 2, by which images are. A request is a
record or a run of neighbouring images; the time that it takes in a bucket is a pause before it.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

FRAMES, VIDEOS, SHARDS = 250, 8, 2  # Ten seconds each, as in Kinetics.
CROP = 224
COLUMNS = (
    *("network", "stream", "index", "ms a request", "at a time"),
    *("MB a clip", "by those used", "requests a clip", "clips/s", "of those without a pause"),
)


class Turn(NamedTuple):
    """One timing: clips a second, and of a clip the bytes read and the requests."""

    rate: float
    read: float
    requests: float


class Case(NamedTuple):
    """What is timed.

    Attributes:
      network: whose clips, by its name.
      stream: which it sees.
      version: of the index.
      pause: before each request, in seconds.
      at_a_time: clips that are read at the same time.
    """

    network: str
    stream: str | None
    version: int
    pause: float
    at_a_time: int


# A clip of 11 images is decoded so quickly that 16 at a time cannot be enough.
CASES = [
    Case(network, stream, version, pause, at_a_time)
    for network, stream, at_a_time in (("i3d", "rgb", 16), ("i3d", "flow", 16), ("two_stream", None, 64))
    for version in (1, 2)
    for pause in (0, 0.03)
]


def lengthened(short: Path, directory: Path) -> Path:
    """Writes the dataset of ten-second videos whose frames and fields are those of a shorter one again and again."""
    from i3d_jax.data.dataset import DESCRIPTION, Split, open_dataset, write_description
    from i3d_jax.data.reader import VideoOpener
    from i3d_jax.records.example import StoredVideo, encode
    from i3d_jax.records.image_table import TableWriter
    from i3d_jax.records.shards import ShardIndex, ShardWriter, index_path, shard_name

    if (directory / DESCRIPTION).exists():
        return directory
    dataset = open_dataset(short)
    opener = VideoOpener(dataset, ("rgb", "flow"))
    sources = itertools.cycle([opener.open(place) for place in dataset.records("train")])
    (directory / "index").mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        path = directory / shard_name("train", shard, SHARDS)
        table = TableWriter()
        names = [f"video{shard}_{number}" for number in range(VIDEOS // SHARDS)]
        with ShardWriter(path) as writer:
            for name, source in zip(names, sources, strict=False):
                fields = [number % (source.num_frames - 1) for number in range(FRAMES - 1)]
                video = StoredVideo(
                    name=name,
                    data_path=name,
                    label=dataset.labels[0],
                    label_index=0,
                    start_microseconds=0,
                    end_microseconds=40_000 * FRAMES,
                    frame_rate=25.0,
                    height=source.height,
                    width=source.width,
                    frames=tuple(source.images([("rgb", number) for number in (*fields, 0)])),
                    timestamps=tuple(range(0, 40_000 * FRAMES, 40_000)),
                    flow=tuple(source.images([("flow", number) for number in fields])),
                )
                record = encode(video)
                table.add(writer.write(record), record)
        index = ShardIndex(
            fingerprint="",
            names=tuple(names),
            frames=(FRAMES,) * len(names),
            lengths=tuple(writer.lengths),
            skipped=(),
            table_crc32c=table.write(path),
        )
        index.write(index_path(path))
    split = Split(videos=VIDEOS, frames=FRAMES * VIDEOS, shards=SHARDS, skipped=0)
    write_description(
        directory, name="long", labels=dataset.labels, splits={"train": split}, preprocessing=dataset.preprocessing
    )
    return directory


def measure(directory: Path, *, clips: int, batch: int, repeats: int) -> list[dict[str, Any]]:
    """Times the cases in turn; prints and returns a row for each."""
    turns: dict[Case, list[Turn]] = {case: [] for case in CASES}
    for number in range(1 + repeats):
        for case, own in turns.items():
            turn = _timed(directory, case, clips=clips, batch=batch)
            # The first turn of each warms up.
            if number:
                own.append(turn)
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * 2}{'---:|' * (len(COLUMNS) - 2)}", flush=True)
    return [_row(directory, case, own, turns[case._replace(pause=0)]) for case, own in turns.items()]


def _row(directory: Path, case: Case, turns: list[Turn], local: list[Turn]) -> dict[str, Any]:
    used = _used(directory, case)
    ratios = [one.rate / other.rate for one, other in zip(turns, local, strict=True)]
    read, requests = (statistics.median(values) for values in zip(*[turn[1:] for turn in turns], strict=True))
    rate, ratio = statistics.median(turn.rate for turn in turns), statistics.median(ratios)
    of_local = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if case.pause else ""
    stream = case.stream or "both"
    cells = (case.network, stream, case.version, f"{1000 * case.pause:.0f}", case.at_a_time, f"{read / 1e6:.2f}")
    more = (f"{read / used:.2f}", f"{requests:.1f}", f"{rate:.1f}", of_local)
    print(f"| {' | '.join(map(str, (*cells, *more)))} |", flush=True)
    return {**case._asdict(), "used": used, "turns": [turn._asdict() for turn in turns], "of_local": ratios}


def _batches(directory: Path, case: Case, batch: int):
    from i3d_jax import models
    from i3d_jax.clips import Sampling
    from i3d_jax.data.dataset import open_dataset
    from i3d_jax.data.pipeline import BatchOptions, training_batches

    network = models.create(case.network, 2, **({} if case.stream is None else {"stream": case.stream}))
    clip = network.training_clip
    options = BatchOptions(
        batch_size=batch,
        sampling=Sampling(frames=clip.frames, stride=clip.stride, flow_per_frame=network.flow_per_frame),
        streams=network.streams,
        crop=CROP,
        max_damaged_share=0.0,
        parallel_reads=case.at_a_time,
    )
    return training_batches(open_dataset(directory), "train", options, flip=True, seed=0)


def _used(directory: Path, case: Case) -> float:
    """The bytes of the images of a clip, the mean of a few."""
    batches = _batches(directory, case, 1)
    found = [batches.encoded(row) for row in range(VIDEOS)]
    images = [len(image) for clip in found for stream in clip.streams.values() for image in stream.images]
    return sum(images) / len(found)


def _timed(directory: Path, case: Case, *, clips: int, batch: int) -> Turn:
    with _requests(case) as made:
        batches = _batches(directory, case, batch)
        for _ in range(clips // batch):
            next(batches)
        begin = time.perf_counter()
        for _ in range(clips // batch):
            next(batches)
        rate = clips / (time.perf_counter() - begin)
        del batches
    # Clips are made ahead; each was one opening of a video.
    opened = made["opened"]
    return Turn(rate, made["read"] / opened, made["requests"] / opened)


@contextlib.contextmanager
def _requests(case: Case) -> Iterator[dict[str, int]]:
    """Counts the requests and their bytes, and pauses before each."""
    from i3d_jax.data import reader
    from i3d_jax.data.dataset import Dataset
    from i3d_jax.records import spans

    made = {"opened": 0, "requests": 0, "read": 0}
    lock = threading.Lock()
    read_block, read_clip = spans._read_block, reader.SplitReader.read

    def count(**more: int) -> None:
        with lock:
            for name, number in more.items():
                made[name] += number

    def block(descriptor, offset, length):
        time.sleep(case.pause)
        found = read_block(descriptor, offset, length)
        count(requests=1, read=len(found))
        return found

    def clip(self, place, choose):
        found = read_clip(self, place, choose)
        count(opened=1)
        return found

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(spans, "_read_block", block))
        patches.enter_context(mock.patch.object(reader.SplitReader, "read", clip))
        if case.version == 1:
            patches.enter_context(mock.patch.object(Dataset, "image_table", return_value=None))
        yield made
