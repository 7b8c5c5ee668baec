"""`results.json` of a workdir: the figures of each split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from i3d_jax.system.files import is_file, read_object, written_whole
from i3d_jax.system.terminal import json_text


def read(path: Path) -> dict[str, dict[str, float]]:
    """Reads {split: figures}; a file that is not there gives {}."""
    if not is_file(path):
        return {}
    return read_object(path)


def record(path: Path, split: str, figures: Mapping[str, float]) -> None:
    """Sets the figures of one split and leaves the others; the file is written whole or not at all."""
    results = {**read(path), split: dict(figures)}
    with written_whole(path) as file:
        file.write(json_text(results, indent=2).encode() + b"\n")
