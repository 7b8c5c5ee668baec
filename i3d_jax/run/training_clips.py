"""What a run trains on."""

from __future__ import annotations

import dataclasses

from i3d_jax.data.batches import Batches
from i3d_jax.data.dataset import Dataset
from i3d_jax.data.pipeline import BatchOptions, training_batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingClips:
    """The clips of a split.

    Attributes:
      dataset, split: whose videos they are cut from.
      options: of the batches.
      flip: whether half of the clips are mirrored.
      seed: of all draws.
    """

    dataset: Dataset
    split: str
    options: BatchOptions
    flip: bool
    seed: int

    def batches(self, *, first_clip: int) -> Batches:
        """Returns this host's training batches from clip number `first_clip` on."""
        return training_batches(
            self.dataset, self.split, self.options, flip=self.flip, seed=self.seed, first_clip=first_clip
        )
