"""Makes a dataset folder on this machine, in one process or several; started again, only what is missing."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from i3d_jax.data.dataset import Split, write_description
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.data.records import ShardIndex, ShardWriter, StoredVideo, encode
from i3d_jax.errors import UserError
from i3d_jax.files import written_whole
from i3d_jax.ingest import output
from i3d_jax.ingest.annotations import Clip, combined_splits
from i3d_jax.ingest.plan import Shard, plan
from i3d_jax.ingest.process import Skipped, process
from i3d_jax.ingest.workers import in_order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a dataset folder holds now: its splits, stored and combined, and the clips left out, as they were listed."""

    directory: Path
    splits: Mapping[str, Split]
    combined: Mapping[str, Sequence[str]]
    skipped: tuple[Skipped, ...]


def prepare_dataset(
    clips: Sequence[Clip],
    videos: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    name: str,
    preprocessing: Preprocessing,
    processes: int,
    shards: int | None = None,
    labels: Sequence[str] | None = None,
    progress: bool = True,
) -> Summary:
    """Reads clips and writes them as a dataset folder.

    The bytes do not depend on `processes`, nor on how often the run was killed and started again. A clip that cannot be
    read is left out and listed in `skipped.csv`.

    Args:
      clips: with different names.
      videos: the folder of the video files.
      directory: the dataset folder: new, empty, or left by an earlier run with the same preprocessing.
      name: of the dataset.
      preprocessing: how frames are made.
      processes: that read videos, 1 or more; 1 is this one, and then a decoder that crashes ends the run.
      shards: of each split; None for one for every 64 clips.
      labels: every action of the clips, in the order in which they are numbered; None for the alphabetical one.
      progress: whether a progress bar is shown on standard error.

    Raises:
      UserError: the folder holds something else, two clips have one name, or no clip at all could be read.
    """
    videos, directory = Path(videos), Path(directory)
    if not clips:
        raise UserError("at least one clip was expected, found none")
    repeated = [clip_name for clip_name, count in Counter(clip.name for clip in clips).items() if count > 1]
    if repeated:
        raise UserError(f"different clips were expected, found {repeated[0]!r} listed twice")
    output.refuse_foreign(directory, preprocessing)
    output.remove_temporaries(directory)
    labels = labels or sorted({clip.label for clip in clips})
    planned = plan(clips, videos, labels=labels, preprocessing=preprocessing, shards=shards)
    indexes = [shard.finished(directory) for shard in planned]
    missing = [shard for shard, index in zip(planned, indexes, strict=True) if index is None]
    if missing:
        output.begin(directory, preprocessing)
        read = functools.partial(process, videos=videos, labels=labels, preprocessing=preprocessing)
        made = iter(_make(missing, directory, read, processes=processes, progress=progress))
        indexes = [next(made) if index is None else index for index in indexes]
    reasons = {clip_name: reason for index in indexes for clip_name, reason in index.skipped}
    skipped = [clip for clip in clips if clip.name in reasons]
    _write_skipped(directory / output.SKIPPED, skipped, reasons)
    if len(skipped) == len(clips):
        first = skipped[0].name
        raise UserError(
            f"at least one readable video was expected in {videos}, found none among {len(clips)}:"
            f" {first}, for one, is skipped because {reasons[first]!r} (all are listed in {directory / output.SKIPPED})"
        )
    splits = _count(planned, indexes)
    combined = combined_splits(clips)
    write_description(
        directory, name=name, labels=labels, splits=splits, preprocessing=preprocessing, combined=combined
    )
    output.remove_stale(directory, planned)
    output.end(directory)
    return Summary(
        directory=directory,
        splits=splits,
        combined=combined,
        skipped=tuple(Skipped(clip.name, reasons[clip.name]) for clip in skipped),
    )


def _make(
    shards: Sequence[Shard],
    directory: Path,
    read: Callable[[Clip], StoredVideo | Skipped],
    *,
    processes: int,
    progress: bool,
) -> list[ShardIndex]:
    """Makes shards one after the other and returns the index of each."""
    clips = [clip for shard in shards for clip in shard.clips]
    results = in_order(read, clips, processes=processes, crashed=_crashed)
    with contextlib.closing(results), contextlib.closing(_shown(results, len(clips), progress)) as shown_results:
        return [_make_shard(shard, directory, shown_results) for shard in shards]


def _crashed(clip: Clip) -> Skipped:
    return Skipped(clip.name, "the decoder crashed")


def _shown(results: Iterable[StoredVideo | Skipped], total: int, progress: bool) -> Iterator[StoredVideo | Skipped]:
    """Passes results on and shows them on a progress bar."""
    skipped = 0
    with tqdm(total=total, unit=" videos", disable=not progress) as bar:
        for result in results:
            skipped += isinstance(result, Skipped)
            bar.set_postfix(skipped=skipped, refresh=False)
            bar.update()
            yield result


def _make_shard(shard: Shard, directory: Path, results: Iterator[StoredVideo | Skipped]) -> ShardIndex:
    """Writes a shard from the next results, then its index: without one, a shard is made again by the next run."""
    shard.index_path(directory).unlink(missing_ok=True)
    names, frames, skipped = [], [], []
    with ShardWriter(shard.path(directory)) as writer:
        for result in itertools.islice(results, len(shard.clips)):
            if isinstance(result, Skipped):
                skipped.append((result.name, result.reason))
            else:
                writer.write(encode(result))
                names.append(result.name)
                frames.append(len(result.frames))
    index = ShardIndex(
        fingerprint=shard.fingerprint,
        names=tuple(names),
        frames=tuple(frames),
        lengths=tuple(writer.lengths),
        skipped=tuple(skipped),
    )
    index.write(shard.index_path(directory))
    return index


def _count(shards: Sequence[Shard], indexes: Sequence[ShardIndex]) -> dict[str, Split]:
    splits = {}
    for split in dict.fromkeys(shard.split for shard in shards):
        own = [index for shard, index in zip(shards, indexes, strict=True) if shard.split == split]
        splits[split] = Split(
            videos=sum(len(index.names) for index in own),
            frames=sum(sum(index.frames) for index in own),
            shards=len(own),
            skipped=sum(len(index.skipped) for index in own),
        )
    return splits


def _write_skipped(path: Path, clips: Iterable[Clip], reasons: Mapping[str, str]) -> None:
    """Writes `skipped.csv`, with its header alone where nothing was skipped."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("video", "reason", "split"))
    rows.writerows((clip.name, reasons[clip.name], clip.split) for clip in clips)
    with written_whole(path) as file:
        file.write(text.getvalue().encode())
