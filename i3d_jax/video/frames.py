"""Which frames of a video file are wanted, and at which size: what decoding needs to know of a preprocessing."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.video.picture import scaled_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of a video.

    Attributes:
      frame_rate: frames a second after resampling; None for every frame of the file, once each.
      size: pixels of the shorter side, the aspect of the picture as shown is kept; or (width, height), whatever the
        aspect; or None for the picture as shown: with square pixels, as large as it is stored.
    """

    frame_rate: float | None = None
    size: int | tuple[int, int] | None = None

    @classmethod
    def of(cls, wanted: Frames | Preprocessing) -> Frames:
        """Returns what a preprocessing wants; frames as they are."""
        if isinstance(wanted, Frames):
            return wanted
        return cls(frame_rate=float(wanted.frame_rate), size=wanted.short_side)

    def shown_size(self, width: int, height: int, sample_aspect_ratio: Fraction, *, turned: bool) -> tuple[int, int]:
        """Returns the (width, height) in pixels of a picture before it is turned upright.

        Args:
          width, height: as stored.
          sample_aspect_ratio: width of a stored pixel over its height.
          turned: whether lines become columns when the picture is shown.
        """
        if isinstance(self.size, tuple):
            return self.size[::-1] if turned else self.size
        if self.size is not None:
            return scaled_size(width, height, sample_aspect_ratio, self.size)
        return max(1, round(width * sample_aspect_ratio)), height
