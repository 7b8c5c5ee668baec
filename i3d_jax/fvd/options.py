"""What of a set of videos is looked at: the words of the command and of Python, checked once."""

from __future__ import annotations

import dataclasses

import numpy as np

from i3d_jax.fvd.protocols import Cut, Protocol, named
from i3d_jax.models.i3d import MINIMUM_FRAMES
from i3d_jax.system.errors import UserError

REAL, GENERATED = "real", "generated"
FIRST, RANDOM = "first", "random"
ALL = "all"
BATCH_SIZE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What of a set is looked at, and how.

    Attributes:
      protocol: whose way, a name of `protocols.PROTOCOLS`.
      frames: of each clip, a number or "all"; None for what the protocol says.
      stride: frames of the video from one of them to the next.
      clips: where a clip begins, "first" or "random"; None for what the protocol says.
      seed: of all draws.
      videos: how many are taken of a set, drawn by the seed; None for what the protocol says.
      shard: (I, N): of what is taken, every Nth from the Ith on.
      batch_size: clips at a time.
      value_range: (lowest, highest), black and white of arrays of floats; None: floats are refused.

    Raises:
      UserError: one of them is something else.
    """

    protocol: str = "reference"
    frames: int | str | None = None
    stride: int = 1
    clips: str | None = None
    seed: int = 0
    videos: int | None = None
    shard: tuple[int, int] = (0, 1)
    batch_size: int = BATCH_SIZE
    value_range: tuple[float, float] | None = None

    def __post_init__(self):
        way = self.way
        for name, least in (("stride", 1), ("seed", 0), ("batch_size", 1), ("videos", 2)):
            value = getattr(self, name)
            if (value is None and name != "videos") or (value is not None and not _is_whole(value, least)):
                raise UserError(f"{name} must be a whole number from {least} on, found {value!r}")
        if self.frames not in (None, ALL) and not _is_whole(self.frames, self.fewest):
            raise UserError(
                f"frames must be a whole number from {self.fewest} on for {way.name}, or {ALL!r}, found {self.frames!r}"
            )
        if self.clips not in (None, FIRST, RANDOM):
            raise UserError(f"clips must be {FIRST!r} or {RANDOM!r}, found {self.clips!r}")
        number, parts = self.shard
        if not (_is_whole(parts, 1) and _is_whole(number, 0) and number < parts):
            raise UserError(f"a shard I/N with I from 0 to N - 1 was expected, found {number}/{parts}")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise UserError(f"value_range must be (lowest, highest), found {self.value_range!r}")
        if self.frames == ALL and self.cut.random:
            raise UserError("clips of all frames have no beginning to draw: frames 'all' goes with clips 'first'")

    @property
    def way(self) -> Protocol:
        """The protocol."""
        return named(self.protocol)

    @property
    def fewest(self) -> int:
        """Frames that a clip must have."""
        return max(MINIMUM_FRAMES, self.way.fewest_frames)

    @property
    def cut(self) -> Cut:
        """Which frames of a video are its clip."""
        frames = self.way.frames if self.frames is None else None if self.frames == ALL else int(self.frames)
        # What takes all frames of a video has none to draw.
        random = self.way.random_clips and self.frames != ALL if self.clips is None else self.clips == RANDOM
        return Cut(frames=frames, stride=self.stride, random=random, seed=self.seed)

    def taken(self, count: int, side: str, name: str) -> np.ndarray:
        """Returns the numbers of the videos that are taken, int64: rising, or again and again from the first on.

        Args:
          count: of the set.
          side: REAL or GENERATED.
          name: of the set, for messages.

        Raises:
          UserError: there are too few.
        """
        if count < 2:
            raise UserError(f"{name}: 2 videos or more were expected, found {count}")
        protocol = self.way
        most = self.videos or (protocol.most_real if side == REAL else protocol.most_generated)
        if most is None or most == count:
            return np.arange(count)
        if most < count:
            return np.sort(np.random.default_rng([self.seed, 0, 1]).choice(count, most, replace=False))
        if protocol.resampled:
            return np.arange(most) % count
        if self.videos:
            raise UserError(f"{name}: {most} videos were asked of it, and it has {count}")
        return np.arange(count)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least
