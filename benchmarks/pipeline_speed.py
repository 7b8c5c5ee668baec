"""Times the training pipeline: clips a second beside the image decoder alone on the same bytes, and beside PyTorch.

A clip is 64 frames (or flow fields) of short side 256, of which 224 pixels are cut out. The decoder alone makes the
same images from the same bytes with the same function through tf.data on all cores, and drops them: image by image, and
a whole clip at a time, which is the fastest way found. PyTorch is a DataLoader with a worker for every core whose data
set decodes the videos themselves by PyAV. They take turns; a ratio is ours by theirs, of neighbours in time.
With --requests it tells instead what a clip reads of a dataset with flow, and what pauses before each request cost.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import importlib.util
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import machine
import numpy as np
import stored_clips

from i3d_jax.system import files
from i3d_jax.system.errors import UserError, run

EXAMPLE = """\
examples:
  python benchmarks/pipeline_speed.py --videos VIDEOS --json pipeline.json
  python benchmarks/pipeline_speed.py --videos VIDEOS --work WORK --streams rgb,flow
  python benchmarks/pipeline_speed.py --videos VIDEOS --work WORK --requests
"""
PACKAGES = ("tensorflow", "torch", "av")
FRAMES, SHORT_SIDE, CROP = 64, 256, 224
SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm")
# Of TV-L1 a core makes about one field a second: this many videos and seconds of each are enough for clips.
FLOW_VIDEOS, FLOW_SECONDS = 2, 2.64
# Where its frames and fields are repeated.
SHORT_SECONDS = 0.4
OURS, IMAGES, CLIPS, PYTORCH = "our pipeline", "decoder, image by image", "decoder, clip by clip", "PyTorch, PyAV"
COLUMNS = ("stream", "", "clips/s", "CPU, ms a clip", "ours by it", "lowest to highest", "CPU, its by ours")


class Turn(NamedTuple):
    """One timing: clips a second, and the processor time of a clip in seconds, None where other processes work."""

    rate: float
    processor: float | None


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark."""
    options = _parser().parse_args(arguments)
    for stream in options.streams:
        if stream not in ("rgb", "flow"):
            raise UserError(f"--streams are of rgb and flow, found {stream!r}")
    if options.clips % options.batch:
        raise UserError(f"--clips must be a multiple of --batch, {options.batch}, found {options.clips}")
    if options.json and not options.json.parent.is_dir():
        raise UserError(f"the folder of --json does not exist: {options.json.parent}")
    if importlib.util.find_spec("torch") is None and not options.requests:
        raise UserError('PyTorch, which is compared with, is not installed: pip install -e ".[torch]"')
    about = machine.about([name for name in PACKAGES if importlib.util.find_spec(name)], gpu=None)
    machine.print_about(about)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        videos = _videos(options.videos, work)
        if options.requests:
            directory = stored_clips.lengthened(_dataset("flow", videos, work / "short", SHORT_SECONDS), work / "long")
            rows = stored_clips.measure(directory, clips=options.clips, batch=options.batch, repeats=options.repeats)
        else:
            rows = _all_rows(videos, work, options)
    if options.json:
        with files.written_whole(options.json) as file:
            file.write(json.dumps({**about, "rows": rows}, indent=1).encode())


def _all_rows(videos: Sequence[Path], work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times each stream's contenders, with a table for all."""
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * 2}{'---:|' * (len(COLUMNS) - 2)}", flush=True)
    return [row for stream in options.streams for row in _rows(stream, videos, work, options)]


def _rows(stream: str, videos: Sequence[Path], work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times one stream's contenders in turn, prints and returns a row for each."""
    contenders = _contenders(stream, videos, _dataset(stream, videos, work), options)
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for number in range(1 + options.repeats):
        for name, take in contenders.items():
            turn = take()
            # The first turn of each warms up.
            if number:
                turns[name].append(turn)
    rows = [_summary(stream, name, own, turns[OURS]) for name, own in turns.items()]
    for row in rows:
        _print_row(row)
    return rows


def _contenders(stream: str, videos: Sequence[Path], dataset: Path, options: argparse.Namespace) -> dict[str, Callable]:
    """What is timed: by name, a function that takes a turn."""
    from i3d_jax.clips import Sampling
    from i3d_jax.data import pipeline
    from i3d_jax.data.dataset import open_dataset

    opened = open_dataset(dataset)
    batch_options = pipeline.BatchOptions(
        batch_size=options.batch, sampling=Sampling(frames=FRAMES), streams=(stream,), crop=CROP, max_damaged_share=0.0
    )

    def batches():
        return pipeline.training_batches(opened, "train", batch_options, flip=True, seed=0)

    # The clips that the timed batches begin with: those behind them only keep the pipeline at work.
    images = [batches().encoded(row).streams[stream].images for row in range(options.clips)]
    timed = functools.partial(_timed, clips=options.clips, batch=options.batch)
    contenders = {
        OURS: lambda: timed(batches()),
        IMAGES: lambda: timed(_decoder(list(itertools.chain(*images)), FRAMES * options.batch)),
        CLIPS: lambda: timed(_decoder(images, options.batch)),
    }
    if stream == "rgb":
        contenders[PYTORCH] = lambda: _timed_pytorch(videos, clips=options.clips, batch=options.batch)
    return contenders


def _timed(batches: Iterator, *, clips: int, batch: int) -> Turn:
    """Takes `clips` clips after as many that are not timed: by then nothing is left of what was made ahead at rest.

    The consumer is faster than any contender, so that those are always at work, before and after.
    """
    for _ in range(clips // batch):
        next(batches)
    begin, processor = time.perf_counter(), time.process_time()
    for _ in range(clips // batch):
        next(batches)
    rate, used = clips / (time.perf_counter() - begin), time.process_time() - processor
    return Turn(rate, used / clips)


def _decoder(encoded: list, batch: int) -> Iterator:
    """Decodes images, or clips of images, again and again on all cores; of each element a number is left."""
    from i3d_jax.data import cpu_tensorflow
    from i3d_jax.records import image

    tf = cpu_tensorflow.load()
    stored = tf.constant(encoded)

    def height(image_bytes):
        return tf.shape(image.decode(image_bytes))[0]

    def decode(number):
        element = stored[number % len(encoded)]
        return tf.map_fn(height, element, fn_output_signature=tf.int32) if stored.shape.rank == 2 else height(element)

    numbers = tf.data.Dataset.range(np.iinfo(np.int64).max)
    decoded = numbers.map(decode, num_parallel_calls=os.cpu_count(), deterministic=False)
    return iter(decoded.batch(batch).prefetch(2))


def _timed_pytorch(videos: Sequence[Path], *, clips: int, batch: int) -> Turn:
    """The same of a DataLoader with a worker for every core."""
    from torch.utils.data import DataLoader
    from video_loader import Videos

    workers = os.cpu_count()
    # Enough for the workers to be busy until the timing ends; the rest is taken, so that they end by themselves.
    more = 3 * workers * batch
    videos = Videos(videos, clips=2 * clips + more, frames=FRAMES, short_side=SHORT_SIDE, crop=CROP)
    # Forked from a process in which TensorFlow's threads run, a worker may hang.
    batches = iter(DataLoader(videos, batch, num_workers=workers, multiprocessing_context="spawn"))
    turn = _timed(batches, clips=clips, batch=batch)
    for _ in batches:
        pass
    return turn._replace(processor=None)


def _summary(stream: str, name: str, turns: Sequence[Turn], ours: Sequence[Turn]) -> dict[str, Any]:
    """Every single figure of a contender, the medians, and the ratios of neighbours in time."""
    ratios = [own.rate / their.rate for own, their in zip(ours, turns, strict=True)]
    processor = [turn.processor for turn in turns]
    counted = None not in processor
    return {
        "stream": stream,
        "name": name,
        "clips_per_second": [turn.rate for turn in turns],
        "processor_seconds": processor if counted else None,
        "rate": statistics.median(turn.rate for turn in turns),
        "processor": statistics.median(processor) if counted else None,
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "processor_ratio": statistics.median(processor) / statistics.median(turn.processor for turn in ours)
        if counted
        else None,
    }


def _print_row(row: dict[str, Any]) -> None:
    of_processor = [
        "" if row[key] is None else f"{scale * row[key]:.{digits}f}"
        for key, scale, digits in (("processor", 1000, 1), ("processor_ratio", 1, 2))
    ]
    ratios = (
        ("", "") if row["name"] == OURS else (row["ratio"], f"{row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f}")
    )
    ratio = ratios[0] and f"{ratios[0]:.2f}"
    cells = (row["stream"], row["name"], f"{row['rate']:.1f}", of_processor[0], ratio, ratios[1], of_processor[1])
    print(f"| {' | '.join(cells)} |", flush=True)


def _videos(folder: Path | None, work: Path) -> list[Path]:
    """The videos of a folder that hold a clip; drawn ones if none is named."""
    if folder is None:
        return _drawn(work / "videos")
    if not folder.is_dir():
        raise UserError(f"the folder of --videos does not exist: {folder}")
    found = [
        path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and _stored_frames(path) > FRAMES
    ]
    if not found:
        raise UserError(f"{folder} holds no video of at least {FRAMES} frames ({', '.join(SUFFIXES)})")
    return found


def _stored_frames(path: Path) -> float:
    """How many frames a video has at 25 a second; 0 where it cannot be decoded to its end."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return sum(1 for _ in container.decode(stream)) * 25 / float(stream.average_rate)
    except (av.FFmpegError, IndexError):
        return 0


def _drawn(folder: Path) -> list[Path]:
    """Four videos of ten seconds in Kinetics' usual size: a picture of blotches that drifts."""
    import cv2

    from i3d_jax.video.write import write_video

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"drawn_{number}.mp4" for number in range(4)]
    for number, path in enumerate(paths):
        random = np.random.default_rng(number)
        blotches = random.integers(0, 256, (24, 60, 3), np.uint8)
        picture = cv2.resize(blotches, (900, 360), interpolation=cv2.INTER_CUBIC)
        noise = random.integers(-6, 7, picture.shape)
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
        write_video(path, (picture[frame // 3 :][:256, 2 * frame :][:, :340] for frame in range(250)), 25)
    return paths


def _dataset(stream: str, videos: Sequence[Path], work: Path, seconds: float = FLOW_SECONDS) -> Path:
    """Prepares the videos, by the command that users run; what an earlier run has left is kept.

    With flow it is so many seconds of the first.
    """
    from i3d_jax import prepare

    chosen = videos if stream == "rgb" else videos[:FLOW_VIDEOS]
    directory, annotations = work / stream, work / f"{stream}.csv"
    work.mkdir(parents=True, exist_ok=True)
    with open(annotations, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("video", "label", "split", "start", "end"))
        piece = ("", "") if stream == "rgb" else (0, seconds)
        rows.writerows((path.name, "action", "train", *piece) for path in chosen)
    command = ["--annotations", str(annotations), "--videos", str(chosen[0].parent), "--output", str(directory)]
    if stream == "flow":
        command += ["--flow", "tvl1"]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        prepare.main([*command, "--short_side", str(SHORT_SIDE)])
    return directory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--videos", metavar="DIR", type=Path, help="a folder of videos (default: drawn ones)")
    streams_help = "rgb, flow or both with a comma between them (default: rgb); TV-L1 takes minutes the first time"
    add("--streams", metavar="NAMES", type=lambda text: text.split(","), default=["rgb"], help=streams_help)
    add("--requests", action="store_true", help="tell what clips read, and what slow requests cost")
    add("--work", metavar="DIR", type=Path, help="keeps the prepared videos for another run (default: nowhere)")
    add("--clips", metavar="N", type=machine.positive, default=48, help="of a timing (default: %(default)s)")
    add("--batch", metavar="N", type=machine.positive, default=8, help="clips of a batch (default: %(default)s)")
    add("--repeats", metavar="N", type=machine.positive, default=7, help="timings of each (default: %(default)s)")
    add("--json", metavar="FILE", type=Path, help="write the same, with every single figure, for programs")
    return parser


if __name__ == "__main__":
    run(main)
