"""What is done between a video's frames and the distance, by the names of the programs that do it so.

What they do stands in docs/fvd.md; the sources are google-research's `frechet_video_distance`, universome's stylegan-v,
songweige's content-debiased-fvd (cd-fvd 0.1.1) and JunyaoHu's common_metrics_on_video_quality.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from i3d_jax.fvd.bilinear import resize
from i3d_jax.shapes import AnyArray
from i3d_jax.system.errors import UserError, did_you_mean

# Pixels of a side, as the network sees them.
SIZE = 224
# What the features are: in the release's words, "RGB/inception_i3d/Mean".
LAYER = "Logits"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a set of videos becomes features, and features a distance.

    Attributes:
      name: of the program that does it so.
      crop: False: frames are resized to 224x224, whatever their aspect; True: their shorter side to 224, the longer is
        rounded up, and the centre is cut out.
      half_pixel: as of `bilinear.resize`.
      frames: of each video; None for all of them.
      fewest_frames: that a clip may have.
      random_clips: whether a clip begins anywhere in its video; else it is its first frames.
      ddof: of the covariances.
      most_real, most_generated: videos taken at most, which are drawn; None for all of them.
      resampled: whether a generated set of fewer is gone through again and again.
    """

    name: str
    crop: bool = False
    half_pixel: bool = True
    frames: int | None = 16
    fewest_frames: int = 9
    random_clips: bool = False
    ddof: int = 1
    most_real: int | None = None
    most_generated: int | None = None
    resampled: bool = False

    def prepare(self, frames: AnyArray) -> AnyArray:
        """Returns frames [..., H, W, 3], uint8 or float in 0..255, as float32 [..., 224, 224, 3] in [-1, 1]."""
        height, width = frames.shape[-3:-1]
        if not self.crop:
            return resize(frames, SIZE, SIZE, half_pixel=self.half_pixel) * (2 / 255) - 1
        scale = SIZE / min(height, width)
        tall, wide = (SIZE if side == min(height, width) else math.ceil(side * scale) for side in (height, width))
        pixels = resize(frames, tall, wide, half_pixel=self.half_pixel)
        top, left = (tall - SIZE) // 2, (wide - SIZE) // 2
        return pixels[..., top : top + SIZE, left : left + SIZE, :] * (2 / 255) - 1

    @property
    def resizing(self) -> str:
        """What happens to the size of frames, in words."""
        where = "half-pixel centres" if self.half_pixel else "TensorFlow 1's corners"
        if self.crop:
            return f"shorter side {SIZE}, centre crop {SIZE}x{SIZE}, bilinear, {where}"
        return f"{SIZE}x{SIZE} whatever the aspect, bilinear, {where}"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="reference", half_pixel=False),
        Protocol(name="styleganv", random_clips=True, ddof=0, most_real=2048, most_generated=2048),
        Protocol(name="cdfvd", random_clips=True, ddof=0, most_generated=2048, resampled=True),
        Protocol(name="common_metrics", crop=True, frames=None, fewest_frames=10),
    )
}


def named(name: str) -> Protocol:
    """Returns a protocol by its name; a `UserError` lists the names."""
    if name not in PROTOCOLS:
        raise UserError(
            f"the protocol must be one of {', '.join(PROTOCOLS)}, found {name!r}{did_you_mean(name, PROTOCOLS)}"
        )
    return PROTOCOLS[name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """Which frames of a video are its clip.

    Attributes:
      frames: how many; None for all.
      stride: frames of the video from one of them to the next.
      random: whether the clip begins anywhere; else with the first frame.
      seed: of the beginnings.
    """

    frames: int | None
    stride: int = 1
    random: bool = False
    seed: int = 0

    @property
    def reach(self) -> int | None:
        """Frames of the video from the clip's first to its last; None where it is all of the video."""
        return None if self.frames is None else (self.frames - 1) * self.stride + 1

    @property
    def needs_count(self) -> bool:
        """Whether it depends on how many frames the video has."""
        return self.random or self.frames is None

    def of(self, count: int, place: int, fewest: int) -> np.ndarray:
        """Returns the clip's frames, int64, of a video of `count` frames.

        Args:
          count: of the video.
          place: of the video among those that are taken: its beginning is a function of this and the seed alone.
          fewest: frames that a clip may have.

        Raises:
          ValueError: the video is too short.
        """
        if self.reach is None or self.frames is None:
            chosen = np.arange(0, count, self.stride)
            if len(chosen) < fewest:
                raise ValueError(f"{fewest} frames or more were expected, found {len(chosen)}")
            return chosen
        if count < self.reach:
            raise ValueError(f"{self.frames} frames {self.stride} apart need {self.reach}, found {count}")
        last = count - self.reach
        begin = int(np.random.default_rng([self.seed, place]).integers(0, last + 1)) if self.random else 0
        return begin + self.stride * np.arange(self.frames)
