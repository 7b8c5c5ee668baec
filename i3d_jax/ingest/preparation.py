"""From annotated clips to a dataset folder, wherever its shards are made; started again, only what is missing."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from i3d_jax.data.dataset import Split, write_description
from i3d_jax.ingest import adding_fields, output, verification
from i3d_jax.ingest.annotations import AnnotatedClip, combined_splits
from i3d_jax.ingest.options import DatasetOptions
from i3d_jax.ingest.plan import Shard, plan
from i3d_jax.ingest.process import MISSING, Skipped
from i3d_jax.ingest.shard import Job
from i3d_jax.records.shards import ShardIndex, framed
from i3d_jax.system import files
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import written_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a dataset folder holds now.

    Attributes:
      directory: the folder.
      splits: those stored.
      combined: those made up of others.
      skipped: the clips left out, as they were listed.
      notes: (name, sentence) on what was mended in clips, as they were listed.
    """

    directory: Path
    splits: Mapping[str, Split]
    combined: Mapping[str, Sequence[str]]
    skipped: tuple[Skipped, ...]
    notes: tuple[tuple[str, str], ...]


def prepare_dataset(
    clips: Sequence[AnnotatedClip],
    videos: str | os.PathLike,
    directory: str | os.PathLike,
    options: DatasetOptions,
    *,
    make_shards: Callable[[Sequence[Shard], Job], None],
    adds_flow: bool = False,
    retry_skipped: bool = False,
    verify: bool = False,
) -> Summary:
    """Reads clips and writes them as a dataset folder.

    The bytes do not depend on `make_shards`, nor on how often the run was killed and started again. A clip
    that cannot be read is left out and listed in `skipped.csv`; what was mended in one is said in `notes.csv`, which is
    there only if anything was.

    Args:
      clips: with different names.
      videos: the folder of the video files.
      directory: the dataset folder: new, empty, or left by an earlier run with the same preprocessing.
      options: what the dataset is called and how it is made.
      make_shards: writes the shards that are missing, each by `shard.make_shard`: `local.make_shards` or
        `beam.make_shards`, with what else they take.
      adds_flow: whether the folder holds, instead, what the same preprocessing without flow gives.
      retry_skipped: whether shards are made again in which a video was skipped that was there: a file put right that
        has the size of the damaged one tells nothing of it.
      verify: whether the records of all shards that stand are read and compared with their checksums and with the
        index, and a shard that is damaged is made again.

    Raises:
      UserError: the folder holds something else, cannot be made, or another run is at work in it; two clips have one
        name; or no clip at all could be read.
    """
    videos, directory = files.path(videos), files.path(directory)
    if not clips:
        raise UserError("at least one clip was expected, found none")
    repeated = [clip_name for clip_name, count in Counter(clip.name for clip in clips).items() if count > 1]
    if repeated:
        raise UserError(f"different clips were expected, found {repeated[0]!r} listed twice")
    preprocessing = options.preprocessing
    labels = tuple(options.labels or sorted({clip.label for clip in clips}))
    before = output.shard_counts(directory)
    planned = plan(clips, videos, labels=labels, preprocessing=preprocessing, shards=options.shards, before=before)
    if adds_flow:
        without = dataclasses.replace(preprocessing, flow=None)
        planned_without = plan(clips, videos, labels=labels, preprocessing=without, shards=options.shards)
        adding_fields.refuse_other_clips(directory, planned, planned_without)
    else:
        output.refuse_foreign(directory, preprocessing)
    with output.held(directory):
        output.remove_temporaries(directory)
        damaged = verification.damaged(planned, directory) if verify else set()
        missing = [
            shard
            for shard in planned
            if shard.path(directory) in damaged or _is_to_be_made(shard, directory, retry_skipped)
        ]
        if missing:
            counts = {shard.split: shard.shards for shard in planned}
            mark = output.Mark(
                name=options.name, labels=labels, preprocessing=preprocessing, shards=counts, adds_flow=adds_flow
            )
            output.begin(directory, mark)
            # Absolute, since a worker of Beam's may stand in another folder.
            folders = {"videos": videos.absolute(), "directory": directory.absolute()}
            make_shards(missing, Job(**folders, labels=labels, preprocessing=preprocessing))
            # Of workers that were killed, where a cluster has replaced them.
            output.remove_temporaries(directory)
        indexes = [_made(shard, directory) for shard in planned]
        reasons = {clip_name: reason for index in indexes for clip_name, reason in index.skipped}
        skipped = [clip for clip in clips if clip.name in reasons]
        rows = [(clip.name, reasons[clip.name], clip.split) for clip in skipped]
        _write_rows(directory / output.SKIPPED, ("video", "reason", "split"), rows)
        sentences: dict[str, list[str]] = {}
        for clip_name, note in itertools.chain.from_iterable(index.notes for index in indexes):
            sentences.setdefault(clip_name, []).append(note)
        notes = [(clip, note) for clip in clips for note in sentences.get(clip.name, ())]
        if notes:
            rows = [(clip.name, note, clip.split) for clip, note in notes]
            _write_rows(directory / output.NOTES, ("video", "note", "split"), rows)
        else:
            (directory / output.NOTES).unlink(missing_ok=True)
        if len(skipped) == len(clips):
            first = skipped[0].name
            raise UserError(
                f"at least one readable video was expected in {videos}, found none among {len(clips)}:"
                f" {first}, for one, is skipped because {reasons[first]!r}"
                f" (all are listed in {directory / output.SKIPPED})"
            )
        splits = _count(planned, indexes)
        combined = combined_splits(clips)
        write_description(
            directory, name=options.name, labels=labels, splits=splits, preprocessing=preprocessing, combined=combined
        )
        output.remove_stale(directory, planned)
        output.end(directory)
    return Summary(
        directory=directory,
        splits=splits,
        combined=combined,
        skipped=tuple(Skipped(clip.name, reasons[clip.name]) for clip in skipped),
        notes=tuple((clip.name, note) for clip, note in notes),
    )


def _is_to_be_made(shard: Shard, directory: Path, retry_skipped: bool) -> bool:
    index = shard.finished(directory)
    return index is None or (retry_skipped and any(reason != MISSING for _, reason in index.skipped))


def _made(shard: Shard, directory: Path) -> ShardIndex:
    index = shard.finished(directory)
    if index is None:
        raise RuntimeError(f"{shard.path(directory)} was to be made and is not there: do all workers see this folder?")
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
            shard_videos=tuple(len(index.names) for index in own),
            shard_bytes=tuple(framed(index.lengths) for index in own),
        )
    return splits


def _write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes a CSV file, with its header alone where there are no rows."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with written_whole(path) as file:
        file.write(text.getvalue().encode())
