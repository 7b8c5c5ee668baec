"""What is done to pixels between a video file and the network: the one definition that every command uses.

A dataset folder and a checkpoint both carry it as JSON; `refuse_mismatch` compares the two by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from i3d_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a video becomes stored frames (reference: paper, section 3; release README, "Sample data and preprocessing").

    Attributes:
      frame_rate: frames a second after resampling.
      short_side: pixels of the shorter side after the resize; the aspect of the picture as shown is kept.
      interpolation: the resize filter, always "bilinear" (OpenCV's INTER_LINEAR).
      jpeg_quality: 1 to 100, the quality at which frames are stored.
    """

    frame_rate: float = 25.0
    short_side: int = 256
    interpolation: str = "bilinear"
    jpeg_quality: int = 95

    def __post_init__(self):
        if not 0 < self.frame_rate <= 1000:
            raise UserError(f"the frame rate must be above 0 and at most 1000 frames a second, found {self.frame_rate}")
        if not 16 <= self.short_side <= 4096:
            raise UserError(f"the short side must be 16 to 4096 pixels, found {self.short_side}")
        if not 1 <= self.jpeg_quality <= 100:
            raise UserError(f"the JPEG quality must be 1 to 100, found {self.jpeg_quality}")
        if self.interpolation != "bilinear":
            raise UserError(f"the interpolation must be 'bilinear', found {self.interpolation!r}")

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object, as `dataset.json` and `model.json` hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], *, where: str) -> Preprocessing:
        """Reads the fields from a JSON object, which may hold others; a `UserError` says what is missing `where`."""
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in fields]
        if missing:
            raise UserError(f"{where}: 'preprocessing' lacks {', '.join(missing)}")
        try:
            return cls(**{name: fields[name] for name in names})
        except TypeError as error:
            raise UserError(f"{where}: 'preprocessing' holds a value of another kind than expected: {error}") from error


def refuse_mismatch(expected: Mapping[str, Any], found: Mapping[str, Any], *, expected_by: str, found_in: str) -> None:
    """Raises a `UserError` naming every field that both sides state and state differently."""
    different = [
        f"{name} {expected[name]!r} against {found[name]!r}"
        for name in expected
        if name in found and expected[name] != found[name]
    ]
    if different:
        raise UserError(
            f"{expected_by} was trained on pixels prepared in another way than those of {found_in}: "
            + "; ".join(different)
        )


def centre_crop(frames: np.ndarray, size: int) -> np.ndarray:
    """Cuts the middle of every frame: [..., H, W, C] to [..., size, size, C]; a view, any dtype.

    An odd remainder leaves the extra row below and the extra column on the right.

    Raises:
      UserError: a side is shorter than `size`.
    """
    height, width = frames.shape[-3:-1]
    if min(height, width) < size:
        raise UserError(f"a crop of {size} pixels was asked of frames of {width}x{height}")
    top, left = (height - size) // 2, (width - size) // 2
    return frames[..., top : top + size, left : left + size, :]
