"""What a reader of foreign files returns: arrays by name, and where they come from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """The arrays of a foreign file.

    Attributes:
      source: what messages call it: the file, or the prefix of a TensorFlow checkpoint.
      files: the files that hold the arrays; more than one only where a TensorFlow checkpoint is split.
      arrays: by the file's own names; floating-point ones are float32.
      beside: {name of what else the file holds, such as an optimizer's state: why it is not read}.
      labels: the classes' names where the file holds them (safetensors written by us), otherwise None.
    """

    source: Path
    files: Sequence[Path]
    arrays: Mapping[str, np.ndarray]
    beside: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Sequence[str] | None = None

    def provenance(self) -> dict[str, str]:
        """Returns {"file", "sha256"}, as `model.json` holds them; the sum runs over all files in order."""
        digest = hashlib.sha256()
        for path in self.files:
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return {"file": ", ".join(map(str, self.files)), "sha256": digest.hexdigest()}
