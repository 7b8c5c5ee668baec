"""What a network sees of videos, as its checkpoint's `preprocessing` says it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from i3d_jax import clips
from i3d_jax.data.preprocessing import Preprocessing, refuse_mismatch, resized
from i3d_jax.system.errors import UserError
from i3d_jax.video.frames import Frames
from i3d_jax.video.tvl1_backends import BACKENDS, description

# Who computes flow of which it is not known: whose TV-L1 the field means where it says no more.
USUAL = "opencv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """What one network sees.

    Attributes:
      streams: "rgb", "flow" or both.
      sampling: what a window is in the evaluation.
      windows: of a video in the evaluation.
      stored: how frames and flow are made.
      crop: pixels of a side.
      network_short_side: pixels of the shorter side that RGB frames are brought to before the crop; None: as stored.
    """

    streams: tuple[str, ...]
    sampling: clips.Sampling
    windows: int
    stored: Preprocessing
    crop: int
    network_short_side: int | None = None

    @classmethod
    def of_checkpoint(cls, preprocessing: Mapping[str, Any], *, streams: Collection[str], where: str) -> View:
        """Reads it from the `preprocessing` of a checkpoint's `model.json`.

        Args:
          preprocessing: the fields of `Preprocessing`, `crop`, `frames`, `windows` and, where they are not 1, `stride`
            and `flow_per_frame`; `network_short_side` of RGB where frames are resized before the crop.
          streams: what the network takes.
          where: what to call the checkpoint in an error.

        Raises:
          UserError: a field is missing, of another kind or unknown, or the checkpoint was trained on flow that is not
            what this installation computes.
        """
        if missing := [name for name in ("crop", "frames", "windows") if name not in preprocessing]:
            raise UserError(f"{where}: 'preprocessing' lacks {', '.join(missing)}")
        fields = {**clips.CONSECUTIVE_FRAMES, **clips.AS_STORED, **preprocessing}
        for name in ("crop", "frames", "windows", "stride", "flow_per_frame"):
            if type(fields[name]) is not int or fields[name] < (name != "flow_per_frame"):
                raise UserError(
                    f"{where}: 'preprocessing' has the {name} {fields[name]!r}, a whole number was expected"
                )
        short_side = fields["network_short_side"]
        if short_side is not None and (type(short_side) is not int or short_side < fields["crop"]):
            raise UserError(
                f"{where}: 'preprocessing' has the network_short_side {short_side!r}, a whole number from the crop, "
                f"{fields['crop']}, on was expected"
            )
        try:
            sampling = clips.Sampling(**{name: fields[name] for name in ("frames", "stride", "flow_per_frame")})
            clips.check_windows(fields["windows"])
        except UserError as error:
            raise UserError(f"{where}: 'preprocessing': {error}") from error
        clips.check_streams(streams, sampling)
        stored = Preprocessing.from_json(fields, where=where).of_streams(streams)
        stored.refuse_unknown(where)
        if "flow" in streams:
            _refuse_other_flow(stored, where)
        return cls(
            streams=tuple(streams),
            sampling=sampling,
            windows=fields["windows"],
            stored=stored,
            crop=fields["crop"],
            network_short_side=short_side,
        )

    @property
    def frames(self) -> Frames:
        """The rate and the size that a video is brought to."""
        return Frames.of(self.stored)

    @property
    def reach(self) -> int:
        """How many frames one window just covers."""
        return clips.reach(self.sampling, streams=self.streams)

    def seen(self, stream: str, picture: np.ndarray) -> np.ndarray:
        """Returns a stored frame or field, uint8 [H, W, C], as the crop is cut from it."""
        if stream != "rgb" or self.network_short_side is None:
            return picture
        return resized(picture[None], self.network_short_side)[0]


def together(views: Sequence[View], wheres: Sequence[str]) -> Preprocessing:
    """Returns how frames and flow are made for several networks at a time: a video is read once.

    Raises:
      UserError: two of them see other frames, or other flow; both are named.
    """
    stored = views[0].stored
    for view, where in zip(views[1:], wheres[1:], strict=True):
        alike = ("frame_rate", "short_side", "interpolation")
        ours, theirs = ({name: getattr(own, name) for name in alike} for own in (stored, view.stored))
        refuse_mismatch(ours, theirs, expected_by=wheres[0], found_in=where)
        if "rgb" in view.streams:
            stored = dataclasses.replace(stored, jpeg_quality=view.stored.jpeg_quality)
        if view.stored.flow is not None:
            stored = dataclasses.replace(stored, flow=view.stored.flow)
    return stored


def completed(preprocessing: Mapping[str, Any], *, streams: Collection[str], where: str) -> tuple[dict[str, Any], str]:
    """Returns a checkpoint's preprocessing with the flow that this installation computes, where it says not by whom.

    So it is with the published weights: TV-L1 and its bound are known of their flow, and nothing else.

    Returns:
      (preprocessing, one sentence on what was taken; "" where nothing was).
    """
    flow = preprocessing.get("flow")
    if "flow" not in streams or not isinstance(flow, Mapping) or "implementation" in flow:
        return dict(preprocessing), ""
    computed = description(USUAL)
    refuse_mismatch({"flow": flow}, {"flow": computed}, expected_by=where, found_in="this installation")
    note = f"{where} does not say who computed its flow: here OpenCV {computed['version']} does, by TV-L1"
    return {**preprocessing, "flow": computed}, note


def _refuse_other_flow(preprocessing: Preprocessing, where: str) -> None:
    if preprocessing.flow is None:
        raise UserError(f"{where}: 'preprocessing' lacks flow, which the network takes")
    implementation = preprocessing.flow.get("implementation")
    if implementation not in BACKENDS:
        raise UserError(
            f"{where}: flow by one of {', '.join(BACKENDS)} can be computed here, it was trained on that by"
            f" {implementation!r}"
        )
    computed = description(implementation)
    refuse_mismatch({"flow": preprocessing.flow}, {"flow": computed}, expected_by=where, found_in="this installation")
