"""By which rule a video gets its scores; figures of different rules do not compare.

| protocol | a video's scores |
|---|---|
| whole_video | the mean over windows of the test clip, evenly spread, of the centre crop's logits (paper, section 3) |
| windows | the same of several crops of each window, whose logits or probabilities are averaged |
| dense | what the network gives for all of its frames at once, however many (I3D alone) |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from i3d_jax.clips import Sampling, check_crops, check_windows
from i3d_jax.system.errors import UserError, did_you_mean

WHOLE_VIDEO, WINDOWS, DENSE = "whole_video", "windows", "dense"
PROTOCOLS = (WHOLE_VIDEO, WINDOWS, DENSE)
LOGITS, PROBABILITIES = "logits", "probabilities"
AVERAGES = (LOGITS, PROBABILITIES)

# What the figures of the time before there were others do not say.
OF_BEFORE: Mapping[str, Any] = {"protocol": WHOLE_VIDEO, "crops": 1, "average": LOGITS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """A protocol with its numbers.

    Attributes:
      name: one of `PROTOCOLS`.
      windows: of a video, evenly spread. Of "dense" no part.
      crops: of each window, as `data.preprocessing.crops` numbers them; 1 but for "windows".
      average: of a video's logits or of its probabilities, one of `AVERAGES`; logits but for "windows".

    Raises:
      UserError: there is no such name, average or number of crops, or they do not go together.
    """

    name: str = WHOLE_VIDEO
    windows: int = 1
    crops: int = 1
    average: str = LOGITS

    def __post_init__(self):
        for key, word, words in (("protocol", self.name, PROTOCOLS), ("average", self.average, AVERAGES)):
            if word not in words:
                hint = did_you_mean(word, words)
                raise UserError(f"evaluation.{key} must be one of {', '.join(words)}, found {word!r}{hint}")
        check_windows(self.windows)
        check_crops(self.crops)
        plain: Any
        for key, found, plain in (("crops", self.crops, 1), ("average", self.average, LOGITS)):
            if self.name != WINDOWS and found != plain:
                raise UserError(
                    f"evaluation.{key} {found!r} goes with evaluation.protocol 'windows': {plain!r} was expected with "
                    f"{self.name!r}"
                )

    @property
    def views(self) -> int:
        """Clips of a video that are scored: the crops of each window."""
        return self.windows * self.crops

    def described(self, sampling: Sampling) -> dict[str, Any]:
        """Returns what figures follow from, as JSON values by name; what plays no part is left out."""
        windows = {"frames": sampling.frames, "windows": self.windows, "crops": self.crops}
        return {
            "protocol": self.name,
            "stride": sampling.stride,
            **({} if self.name == DENSE else windows),
            "average": self.average,
        }


def text(described: Mapping[str, Any]) -> str:
    """Writes a protocol, as `Protocol.described` gives it, in words."""
    stride = f", one in {described['stride']}" if described["stride"] > 1 else ""
    if described["protocol"] == DENSE:
        return f"dense: all frames of each video at once{stride}"
    crops = "the centre crop" if described["crops"] == 1 else f"{described['crops']} crops"
    return (
        f"{described['protocol']}: {described['windows']} window{'s' * (described['windows'] != 1)} of "
        f"{described['frames']} frames{stride}, {crops}, {described['average']} averaged"
    )
