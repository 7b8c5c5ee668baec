"""What a run tells: a line of `metrics.jsonl` for programs and a line on the screen for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from i3d_jax.system.files import is_file, opened, parse_json, written_whole


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, with `step`, `split` and then the values."""

    def __init__(self, path: Path, *, after_step: int):
        """Opens the file for appending; lines of steps after `after_step`, which will be taken again, are dropped."""
        self._path = path
        kept: list[bytes] = []
        if is_file(path):
            with opened(path) as found:
                content = found.read()
            for line in content.splitlines():
                # The last line of a killed run may be cut short, and any other damaged.
                try:
                    whole = parse_json(line, str(path))["step"] <= after_step
                except (ValueError, KeyError, TypeError):
                    continue
                if whole:
                    kept.append(line + b"\n")
        with written_whole(path) as file:
            file.write(b"".join(kept))

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends a line."""
        # JSON has no NaN.
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")


class ProgressLines:
    """One line on standard error for each set of values."""

    def __init__(self, total_steps: int):
        self._total_steps = total_steps

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Prints the values that people look at, in their units."""
        width = len(str(self._total_steps))
        words = [f"step {step:{width}d}/{self._total_steps}", f"{split:5s}"]
        words.append(f"loss {values['loss']:.3f}")
        words.append(f"top-1 {100 * values['top1']:5.1f}%")
        if "top5" in values:
            words.append(f"top-5 {100 * values['top5']:5.1f}%  {values['videos']} videos")
        if "learning_rate" in values:
            words.append(f"learning rate {values['learning_rate']:g}")
        if "clips_per_second" in values:
            words.append(f"{values['clips_per_second']:.1f} clips/s")
            words.append(f"{100 * values['data_wait_share']:.0f}% waiting for data")
            words.append(f"{duration(values['seconds_left'])} left")
        print("  ".join(words), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Writes seconds as people say them: "45 s", "3 min 20 s", "2 h 05 min", "4 d 03 h"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600:02d} h"
