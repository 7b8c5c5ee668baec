"""What I3D gives for a clip of any length, computed piece by piece in the memory of one.

The network pads its inputs in time at every layer (TensorFlow's SAME): zeros before the first step and behind the last,
and more or fewer before it by whether the layer's steps are even in number. A piece cut from the middle of a clip would
see such zeros where the clip has frames, and an odd clip other frames than an even one. Here every piece is as long as
every other, a multiple of the network's stride in time, and

- the clip begins in the first piece at the frame that lets each layer's window meet the frames it meets in the whole;
- what lies before the clip or behind it is made zero again after every layer;
- of what a piece gives, only that counts which no edge of the piece, but for the clip's own, can reach. Pieces overlap
  by so much.

One program serves all pieces of all clips. What follows the trunk is linear: the scores are those of the mean of its
features, which is summed over the pieces.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, Integer, Shaped, UInt8

from i3d_jax.clips import STREAMS
from i3d_jax.evaluation.predictions import Batch, Predictions, in_flight, refuse_not_finite
from i3d_jax.models.batch_norm import pooled
from i3d_jax.models.classifier import classify
from i3d_jax.models.i3d import I3D, MINIMUM_FRAMES, TwoStreamI3D
from i3d_jax.models.inception import TRUNK, Mixed
from i3d_jax.models.layers import ConvolutionUnit
from i3d_jax.models.network import Network
from i3d_jax.shapes import AnyArray
from i3d_jax.system.errors import UserError
from i3d_jax.training.compiler_options import jitted
from i3d_jax.training.precision import HIGHEST, computed_in, of_dtype
from i3d_jax.training.step import scaled


@dataclasses.dataclass(frozen=True)
class Pieces:
    """How clips of a network are cut into pieces, and which of a piece's features count.

    A feature is of two neighbouring steps of the last block. Feature i of a piece that begins at `start` is number
    start / stride + i of the clip.

    Attributes:
      frames: of a piece, a multiple of `stride`.
      stride: frames from one feature to the next.
      before, after: features at either end of a piece that its edge reaches.
      shifts: of each layer with a stride in time, in order, by how many of its steps an odd number of them begins later
        within the first piece.
    """

    frames: int
    stride: int
    before: int
    after: int
    shifts: tuple[int, ...]

    def features(self, frames: int) -> int:
        """Returns how many features a clip of `frames` frames has."""
        for _ in self.shifts:
            frames = -(-frames // 2)
        return frames - 1

    def places(self, frames: int) -> list[tuple[int, int]]:
        """Returns (start, first frame) of every piece of a clip: the frame of the clip at which it begins.

        The first of it may be before the clip, whose first frame is 0.
        """
        shift = int(self.begins(frames)[0])
        step = self.stride * (self.frames // self.stride - 1 - self.before - self.after)
        rest = max(frames + shift - self.frames, 0)
        return [(start, start - shift) for start in range(0, -(-rest // step) * step + 1, step)]

    def begins(self, frames: Any) -> list[Any]:
        """Returns at which step of the first piece a clip begins, by layer with a stride, the clip's frames first."""
        lengths = [frames]
        for _ in self.shifts[1:]:
            lengths.append((lengths[-1] + 1) // 2)
        begins = [0 * frames]
        for length, shift in zip(reversed(lengths), reversed(self.shifts), strict=True):
            begins.append(2 * begins[-1] + shift * (length % 2))
        return begins[::-1]


def pieces(model: Network, frames: int) -> Pieces:
    """Returns how clips are cut for a network, in pieces of at least `frames` frames.

    They have at least twice what their edges take: 208 for I3D.

    Raises:
      UserError: the network is none of I3D's.
    """
    refuse_others(model)
    # From the last block back to the frames: those that the features 0 and 1 see of a piece, whose lengths are even.
    first, last, stride, shifts = 0, 1, 1, []
    names = list(TRUNK)
    for name in reversed(names[: names.index(model.last_block) + 1]):
        layer = TRUNK[name]
        taps, step = (3, 1) if isinstance(layer, Mixed) else (layer.window[0], layer.strides[0])
        (even, _), (odd, _) = (lax.padtype_to_pads((length,), (taps,), (step,), "SAME")[0] for length in (64, 65))
        first, last, stride = first * step - even, last * step - even + taps - 1, stride * step
        if step > 1:
            shifts.append(odd - even)
    before, after = -(first // stride), -(-(last + 1) // stride) - 2
    least = 2 * (before + after + 1) * stride
    return Pieces(-(-max(frames, least) // stride) * stride, stride, before, after, tuple(reversed(shifts)))


def refuse_others(model: Network) -> None:
    """Raises a `UserError` for a network that is not I3D or a pair of them."""
    if not isinstance(model, I3D | TwoStreamI3D):
        raise UserError(
            "evaluation.protocol 'dense' takes videos of any length, as i3d and two_stream_i3d do; "
            f"{type(model).__name__} sees clips of a length of its own: 'whole_video' or 'windows' was expected"
        )


@functools.lru_cache(maxsize=16)
def dense_step(
    model: Network, cut: Pieces, *, precision: str = HIGHEST
) -> Callable[
    [Mapping[str, Any], Mapping[str, Shaped[AnyArray, "batch ..."]]], dict[str, Float32[Array, "batch channels"]]
]:
    """Makes the pure function (variables, batch) -> the sums of the features that count, float32 [B, C] by classifier.

    The batch holds pieces: uint8 "rgb" [B, 1, T, H, W, 3], "flow" [B, 1, T, H, W, 2] or both with T = `cut.frames`,
    int32 "start" [B] as `Pieces.places` has it, and int32 "frames" [B], those of the clip that each is of. What stands
    where a piece is outside its clip plays no part. The network sees one piece at a time.

    Args:
      model: the network, one of I3D's.
      cut: of `pieces`.
      precision: as in `training.step.evaluation_step`.
    """
    # What a backward pass would compute again.
    model = model.clone(rematerialise=False)
    replicates = model.temporal_padding == "replicate"

    def of_piece(variables, piece):
        start, frames = piece["start"], piece["frames"]
        inside = _inside(cut, start, frames)

        def within(call, arguments, options, context):
            if not isinstance(context.module, ConvolutionUnit) or context.method_name != "with_pool":
                return call(*arguments, **options)
            inputs, train, pool = arguments
            if replicates and context.module.window[0] > 1:
                first, last = inside(inputs.shape[1])
                steps = jnp.arange(inputs.shape[1]).clip(first, last)
                inputs = jnp.take(inputs, steps, axis=1)
            outputs = masked(call(inputs, train, None, **options)[0])
            # A pool over time must not see what stands outside.
            return outputs, pooled(outputs, pool)

        def masked(values):
            first, last = inside(values.shape[1])
            steps = jnp.arange(values.shape[1])
            counts = (steps >= first) & (steps <= last)
            return jnp.where(counts[None, :, None, None, None], values, 0)

        inputs = {stream: masked(scaled(piece[stream])) for stream in STREAMS if stream in piece}
        with nn.intercept_methods(within):
            applied: Any = model.apply(variables, inputs)
        number = jnp.arange(cut.frames // cut.stride - 1)
        first = jnp.where(start > 0, cut.before, 0)
        ends = start + cut.frames >= frames + cut.begins(frames)[0]
        last = jnp.where(ends, cut.features(frames) - 1 - start // cut.stride, number[-1] - cut.after)
        counts = (number >= first) & (number <= last)
        features = model.classifier_inputs(applied[1])
        return {scope: jnp.where(counts[:, None], values[0], 0).sum(0) for scope, values in features.items()}

    def step(
        variables: Mapping[str, Any], batch: Mapping[str, Shaped[AnyArray, "batch ..."]]
    ) -> dict[str, Float32[Array, "batch channels"]]:
        taken = {name: values for name, values in batch.items() if name in (*STREAMS, "start", "frames")}
        with computed_in(of_dtype(precision, model.dtype)):
            return lax.map(lambda piece: of_piece(variables, piece), taken)

    return step


def _inside(cut: Pieces, start: Integer[AnyArray, ""], frames: Integer[AnyArray, ""]) -> Callable[[int], tuple]:
    """Returns what says, of a layer's steps within a piece, which are the first and the last of its clip."""
    begins, ends, length = cut.begins(frames), {}, frames
    for level, begin in enumerate(begins):
        first = begin - start // 2**level
        ends[cut.frames // 2**level] = first, first + length - 1
        length = (length + 1) // 2
    return ends.__getitem__


def finish(
    model: Network, params: Mapping[str, Any], features: Mapping[str, Float32[AnyArray, " channels"]]
) -> tuple[Float32[Array, " classes"], dict[str, Float32[Array, " classes"]]]:
    """Returns (logits, those of each stream alone) float32 [classes] of the mean features of a clip, by classifier.

    Args:
      model: the network.
      params: its parameters, of which the classifiers' are used.
      features: their means, float32 [C].
    """
    logits, endpoints = classify(model, params, {scope: values[None, None] for scope, values in features.items()})
    return logits[0], {stream: own[0] for stream, own in model.stream_logits(endpoints).items()}


def dense(
    model: Network,
    variables: Mapping[str, Any],
    clip: Mapping[str, UInt8[np.ndarray, "time height width _channels"]],
    *,
    frames: int = 256,
    precision: str = HIGHEST,
) -> tuple[Float32[Array, " classes"], dict[str, Float32[Array, " classes"]]]:
    """Scores a clip of any length as `model.apply` scores it in one piece, to float error.

    Args:
      model: the network, one of I3D's.
      variables: {"params", "batch_stats"}.
      clip: uint8 "rgb" [T, H, W, 3], "flow" [T, H, W, 2] or both, T at least 9.
      frames: that are computed at a time, as `pieces` takes them.
      precision: as in `training.step.evaluation_step`.

    Returns:
      (logits, those of each stream alone), float32 [num_classes].

    Raises:
      UserError: the network is none of I3D's, or the clip is too short.
    """
    cut = pieces(model, frames)
    length = min(len(clip[stream]) for stream in model.streams)
    if length < MINIMUM_FRAMES:
        raise UserError(f"I3D needs clips of at least {MINIMUM_FRAMES} frames, found {length}")
    step = _compiled(dense_step(model, cut, precision=precision))
    sums: dict[str, np.ndarray] = {}
    for start, first in cut.places(length):
        batch = {stream: clip[stream][frame_numbers(cut, first, length)][None, None] for stream in model.streams}
        batch |= {"start": np.array([start], np.int32), "frames": np.array([length], np.int32)}
        for scope, values in step(variables, batch).items():
            sums[scope] = sums.get(scope, 0) + np.asarray(values[0], np.float64)
    features = {scope: (values / cut.features(length)).astype(np.float32) for scope, values in sums.items()}
    return finish(model, variables["params"], features)


def predict(
    score_batch: Callable[[Batch], Mapping[str, Any]],
    batches: Iterable[Batch],
    num_classes: int,
    *,
    cut: Pieces,
    finish: Callable[[Mapping[str, np.ndarray]], tuple[Any, Mapping[str, Any]]],
    fetch: Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]],
) -> Predictions:
    """Scores every video of a split of which all pieces can be read; one is always in flight, as in `predictions`.

    Args:
      score_batch: starts the computation of a batch's sums, float32 [at least B, C] by classifier.
      batches: as `dense_step` takes them, with "mask" bool [B], "record" int [B] (the number of the video in the
        split), "video" str [B] and "label" int [B] beside; the pieces of a video in any order.
      num_classes: columns of the logits.
      cut: how the videos are cut.
      finish: the mean features of a video, float32 [C] by classifier -> (logits, those of each stream alone).
      fetch: waits for what `score_batch` gave, and gives it as NumPy arrays.

    Returns:
      The predictions, whose `row` is the number of the video in the split.

    Raises:
      UserError: scores are not finite.
    """
    open_videos: dict[int, tuple[int, dict[str, Any]]] = {}
    found: list[tuple[str, int, np.ndarray, dict[str, np.ndarray], int]] = []
    for batch, scored in in_flight(score_batch, batches):
        sums = fetch(scored)
        for row in np.flatnonzero(batch["mask"]):
            record, frames = int(batch["record"][row]), int(batch["frames"][row])
            pieces_done, total = open_videos.pop(record, (0, {}))
            total = {scope: total.get(scope, 0) + np.float64(values[row]) for scope, values in sums.items()}
            if pieces_done + 1 < len(cut.places(frames)):
                open_videos[record] = pieces_done + 1, total
                continue
            means = {scope: (values / cut.features(frames)).astype(np.float32) for scope, values in total.items()}
            logits, streams = jax.device_get(finish(means))
            video = str(batch["video"][row])
            for own in (logits, *streams.values()):
                refuse_not_finite(own[None], [video])
            found.append((video, int(batch["label"][row]), logits, streams, record))
    streams = {stream: np.stack([one[3][stream] for one in found]) for stream in (found[0][3] if found else ())}
    return Predictions(
        np.array([one[0] for one in found], np.str_),
        np.array([one[1] for one in found], np.int32),
        np.stack([one[2] for one in found]) if found else np.zeros((0, num_classes), np.float32),
        streams,
        np.array([one[4] for one in found], np.int64),
    )


@functools.lru_cache(maxsize=16)
def _compiled(step: Callable) -> Callable:
    return jitted(step)


def frame_numbers(cut: Pieces, first: int, frames: int) -> Integer[np.ndarray, " _frames"]:
    """Returns the numbers of a clip's frames that stand in a piece, int64 [`cut.frames`].

    Outside the clip, where what stands plays no part, they are the first and the last.
    """
    return (first + np.arange(cut.frames)).clip(0, frames - 1)
