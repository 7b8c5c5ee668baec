"""How `predict` writes what is said of videos: for people, as JSON, and as a table."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import sys
from collections.abc import Iterator
from typing import Any

from i3d_jax.inference.answers import Answer
from i3d_jax.system.files import written_whole
from i3d_jax.system.terminal import print_json

FORMATS = ("text", "json", "jsonl", "csv")
BAR_WIDTH = 30


@dataclasses.dataclass
class Writer:
    """Writes answers as they come; JSON as one list at the end.

    Attributes:
      format: one of `FORMATS`.
      top_k: classes of each.
      timeline: whether windows are written too.
    """

    format: str
    top_k: int
    timeline: bool
    _found: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    _begun: bool = False

    def add(self, answer: Answer) -> None:
        """Writes one video's to standard output."""
        if self.format == "text":
            print(as_text(answer, self.top_k, timeline=self.timeline), flush=True)
        elif self.format == "csv":
            self._add_rows(answer)
        else:
            said = answer.to_json(self.top_k, timeline=self.timeline)
            if self.format == "jsonl":
                print_json(said, indent=None)
            else:
                self._found.append(said)

    def finish(self) -> None:
        """Writes what is written at the end."""
        if self.format == "json":
            print_json(self._found)
        elif self.format == "csv" and not self._begun:
            self._rows([])

    def _add_rows(self, answer: Answer) -> None:
        said = answer.to_json(self.top_k, timeline=self.timeline)
        pieces = said["timeline"] if self.timeline else [said]
        self._rows(
            [
                [answer.video, piece["start"], piece["end"], rank, one["label"], one["probability"], one["logit"]]
                for piece in pieces
                for rank, one in enumerate(piece["predictions"], 1)
            ]
        )

    def _rows(self, rows: list[list[Any]]) -> None:
        table = csv.writer(sys.stdout, lineterminator="\n")
        if not self._begun:
            table.writerow(["video", "start", "end", "rank", "label", "probability", "logit"])
            self._begun = True
        table.writerows(rows)
        sys.stdout.flush()


def as_text(answer: Answer, top_k: int, *, timeline: bool) -> str:
    """Writes what is said of a video as lines: with a bar for each class, or a line for each stretch of one label."""
    start, end = answer.scored
    windows = f"{len(answer.spans)} window{'s' * (len(answer.spans) != 1)}"
    lines = [f"{answer.video}  ({clock(start)} to {clock(end)}, {windows})"]
    if timeline:
        for stretch in answer.stretches():
            seconds = f"{clock(stretch.start):>9} – {clock(stretch.end):>9}"
            lines.append(f"  {seconds}  {100 * stretch.probability:5.1f}%  {stretch.label}")
        return "\n".join(lines)
    for one in answer.predictions(top_k):
        filled = round(BAR_WIDTH * one["probability"])
        bar = "█" * filled + "·" * (BAR_WIDTH - filled)
        lines.append(f"  {100 * one['probability']:5.1f}%  {bar}  {one['label']}")
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """Writes seconds as people do: 7.2 s, 3:07.2, 1:03:07.2."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    if not minutes:
        return f"{rest / 10:.1f} s"
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{rest // 10:02d}.{rest % 10}"


@contextlib.contextmanager
def standard_output_to(path: str | None) -> Iterator[None]:
    """Gathers what is printed and writes it to a file at the end, whole or not at all; without a path it is printed."""
    if path is None:
        yield
        return
    gathered = io.StringIO()
    with contextlib.redirect_stdout(gathered):
        yield
    with written_whole(path) as file:
        file.write(gathered.getvalue().encode("utf-8", "backslashreplace"))
