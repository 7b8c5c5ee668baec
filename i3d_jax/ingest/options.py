"""What a dataset is called and how it is made, apart from what it is made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from i3d_jax.data.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """The options of a dataset.

    Attributes:
      name: of the dataset.
      preprocessing: how frames and flow are made.
      shards: of each split, or by split; None for as many as `plan` chooses, who keeps those of an earlier run.
      labels: every action of the clips, in the order in which they are numbered; None for the alphabetical one.
    """

    name: str
    preprocessing: Preprocessing
    shards: int | Mapping[str, int] | None = None
    labels: Sequence[str] | None = None
