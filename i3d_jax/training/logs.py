"""What a run tells: a line of `metrics.jsonl` for programs and a line on the screen for people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from i3d_jax.system import terminal
from i3d_jax.system.files import append, is_file, opened, parse_json, written_whole


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, with `step`, `split` and then the values."""

    def __init__(self, path: Path, *, after_step: int):
        """Opens the file for appending; lines of steps after `after_step`, which will be taken again, are dropped."""
        self._path = path
        self._keep(lambda step, split: step <= after_step)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends a line; one of the same step and split, which an evaluation that is made again has left, goes."""
        if (step, split) in self._written:
            self._keep(lambda *written: written != (step, split))
        # JSON has no NaN.
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        append(self._path, (json.dumps({"step": step, "split": split, **finite}) + "\n").encode())
        self._written.add((step, split))

    def _keep(self, wanted: Callable[[int, str], bool]) -> None:
        """Writes the file again with the lines, by step and split, that are wanted, of equals the last."""
        kept: dict[tuple[int, str], bytes] = {}
        content = b""
        if is_file(self._path):
            with opened(self._path) as found:
                content = found.read()
        for line in content.splitlines():
            # The last line of a killed run may be cut short, and any other damaged.
            try:
                fields = parse_json(line, str(self._path))
                key = fields["step"], fields["split"]
                if wanted(*key):
                    kept[key] = line + b"\n"
            except (ValueError, KeyError, TypeError):
                continue
        with written_whole(self._path) as file:
            file.write(b"".join(kept.values()))
        self._written = set(kept)


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
            words.append(f"{terminal.duration(values['seconds_left'])} left")
        terminal.say("  ".join(words))
