"""Which frames and flow fields of a video the network sees: a window in training, a cover of the video in evaluation.

Table 1 of the paper, in training and in evaluation's windows:

| architecture | Sampling | sees |
|---|---|---|
| I3D | frames=64, stride=1, flow_per_frame=1 | 64 frames, or the 64 fields from each of them to the next |
| ConvNet+LSTM | frames=25, stride=5, flow_per_frame=0 | every fifth of 121 frames |
| 3D-ConvNet | frames=16, stride=1, flow_per_frame=0 | 16 frames |
| Two-Stream | frames=1, stride=1, flow_per_frame=10 | a frame and the 10 fields around it |
| 3D-Fused | frames=5, stride=10, flow_per_frame=10 | 5 frames and 50 consecutive fields |

Flow field t leads from frame t to frame t + 1: a video of N frames has N - 1 fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
from jaxtyping import Int64

from i3d_jax.system.errors import UserError

# The streams, and the channels of a frame (R, G, B) and of a flow field (u, v).
CHANNELS = {"rgb": 3, "flow": 2}
STREAMS = tuple(CHANNELS)
# What the checkpoints of the time before there were other windows do not say.
CONSECUTIVE_FRAMES = {"stride": 1, "flow_per_frame": 1}
# Nor do those whose network sees frames of the size that they are stored at.
AS_STORED = {"network_short_side": None}

# More than any clip has: ten minutes at 25 frames a second are 15,000 frames, whose pixels alone no memory holds.
_MOST = {"frames": 15_000, "stride": 15_000, "flow_per_frame": 1_000}
_MOST_WINDOWS = 10_000
# How many crops of a frame are told apart (`data.preprocessing.crops`).
CROPS = (1, 3, 5, 10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """What a window of a video is.

    Attributes:
      frames: RGB frames of a window.
      stride: from one RGB frame to the next, in frames of the dataset.
      flow_per_frame: k flow fields around each RGB frame, 0 for an architecture that takes none. Around frame t stand
        the fields from t - k // 2 on: field t alone for 1; t - 5 to t + 4 for 10, which together lead from 5 frames
        before t to 5 frames after it.

    Raises:
      UserError: a count is too small, or so large that it can only be a mistake.
    """

    frames: int
    stride: int = 1
    flow_per_frame: int = 1

    def __post_init__(self):
        for name, least in (("frames", 1), ("stride", 1), ("flow_per_frame", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be {least} or more, found {getattr(self, name)}")
            if getattr(self, name) > _MOST[name]:
                raise UserError(f"{name} must be at most {_MOST[name]}, found {getattr(self, name)}")

    def count(self, stream: str) -> int:
        """Returns how many frames ("rgb") or fields ("flow") a window holds."""
        return self.frames if stream == "rgb" else self.frames * self.flow_per_frame


def check_windows(windows: int) -> None:
    """Raises a `UserError` for a number of windows that no video is cut into."""
    if windows < 1:
        raise UserError(f"windows must be 1 or more, found {windows}")
    if windows > _MOST_WINDOWS:
        raise UserError(f"windows must be at most {_MOST_WINDOWS}, found {windows}")


def check_crops(number: int) -> None:
    """Raises a `UserError` for a number of crops that is not known."""
    if number not in CROPS:
        raise UserError(f"the number of crops must be one of {', '.join(map(str, CROPS))}, found {number}")


def check_streams(streams: Collection[str], sampling: Sampling) -> None:
    """Raises a `UserError` unless the streams are some of `STREAMS`, each once, and the sampling has them."""
    if not streams or len(set(streams)) < len(streams) or not set(streams) <= set(STREAMS):
        raise UserError(
            f"the streams must be one or both of {', '.join(STREAMS)}, found {', '.join(streams) or 'none'}"
        )
    if "flow" in streams and not sampling.flow_per_frame:
        raise UserError("the stream 'flow' was asked for with flow_per_frame 0, 1 or more was expected")


def training_window(
    num_frames: int, sampling: Sampling, draw: float, *, streams: Collection[str] = ("rgb",)
) -> dict[str, Int64[np.ndarray, " _count"]]:
    """Returns the numbers of the frames and fields of one window, by stream.

    Every start at which the window fits is equally likely; a video that is too short is looped from its start
    (reference: paper, section 3). With flow the window's fields have to fit too, and only the frames that a field leads
    away from are seen: all but the last. So where frames and fields are looped they are looped together, frame t with
    the fields around t, and no field is asked for that would lead from the last frame to the first.

    Args:
      num_frames: frames of the video, 1 or more; with flow, 2 or more.
      sampling: what a window is.
      draw: a uniform draw in [0, 1).
      streams: which of `STREAMS` are seen.

    Returns:
      int64 [sampling.count(stream)] for each stream, "rgb" in 0 .. num_frames - 1, "flow" in 0 .. num_frames - 2.

    Raises:
      ValueError: the video has too few frames, the draw is outside [0, 1), or the streams are not the sampling's.
    """
    if not 0 <= draw < 1:
        raise ValueError(f"the draw must be in [0, 1), found {draw}")
    starts = _starts(num_frames, sampling, streams)
    return _window(np.array(int(draw * starts)), num_frames, sampling, streams)


def cover(
    num_frames: int, sampling: Sampling, windows: int, *, streams: Collection[str] = ("rgb",)
) -> dict[str, Int64[np.ndarray, "{windows} _count"]]:
    """Returns the numbers of the frames and fields of `windows` windows over the whole video, by stream.

    One window holds the first frames or fields. Several start evenly spaced from the first start that fits to the last;
    a start that falls between two frames is rounded down. A video that is too short is looped as in training.

    Returns:
      int64 [windows, sampling.count(stream)] for each stream.

    Raises:
      ValueError: the video has too few frames, `windows` is below 1, or the streams are not the sampling's.
    """
    if windows < 1:
        raise ValueError(f"windows must be 1 or more, found {windows}")
    starts = np.arange(windows) * (_starts(num_frames, sampling, streams) - 1) // max(windows - 1, 1)
    return _window(starts, num_frames, sampling, streams)


def whole(
    num_frames: int, sampling: Sampling, *, streams: Collection[str] = ("rgb",), least: int = 1
) -> Int64[np.ndarray, " _count"]:
    """Returns the numbers of all frames of a video, or of its fields, that are the sampling's stride apart: int64 [T].

    Of a network that sees one field a frame, field t stands beside frame t. A video of fewer than `least` is looped.

    Raises:
      ValueError: the video has too few frames, or the streams are not the sampling's.
    """
    check_streams(streams, sampling)
    usable = _usable(num_frames, streams)
    return np.arange(max(-(-usable // sampling.stride), least)) * sampling.stride % usable


def reach(sampling: Sampling, *, streams: Collection[str] = ("rgb",)) -> int:
    """Returns how many frames a video has that one window just covers: of a longer one it sees no more than these."""
    check_streams(streams, sampling)
    return _length(sampling, streams) + _least(streams) - 1


def _least(streams: Collection[str]) -> int:
    """Returns how many frames a video has at least: a field leads from one to the next."""
    return 2 if "flow" in streams else 1


def _length(sampling: Sampling, streams: Collection[str]) -> int:
    """Returns how many frames, with flow fields, lie from the first to the last of a window."""
    around = sampling.flow_per_frame if "flow" in streams else 1
    return (sampling.frames - 1) * sampling.stride + around


def _usable(num_frames: int, streams: Collection[str]) -> int:
    """Returns how many frames from the first on may be seen: with flow, those that a field leads away from."""
    least = _least(streams)
    if num_frames < least:
        raise ValueError(f"num_frames must be {least} or more, found {num_frames}")
    return num_frames - least + 1


def _starts(num_frames: int, sampling: Sampling, streams: Collection[str]) -> int:
    """Returns at how many places a window can start, 1 for a video that is too short."""
    check_streams(streams, sampling)
    return max(_usable(num_frames, streams) - _length(sampling, streams), 0) + 1


def _window(
    starts: Int64[np.ndarray, "*starts"], num_frames: int, sampling: Sampling, streams: Collection[str]
) -> dict[str, Int64[np.ndarray, "*starts _count"]]:
    """Returns the windows that start, with their first frame or field, at `starts` int64 [...]: int64 [..., count]."""
    usable = _usable(num_frames, streams)
    steps = np.arange(sampling.frames) * sampling.stride
    before = sampling.flow_per_frame // 2 if "flow" in streams else 0
    fields = (steps[:, None] + np.arange(sampling.flow_per_frame)).reshape(-1)
    places = {"rgb": steps + before, "flow": fields}
    return {stream: (starts[..., None] + places[stream]) % usable for stream in streams}
