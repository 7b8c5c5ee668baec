"""A network as a program that plain JAX runs without this package: StableHLO, by `jax.export`.

    FOLDER/network.stablehlo   the program: `jax.export.deserialize` reads it
    FOLDER/model.safetensors, config.json, README.md   what a Hub folder holds (`importers.hub`)

The program takes (arrays, clips): the arrays of model.safetensors by name, and for each stream uint8 [B, T, H, W, C] of
any B, T and H x W as `preprocessing` in config.json says (`frames`, `crop`). It gives logits float32 [B, classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from i3d_jax import checkpoint, clips
from i3d_jax.models.network import Network
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import written_whole
from i3d_jax.training.precision import HIGHEST, computed_in, of_dtype
from i3d_jax.training.step import scaled

PROGRAM = "network.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def write(folder: Path, model: Network, description: checkpoint.Description, variables: Mapping[str, Any]) -> None:
    """Writes the program into a Hub folder.

    Args:
      folder: is there.
      model: the network.
      description: of it; its `preprocessing` says how large a clip is.
      variables: {"params", "batch_stats"}, of which the program takes the shapes alone.

    Raises:
      UserError: the preprocessing lacks the size of a clip.
    """
    arrays = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in checkpoint.named(variables)}
    [batch] = jax.export.symbolic_shape("b")
    shapes = {
        stream: jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
        for stream, shape in clip_shapes(model, description.preprocessing).items()
    }

    def one(arrays: Mapping[str, jax.Array], clip: Mapping[str, jax.Array]) -> jax.Array:
        nested = flax.traverse_util.unflatten_dict({tuple(name.split("/")): array for name, array in arrays.items()})
        applied: Any = model.apply(nested, {stream: scaled(pixels)[None] for stream, pixels in clip.items()})
        return applied[0][0]

    def network(arrays: Mapping[str, jax.Array], batch: Mapping[str, jax.Array]) -> jax.Array:
        return jax.lax.map(lambda clip: one(arrays, clip), batch)

    with computed_in(of_dtype(HIGHEST, model.dtype)):
        exported = jax.export.export(jax.jit(network), platforms=PLATFORMS)(arrays, shapes)
    with written_whole(folder / PROGRAM) as file:
        file.write(exported.serialize())


def clip_shapes(model: Network, preprocessing: Mapping[str, Any]) -> dict[str, tuple[int, int, int, int]]:
    """Returns the shape [T, H, W, C] of a clip by stream, as a checkpoint's evaluation sees it."""
    missing = [name for name in ("frames", "crop") if name not in preprocessing]
    if missing:
        raise UserError(f"'preprocessing' of the checkpoint lacks {', '.join(missing)}: a clip has no known size")
    size = preprocessing["crop"]
    counts = {"rgb": preprocessing["frames"], "flow": preprocessing["frames"] * max(model.flow_per_frame, 1)}
    return {stream: (counts[stream], size, size, clips.CHANNELS[stream]) for stream in model.streams}


def difference(
    folder: Path, model: Network, description: checkpoint.Description, variables: Mapping[str, Any]
) -> float:
    """Runs what was written beside the network itself, on noise and on a picture that moves.

    Returns:
      The largest difference of two logits over the largest logit.
    """
    exported = jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    draw = np.random.default_rng(0)
    batch = {}
    for stream, (frames, height, width, channels) in clip_shapes(model, description.preprocessing).items():
        noise = draw.integers(0, 256, (frames, height, width, channels), np.uint8)
        moving = np.stack([np.roll(noise[0] // 2 + 64, number, axis=1) for number in range(frames)])
        batch[stream] = np.stack([noise, moving])
    found = np.asarray(exported.call(dict(checkpoint.named(variables)), batch))
    apply = jax.jit(model.apply)
    with computed_in(of_dtype(HIGHEST, model.dtype)):
        expected = np.concatenate(
            [
                np.asarray(apply(variables, {stream: scaled(own[row : row + 1]) for stream, own in batch.items()})[0])
                for row in range(2)
            ]
        )
    return float(np.abs(found - expected).max() / np.abs(expected).max())
