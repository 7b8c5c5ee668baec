"""Small videos with known flow, prepared by the command: what the tests of `prepare --flow` share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from helpers.moving_pictures import HEIGHT, sliding, write_lossless
from i3d_jax import prepare
from i3d_jax.ingest.process import process


def write_videos(folder: Path, count: int) -> Path:
    """Writes `count` sliding videos of 3 or 4 frames, the last three of split "test", and two that are skipped."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["video,label,split", "damaged.mkv,left,train", "still.mkv,right,train"]
    (folder / "damaged.mkv").write_bytes(b"damaged")
    write_lossless(folder / "still.mkv", sliding(1, right=0, down=0))
    for number in range(count):
        name = f"{number}.mkv"
        write_lossless(folder / name, sliding(3 + number % 2, right=number % 4 - 1, down=1, seed=number))
        rows.append(f"{name},{('left', 'right')[number % 2]},{'test' if number >= count - 3 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def arguments(videos: Path, directory: Path, *more: str) -> list[str]:
    """Returns the command line that prepares them without flow."""
    folders = ["--annotations", str(videos / "labels.csv"), "--videos", str(videos), "--output", str(directory)]
    return [*folders, "--short_side", str(HEIGHT), "--name", "slides", *more]


def run(videos: Path, directory: Path, *more: str) -> Path:
    """Prepares them in this process."""
    prepare.main(arguments(videos, directory, "--processes", "1", *more))
    return directory


def files(directory: Path) -> dict[str, bytes]:
    """Returns every file's bytes by its path in the folder."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def die_of_number_one(job, clip):
    """Takes the place of `Job.read` in its processes, which import this file: `1.mkv` crashes them."""
    if clip.path == "1.mkv":
        os.kill(os.getpid(), signal.SIGSEGV)
    return process(clip, job.videos, job.labels, job.preprocessing)
