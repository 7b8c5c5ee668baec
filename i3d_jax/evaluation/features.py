"""A split's features: computed batch by batch, kept as an .npz file that says what they are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from i3d_jax.system import hosts
from i3d_jax.system.archives import read_arrays
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import make_folder, parse_json, written_whole
from i3d_jax.system.terminal import json_text

# What the arrays of features are called in the file, before the scope of the classifier that sees them.
_PREFIX = "features/"


@dataclasses.dataclass(frozen=True)
class Features:
    """What the classifiers of a network see of a split's videos.

    Attributes:
      video: str [N], names.
      label: int32 [N], the right class of each.
      features: float32 [N, windows, n, C] by the scope of the classifier (`Network.classifier_inputs`).
      damaged: what is wrong with each record that has no features.
      provenance: what they are of: JSON values by name.
    """

    video: np.ndarray
    label: np.ndarray
    features: Mapping[str, np.ndarray]
    damaged: tuple[str, ...]
    provenance: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Writes an .npz file with `video`, `label`, `damaged`, `provenance` (JSON) and `features/SCOPE` each.

        It is written whole or not at all.
        """
        make_folder(path.parent)
        arrays: dict[str, Any] = {_PREFIX + scope: values for scope, values in self.features.items()}
        provenance = json_text(dict(self.provenance))
        with written_whole(path) as file:
            np.savez(
                file,
                video=self.video,
                label=self.label,
                damaged=np.array(self.damaged, np.str_),
                provenance=np.array(provenance),
                **arrays,
            )


def read(path: Path) -> Features:
    """Reads what `Features.save` wrote; a `UserError` says that it cannot be read."""
    try:
        stored = read_arrays(path, "features")
        missing = [name for name in ("video", "label", "damaged", "provenance") if name not in stored]
        if missing:
            raise UserError(f"{path} lacks the arrays {', '.join(missing)} of features")
        provenance = parse_json(str(stored["provenance"][()]), f"'provenance' in {path}")
        if not isinstance(provenance, dict):
            raise UserError(f"'provenance' in {path} was expected to be an object, found {type(provenance).__name__}")
    except UserError as error:
        raise UserError(f"{error}: remove it, and they are computed again") from None
    return Features(
        video=stored["video"],
        label=stored["label"],
        features={name[len(_PREFIX) :]: array for name, array in stored.items() if name.startswith(_PREFIX)},
        damaged=tuple(map(str, np.atleast_1d(stored["damaged"]))),
        provenance=provenance,
    )


def compute(
    features_of: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    videos: int,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Computes the features of every video of a split; of several hosts each gives its share, and all get the whole.

    Args:
      features_of: batch -> float32 [at least B, windows, n, C] by scope; rows beyond the batch's B are padding.
      batches: this host's, equally many on each, with "video" str [B], "label" int [B] and "mask" bool [B] beside the
        clips; masked rows are left out.
      videos: how many there are at most; memory is taken for so many.

    Returns:
      (video str [N], label int32 [N], float32 [N, windows, n, C] by scope).

    Raises:
      UserError: features are not finite.
    """
    names: list[str] = []
    labels: list[int] = []
    found: dict[str, np.ndarray] = {}
    for batch in batches:
        rows, done = len(batch["mask"]), len(names)
        mask = hosts.gather_rows(np.asarray(batch["mask"], bool))
        names.extend(hosts.gather_rows(np.asarray(batch["video"], np.str_))[mask])
        labels.extend(hosts.gather_rows(np.asarray(batch["label"], np.int32))[mask])
        for scope, values in sorted(features_of(batch).items()):
            values = hosts.gather_rows(np.asarray(values, np.float32)[:rows])[mask]
            finite = np.isfinite(values).all(axis=(1, 2, 3))
            if not finite.all():
                raise UserError(f"the network's features of the video {names[done:][finite.argmin()]} are not finite")
            if scope not in found:
                found[scope] = np.empty((videos, *values.shape[1:]), np.float32)
            found[scope][done : len(names)] = values
    trimmed = {scope: values[: len(names)] for scope, values in found.items()}
    return np.array(names, np.str_), np.array(labels, np.int32), trimmed
