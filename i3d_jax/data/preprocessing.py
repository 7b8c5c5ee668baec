"""What is done to pixels between a video file and the network: the one definition that every command uses.

A dataset folder and a checkpoint both carry it as JSON; `refuse_mismatch` compares the two by name.

Of frames that another program made, not everything is known. What is not is `unknown(dataset)`: it equals what is
unknown of the same dataset and nothing else, so that it matches nothing by chance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from i3d_jax.flow import codec
from i3d_jax.system.errors import UserError

_UNKNOWN = "unknown"
# How many crops of a frame `crops` knows.
CROPS = (1, 3, 5, 10)


def unknown(dataset: str) -> str:
    """Returns what stands in place of a value that the named dataset, which another program made, does not tell."""
    return f"{_UNKNOWN} ({dataset})"


def _is_unknown(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_UNKNOWN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a video becomes stored frames (reference: paper, section 3; release README, "Sample data and preprocessing").

    Attributes:
      frame_rate: frames a second after resampling; or unknown.
      short_side: pixels of the shorter side after the resize; the aspect of the picture as shown is kept, unless the
        interpolation is unknown.
      interpolation: the resize filter, always "bilinear" (OpenCV's INTER_LINEAR); or unknown, and with it all else of
        the resize.
      jpeg_quality: 1 to 100, the quality at which frames are stored; or unknown.
      flow: how optical flow is made, as `flow.codec.description` says it; None where there is no flow. It is computed
        between the resized frames before they become JPEG: the compression is no part of the motion.
    """

    frame_rate: float | str = 25.0
    short_side: int = 256
    interpolation: str = "bilinear"
    jpeg_quality: int | str = 95
    flow: Mapping[str, Any] | None = None

    def __post_init__(self):
        frame_rate: Any = self.frame_rate
        jpeg_quality: Any = self.jpeg_quality
        # What a file may hold instead; `from_json` says where it stands.
        for name, value in (
            ("frame_rate", frame_rate),
            ("short_side", self.short_side),
            ("jpeg_quality", jpeg_quality),
        ):
            kinds = (int, float) if name == "frame_rate" else (int,)
            if not _is_unknown(value) and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise TypeError(f"a number was expected as {name}, found {value!r}")
        if not _is_unknown(frame_rate) and not 0 < frame_rate <= 1000:
            raise UserError(f"the frame rate must be above 0 and at most 1000 frames a second, found {frame_rate}")
        if not 16 <= self.short_side <= 4096:
            raise UserError(f"the short side must be 16 to 4096 pixels, found {self.short_side}")
        if not _is_unknown(jpeg_quality) and not 1 <= jpeg_quality <= 100:
            raise UserError(f"the JPEG quality must be 1 to 100, found {jpeg_quality}")
        if not _is_unknown(self.interpolation) and self.interpolation != "bilinear":
            raise UserError(f"the interpolation must be 'bilinear', found {self.interpolation!r}")
        if self.flow is not None:
            if not isinstance(self.flow, Mapping):
                raise UserError(f"the description of the flow must be an object, found {self.flow!r}")
            rounding, roundings = codec.rounding_of(self.flow), codec.ROUNDINGS
            if rounding not in roundings:
                raise UserError(f"the flow's rounding must be {' or '.join(roundings)}, found {rounding!r}")

    @property
    def unknown_fields(self) -> list[str]:
        """The names of the fields that are unknown; with any, a video cannot be prepared in the same way."""
        return [field.name for field in dataclasses.fields(self) if _is_unknown(getattr(self, field.name))]

    def refuse_unknown(self, where: str) -> None:
        """Raises a `UserError` where a field is unknown."""
        if names := ", ".join(self.unknown_fields):
            raise UserError(
                f"{where} was trained on frames that another program made, of which {names} is not known, so "
                "that a video cannot be prepared as they were; what you know, training takes as "
                "--config.data.stated.KEY"
            )

    def of_streams(self, streams: Collection[str]) -> Preprocessing:
        """Returns the preprocessing of some streams alone: without "flow" among them, without its description."""
        return self if "flow" in streams else dataclasses.replace(self, flow=None)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object, as `dataset.json` and `model.json` hold them; no flow has no field."""
        fields = dataclasses.asdict(self)
        if self.flow is None:
            # So that what knows nothing of flow, and what was written before there was any, reads and hashes the same.
            del fields["flow"]
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], *, where: str) -> Preprocessing:
        """Reads the fields from a JSON object, which may hold others; a `UserError` says what is missing `where`."""
        names = [field.name for field in dataclasses.fields(cls)]
        fields = {"flow": None, **fields}  # what was prepared without flow does not speak of it
        missing = [name for name in names if name not in fields]
        if missing:
            raise UserError(f"{where}: 'preprocessing' lacks {', '.join(missing)}")
        try:
            return cls(**{name: fields[name] for name in names})
        except TypeError as error:
            raise UserError(f"{where}: 'preprocessing' holds a value of another kind than expected: {error}") from error


def comparable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a JSON object with those of its flow beside them, as "flow.bound", to be compared by name.

    "flow" itself is then the algorithm. Flow whose implementation is stated and whose rounding is not was stored by
    this package when it knew of no other.
    """
    flow = fields.get("flow")
    if not isinstance(flow, Mapping):
        return dict(fields)
    if "implementation" in flow:
        flow = {"rounding": codec.rounding_of(flow), **flow}
    return {**fields, "flow": flow.get("algorithm"), **{f"flow.{name}": value for name, value in flow.items()}}


def refuse_mismatch(expected: Mapping[str, Any], found: Mapping[str, Any], *, expected_by: str, found_in: str) -> None:
    """Raises a `UserError` naming every field that both sides state and state differently, those of the flow too.

    A value that is unknown differs from every other but itself.
    """
    expected, found = comparable(expected), comparable(found)
    different = [name for name in expected if name in found and expected[name] != found[name]]
    if different:
        named = "; ".join(f"{name} {expected[name]!r} against {found[name]!r}" for name in different)
        hint = ""
        if any(_is_unknown(found[name]) for name in different):
            hint = "; what you know of frames that another program made is stated by --config.data.stated.KEY"
        raise UserError(
            f"{expected_by} was trained on pixels prepared in another way than those of {found_in}: {named}{hint}"
        )


def resized_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Returns (width, height) at which pictures have this shorter side; none is enlarged."""
    scale = min(Fraction(short_side, min(width, height)), Fraction(1))
    return round(width * scale), round(height * scale)


def resized(frames: np.ndarray, short_side: int) -> np.ndarray:
    """Resizes frames after they are decoded, for networks that see smaller ones than are stored.

    By the filter that the frames were stored with: bilinear, OpenCV's INTER_LINEAR. One definition for training and
    prediction.

    Args:
      frames: uint8 [T, H, W, C].
      short_side: pixels of the shorter side of the result; frames that are as small or smaller stay as they are.

    Returns:
      uint8 [T, h, w, C] by `resized_size`.
    """
    # Imported here: networks that see frames as they are stored train without OpenCV.
    import cv2

    size = resized_size(frames.shape[2], frames.shape[1], short_side)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in frames])


def centre_crop(frames: np.ndarray, size: int) -> np.ndarray:
    """Cuts the middle of every frame: [..., H, W, C] to [..., size, size, C]; a view, any dtype.

    An odd remainder leaves the extra row below and the extra column on the right.

    Raises:
      UserError: a side is shorter than `size`.
    """
    return crops(frames, size, 1)[0]


class Crop(NamedTuple):
    """A square that is cut from every frame of a clip.

    Attributes:
      top, left: its first row and column.
      mirrored: whether left and right are exchanged once it is cut; of flow, `mirrored` negates u too.
    """

    top: int
    left: int
    mirrored: bool = False


def crop_places(width: int, height: int, size: int, number: int) -> list[Crop]:
    """Returns where the crops of a frame lie, in their order.

    1: the centre. 3: the start of the longer side, its centre and its end, centred along the other (of a square, along
    the width). 5: the corners and the centre, which stands third: top left, top right, centre, bottom left, bottom
    right, as those who extract features of I3D for anomaly detection number them (torchvision's `FiveCrop` has the
    centre last; means over all are the same). 10: these, then the mirror of each, in the same order.

    An odd remainder leaves the extra row below and the extra column on the right.

    Args:
      width, height: of the frame, in pixels.
      size: of a side of the crops, in pixels.
      number: of crops, one of `CROPS`.

    Raises:
      UserError: a side is shorter than `size`, or there is no such number of crops.
    """
    check_crops(number)
    if min(height, width) < size:
        raise UserError(f"a crop of {size} pixels was asked of frames of {width}x{height}")
    bottom, right = height - size, width - size
    centre = Crop(bottom // 2, right // 2)
    if number == 1:
        return [centre]
    if number == 3:
        first, last = (
            (Crop(0, centre.left), Crop(bottom, centre.left))
            if height > width
            else (
                Crop(centre.top, 0),
                Crop(centre.top, right),
            )
        )
        return [first, centre, last]
    five = [Crop(0, 0), Crop(0, right), centre, Crop(bottom, 0), Crop(bottom, right)]
    return five if number == 5 else five + [crop._replace(mirrored=True) for crop in five]


def check_crops(number: int) -> None:
    """Raises a `UserError` for a number of crops that is not known."""
    if number not in CROPS:
        raise UserError(f"the number of crops must be one of {', '.join(map(str, CROPS))}, found {number}")


def crops(pixels: np.ndarray, size: int, number: int, *, flow_rounding: str | None = None) -> np.ndarray:
    """Cuts the crops of `crop_places` from every frame, or every field of stored flow.

    Args:
      pixels: [..., H, W, C], any dtype; of flow uint8 with C = 2.
      size: of a side, in pixels.
      number: of crops, one of `CROPS`.
      flow_rounding: of flow, how it is stored, one of `codec.ROUNDINGS`; None for frames.

    Returns:
      [number, ..., size, size, C]; with one crop a view.

    Raises:
      UserError: as `crop_places`.
    """
    height, width = pixels.shape[-3:-1]
    cut = []
    for top, left, turned in crop_places(width, height, size, number):
        crop = pixels[..., top : top + size, left : left + size, :]
        cut.append(mirrored(crop, flow_rounding=flow_rounding) if turned else crop)
    return cut[0][None] if number == 1 else np.stack(cut)


def mirrored(pixels: np.ndarray, *, flow_rounding: str | None = None) -> np.ndarray:
    """Exchanges left and right of frames [..., H, W, C]; of stored flow, uint8 [..., H, W, 2], u is negated too.

    Args:
      pixels: the frames, any dtype, or fields.
      flow_rounding: of flow, how it is stored, one of `codec.ROUNDINGS`; None for frames.
    """
    turned = pixels[..., ::-1, :]
    return turned if flow_rounding is None else codec.negate_u(turned, flow_rounding)
