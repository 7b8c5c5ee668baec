"""What exports have in common: the network as it was trained, the clips that they are compared on, its logits."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from i3d_jax import checkpoint, flow
from i3d_jax.drawn.actions import draw
from i3d_jax.flow import codec
from i3d_jax.models.network import Network
from i3d_jax.models.purpose import for_default_platform
from i3d_jax.system.errors import UserError
from i3d_jax.training.precision import HIGHEST, computed_in, of_dtype
from i3d_jax.training.step import scaled

# Clips uint8 [B, ...] by stream to logits float32 [B, classes].
Program = Callable[[Mapping[str, np.ndarray]], np.ndarray]

# Seconds that a drawn clip shows: its object is still in the picture then.
_SECONDS = 1.5
# Flow fields of a drawn clip, which are repeated, for each takes about a second; and frames a second, few enough that
# the object of a small clip moves by more than a pixel.
_FIELDS, _FLOW_RATE = 2, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Original:
    """A trained network.

    Attributes:
      source: where it was read, for sentences.
      model: the network.
      description: of it.
      variables: {"params", "batch_stats"}, NumPy.
    """

    source: Path
    model: Network
    description: checkpoint.Description
    variables: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Original:
        """Reads a checkpoint, or the newest one of a workdir; raises as `checkpoint.load`."""
        directory = checkpoint.find(directory)
        model, variables, _ = checkpoint.load(directory)
        description = checkpoint.Description.read(directory)
        return cls(source=directory, model=model, description=description, variables=variables)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The variables by name: "params/Logits/bias"."""
        return dict(checkpoint.named(self.variables))

    @property
    def clip_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape [T, H, W, C] of a clip by stream as the evaluation sees it; of a network of images [H, W, C].

        Raises:
          UserError: the checkpoint's preprocessing does not say how large a clip is.
        """
        preprocessing = self.description.preprocessing
        needed = ("frames", "crop") if self.model.sees_videos else ("crop",)
        for name in needed:
            if name not in preprocessing:
                raise UserError(f"'preprocessing' of {self.source} lacks {name}: a clip has no known size")
            if type(preprocessing[name]) is not int or preprocessing[name] < 1:
                raise UserError(
                    f"'preprocessing' of {self.source} has the {name} {preprocessing[name]!r}, a whole number of 1 or "
                    "more was expected"
                )
        return self.model.input_shapes(preprocessing["frames"] if self.model.sees_videos else 1, preprocessing["crop"])

    def exactly(self) -> contextlib.AbstractContextManager:
        """What is traced within multiplies float32 numbers as such on every device."""
        return computed_in(of_dtype(HIGHEST, self.model.dtype))

    def program(self) -> Callable[[Mapping[str, Any], Mapping[str, Any]], jax.Array]:
        """Returns what exports hold: the arrays by name and clips uint8 [B, ...] by stream to logits [B, classes]."""

        def of_one(arrays: Mapping[str, Any], clip: Mapping[str, Any]) -> jax.Array:
            nested = flax.traverse_util.unflatten_dict({tuple(name.split("/")): own for name, own in arrays.items()})
            applied: Any = self.model.apply(nested, {stream: scaled(pixels)[None] for stream, pixels in clip.items()})
            return applied[0][0]

        return lambda arrays, clips: jax.lax.map(functools.partial(of_one, arrays), clips)

    def logits(self, clips: Mapping[str, np.ndarray]) -> np.ndarray:
        """Computes what the network says of clips uint8 [B, ...] by stream: float32 [B, classes]."""
        apply = _apply(self.model)
        with self.exactly(), for_default_platform():
            rows = [
                apply(self.variables, {stream: own[row : row + 1] for stream, own in clips.items()})
                for row in range(len(next(iter(clips.values()))))
            ]
        return np.concatenate(rows)


@functools.lru_cache(maxsize=2)  # the same function for the same network, so that it is compiled once
def _apply(model: Network) -> Callable[..., jax.Array]:
    def apply(variables: Mapping[str, Any], clips: Mapping[str, Any]) -> jax.Array:
        applied: Any = model.apply(variables, {stream: scaled(pixels) for stream, pixels in clips.items()})
        return applied[0]

    return jax.jit(apply)


def sample_clips(original: Original, video: Path | None) -> dict[str, np.ndarray]:
    """Makes the clips that an export is compared on: noise, a drawn action, and a video's first window.

    Args:
      original: the network.
      video: a file, prepared as the evaluation does; None: there are the other two alone.

    Returns:
      uint8 [2 or 3, ...] by stream.

    Raises:
      UserError: the video cannot be read, or the network sees single images and a video was given.
    """
    random = np.random.default_rng(0)
    shapes = original.clip_shapes
    noise = {stream: random.integers(0, 256, shape, np.uint8) for stream, shape in shapes.items()}
    clips = [noise, {stream: _drawn(stream, shape, original.model.sees_videos) for stream, shape in shapes.items()}]
    if video is not None:
        if not original.model.sees_videos:
            raise UserError(f"{original.source} is a network of single images: --video goes with one that sees videos")
        # Imported here: without a video neither PyAV nor OpenCV is needed.
        from i3d_jax.video.windows import read_windows

        preprocessing = {**original.description.preprocessing, "windows": 1}
        windows = read_windows(video, preprocessing, streams=original.model.streams, where=str(original.source))
        clips.append({stream: own[0] for stream, own in windows.items()})
    return {stream: np.stack([clip[stream] for clip in clips]) for stream in shapes}


def _drawn(stream: str, shape: tuple[int, ...], of_videos: bool) -> np.ndarray:
    """Draws a clip of one of the embedded actions, or of its flow, uint8 of this shape."""
    height, width = shape[-3:-1]
    wanted = shape[0] if of_videos else shape[-1] // 2
    frames = wanted if stream == "rgb" else _FIELDS + 1
    pictures = draw(
        "moving right",
        np.random.default_rng(1),
        frames=max(1, frames),
        height=height,
        width=width,
        frame_rate=frames / _SECONDS if stream == "rgb" else _FLOW_RATE,
    )
    if stream == "rgb":
        return pictures if of_videos else pictures[0]
    grey = pictures.mean(-1).astype(np.float32)
    fields = codec.to_bytes(np.asarray(flow.tvl1(grey[:-1], grey[1:])))
    fields = fields[np.arange(wanted) % len(fields)]
    return fields if of_videos else np.concatenate(list(fields), axis=-1)
