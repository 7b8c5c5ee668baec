"""What of an annotated dataset is there, before hours of work: every file is looked for and its header read."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from i3d_jax.ingest.annotations import AnnotatedClip
from i3d_jax.ingest.process import MISSING, Skipped, absence
from i3d_jax.ingest.published_counts import Spec
from i3d_jax.ingest.shard import crashed
from i3d_jax.system import files, progress
from i3d_jax.system.workers import in_order
from i3d_jax.video.decode import UnreadableVideo, check_header

MOST_NAMED = 10  # Clips that cannot be read.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitCheck:
    """How many clips of a split are listed, and of those there, missing and unreadable."""

    listed: int
    there: int
    missing: int
    unreadable: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """What was found: by split, in how many classes, the clips that cannot be read, and (name, sentence) on others.

    Clips are in the annotations' order.
    """

    splits: Mapping[str, SplitCheck]
    classes: int
    skipped: tuple[Skipped, ...]
    notes: tuple[tuple[str, str], ...] = ()


def check(clips: Sequence[AnnotatedClip], videos: str | os.PathLike, *, processes: int) -> Check:
    """Looks for every clip's file and opens it, decoding nothing; a file that is damaged further on passes.

    Args:
      clips: at least one.
      videos: the folder of the video files.
      processes: that open files, 1 or more; 1 is this one, and then a file that crashes the decoder ends the run.
    """
    look = functools.partial(_look, videos=files.path(videos))
    results = in_order(look, clips, processes=processes, crashed=lambda clip: (crashed(clip).reason, ()))
    found = dict(zip(clips, progress.over(results, "looking", total=len(clips), unit="videos"), strict=True))
    reasons = {clip: reason for clip, (reason, _) in found.items()}
    by_split: dict[str, list[AnnotatedClip]] = {}
    for clip in clips:
        for split in clip.splits or (clip.split,):
            by_split.setdefault(split, []).append(clip)
    return Check(
        splits={split: _count([reasons[clip] for clip in by_split[split]]) for split in sorted(by_split)},
        classes=len({clip.label for clip in clips}),
        skipped=tuple(Skipped(clip.name, reason) for clip, reason in reasons.items() if reason),
        notes=tuple((clip.name, note) for clip, (_, notes) in found.items() for note in notes),
    )


def report(found: Check, spec: Spec | None) -> list[str]:
    """Returns the lines that say it: those of the splits, the classes, whose counts they stand beside, some clips.

    Args:
      found: what was found.
      spec: the published dataset to compare with; None for none.
    """
    lines = [
        f"{split}: {counts.listed} listed, {counts.there} there, {counts.missing} missing,"
        f" {counts.unreadable} unreadable{_beside(counts.listed, spec.published(split) if spec else None)}"
        for split, counts in found.splits.items()
    ]
    lines.append(f"classes: {found.classes} listed{_beside(found.classes, spec.classes if spec else None)}")
    if spec:
        lines.append(f"published: {spec.source}")
    lines += [f"  {skipped.name}: {skipped.reason}" for skipped in found.skipped[:MOST_NAMED]]
    if len(found.skipped) > MOST_NAMED:
        lines.append(f"  and {len(found.skipped) - MOST_NAMED} more")
    lines += [f"  note on {name}: {note}" for name, note in found.notes[:MOST_NAMED]]
    if len(found.notes) > MOST_NAMED:
        lines.append(f"  and {len(found.notes) - MOST_NAMED} more notes")
    return lines


def _beside(listed: int, published: int | None) -> str:
    if published is None:
        return ""
    difference = listed - published
    distance = f" ({abs(difference)} {'more' if difference > 0 else 'fewer'} listed)" if difference else ""
    return f"; published {published}{distance}"


def _look(clip: AnnotatedClip, videos: Path) -> tuple[str | None, tuple[str, ...]]:
    """Returns why a clip cannot be read, None if it seems that it can, and notes on it."""
    path = videos / clip.path
    if reason := absence(path):
        return reason, ()
    notes: list[str] = []
    try:
        check_header(path, start=clip.start, note=notes.append)
    except UnreadableVideo as error:
        return str(error), ()
    return None, tuple(notes)


def _count(reasons: Sequence[str | None]) -> SplitCheck:
    there, missing = reasons.count(None), reasons.count(MISSING)
    return SplitCheck(listed=len(reasons), there=there, missing=missing, unreadable=len(reasons) - there - missing)
