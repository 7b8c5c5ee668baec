"""From one video file to the very windows that evaluation would cut from it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from i3d_jax import clips
from i3d_jax.data.preprocessing import Preprocessing, centre_crop, refuse_mismatch, resized
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import instead, is_file
from i3d_jax.video.decode import Note, UnreadableVideo, no_note
from i3d_jax.video.encoded import chosen_images, decode_images
from i3d_jax.video.tvl1_backends import BACKENDS, description

# Of the pixels of a video's windows: 28,000 frames of 224 x 224.
MOST_BYTES = 4 << 30

# A video of less than this part of a window (1 / 4) is worth a warning.
_FEW = 4

# Who computes flow of which it is not known: whose TV-L1 the field means where it says no more.
USUAL = "opencv"


def read_windows(
    path: str | os.PathLike,
    preprocessing: Mapping[str, Any],
    *,
    streams: Collection[str],
    where: str,
    note: Note = no_note,
) -> dict[str, np.ndarray]:
    """Prepares a video as `prepare` does, JPEG included, and cuts the evaluation's windows from it.

    Only frames that are in a window are encoded, and only flow that is in one is computed. Where there is one window,
    which holds the first frames, the file is not read any further.

    Args:
      path: a video file.
      preprocessing: of a checkpoint's `model.json`: the fields of `Preprocessing`, `crop`, `frames`, `windows` and,
        where they are not 1, `stride` and `flow_per_frame`; `network_short_side` of RGB where frames are resized before
        the crop.
      streams: what the network takes: "rgb", "flow" or both.
      where: what to call the checkpoint in an error.
      note: called with each sentence on what was mended in the file.

    Returns:
      The streams asked for, of "rgb": uint8 [windows, frames, crop, crop, 3] and "flow": uint8 [windows,
      frames * flow_per_frame, crop, crop, 2].

    Raises:
      UserError: the video is missing or cannot be read, a field is missing or unknown, or the checkpoint was trained on
        flow that is not what this installation computes.
    """
    missing = [name for name in ("crop", "frames", "windows") if name not in preprocessing]
    if missing:
        raise UserError(f"{where}: 'preprocessing' lacks {', '.join(missing)}")
    fields = {**clips.CONSECUTIVE_FRAMES, **clips.AS_STORED, **preprocessing}
    for name in ("crop", "frames", "windows", "stride", "flow_per_frame"):
        if type(fields[name]) is not int or fields[name] < (name != "flow_per_frame"):
            raise UserError(f"{where}: 'preprocessing' has the {name} {fields[name]!r}, a whole number was expected")
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
    _refuse_too_many(sampling, fields["windows"], fields["crop"], streams, where)
    stored = Preprocessing.from_json(fields, where=where).of_streams(streams)
    stored.refuse_unknown(where)
    if "flow" in streams:
        _refuse_other_flow(stored, where)
    if not is_file(path):
        found = "no such file" if (found := instead(path)) == "nothing" else f"it is {found}"
        raise UserError(f"there is no video {os.fspath(path)!r}: {found}")
    windows, crop = fields["windows"], fields["crop"]
    reach = clips.reach(sampling, streams=streams)
    cover: dict[str, np.ndarray] = {}

    def choose(count: int) -> dict[str, np.ndarray]:
        if count * _FEW < reach:
            frames = "its only frame is" if count == 1 else f"its {count} frames are"
            note(f"warning: {frames} repeated to fill a window of {reach}, so the scores tell little")
        cover.update(clips.cover(count, sampling, windows, streams=streams))
        return {stream: np.unique(numbers) for stream, numbers in cover.items()}

    try:
        images = chosen_images(
            path,
            stored,
            choose,
            # One window holds the first frames.
            most=reach if windows == 1 else None,
            flow_threads=os.cpu_count() or 1,
            note=note,
        )
    except UnreadableVideo as error:
        raise UserError(f"the video {os.fspath(path)} cannot be read: {error}") from error
    return {stream: _pixels(stream, images[stream], cover[stream], crop, short_side) for stream in streams}


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


def _refuse_too_many(sampling: clips.Sampling, windows: int, crop: int, streams: Collection[str], where: str) -> None:
    pixels = sum(sampling.count(stream) * clips.CHANNELS[stream] for stream in streams) * crop**2
    if windows * pixels > MOST_BYTES:
        raise UserError(
            f"{where}: 'preprocessing' has {windows} windows of {sampling.frames} frames of {crop}x{crop} pixels, "
            f"which take {windows * pixels >> 20} MiB for a video; at most {MOST_BYTES >> 20} were expected"
        )


def _pixels(
    stream: str, images: Mapping[int, bytes], cover: np.ndarray, crop: int, short_side: int | None
) -> np.ndarray:
    """Decodes the images that a cover int64 [windows, count] needs: uint8 [windows, count, crop, crop, channels]."""
    needed, order = np.unique(cover, return_inverse=True)
    return np.concatenate([_picture(stream, images[number], crop, short_side) for number in needed])[
        order.reshape(cover.shape)
    ]


def _picture(stream: str, image: bytes, crop: int, short_side: int | None) -> np.ndarray:
    """Decodes an image to uint8 [1, crop, crop, channels]: many whole ones would take more memory than their crops."""
    pixels = decode_images([image])[..., : clips.CHANNELS[stream]]
    if short_side is not None:
        pixels = resized(pixels, short_side)
    return np.ascontiguousarray(centre_crop(pixels, crop))
