"""Which windows of which pixels other programs expect features of (facts: "Features as other programs expect them").

No preset can promise the very numbers of features that are downloaded: not all is known of their makers' code, flow and
decoders.
"""

from __future__ import annotations

import dataclasses

from i3d_jax.clips import CROPS
from i3d_jax.system.errors import UserError
from i3d_jax.video.plans import Sliding

NATIVE = "native"
NPZ, NPY, H5 = "npz", "npy", "h5"
FORMATS = (NPZ, NPY, H5)
POOLS = ("mean", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """What is computed of a video, and how it is laid out in files.

    Attributes:
      window, stride: in frames.
      frame_rate: frames a second; None: every frame of the file, once.
      as_trained: whether it is the frame rate that the networks were trained at instead; the paper's is 25.
      size: (width, height) that frames are brought to before the crop; None: as those that the network was trained on.
      crops: of each frame: 1, 3, 5 or 10.
      centred: whether window i has frame i x stride in its middle; what lies beyond the video's ends is the network's
        zero.
      format: of the files.
      name: of an .npy file, by the fields `name`, `stream` and `crop`; with either of the last two there is one each.
      transposed: whether an .npy file is [C, N] in place of [N, C].
      times: whether the frame rate and the windows' times have files of their own.
    """

    window: int
    stride: int
    frame_rate: float | None
    as_trained: bool = False
    size: tuple[int, int] | None = None
    crops: int = 1
    centred: bool = False
    format: str = NPY
    name: str = "{name}"
    transposed: bool = False
    times: bool = False

    def __post_init__(self):
        Sliding(self.window, self.stride)
        if self.crops not in CROPS:
            raise UserError(f"the crops must be one of {', '.join(map(str, CROPS))}, found {self.crops}")
        if self.frame_rate is not None and not 0 < self.frame_rate <= 1000:
            raise UserError(f"the frame rate must be above 0 and at most 1000, found {self.frame_rate:g}")

    @property
    def plan(self) -> Sliding:
        """The windows."""
        return Sliding(self.window, self.stride, self.centred)


# What a network of the paper was trained on; the project's own layout.
DENSE = "dense"
PRESETS = {
    DENSE: Preset(window=64, stride=16, frame_rate=25.0, as_trained=True, format=NPZ),
    # ActionFormer, TriDet, OpenTAD.
    "thumos": Preset(window=16, stride=4, frame_rate=None, size=(340, 256)),
    # ActionFormer's ActivityNet.
    "anet": Preset(window=16, stride=16, frame_rate=25.0, size=(340, 256), name="v_{name}"),
    # Breakfast, 50Salads, GTEA.
    "mstcn": Preset(window=21, stride=1, frame_rate=None, centred=True, transposed=True),
    "xdviolence": Preset(window=16, stride=16, frame_rate=None, crops=5, name="{name}__{crop}"),
    "video_features": Preset(window=64, stride=64, frame_rate=None, name="{name}_{stream}", times=True),
}


def frame_rate_of(text: str) -> float | None:
    """Reads a frame rate: a number, or "native" for None.

    Raises:
      UserError: it is neither.
    """
    if text == NATIVE:
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--frame_rate: a number or {NATIVE} was expected, found {text!r}") from None
