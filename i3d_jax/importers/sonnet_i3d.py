"""The release's I3D checkpoints (google-deepmind/kinetics-i3d), in all five published layouts.

rgb_* and flow_* put "RGB/inception_i3d/" or "Flow/inception_i3d/" before every name. rgb_scratch_kin600 puts nothing
there, keeps its batch normalisation as [1, 1, 1, 1, C] and its optimizer's slots beside the variables.
"""

from __future__ import annotations

from pathlib import Path

from i3d_jax.importers import tensorflow_checkpoint
from i3d_jax.importers.imported import Imported, read_network, refuse_other_stream, stream_of
from i3d_jax.importers.naming import AS_OURS, BROADCAST_VECTOR, Naming
from i3d_jax.importers.weights import Weights
from i3d_jax.system.errors import UserError

PREFIXES = {"RGB/inception_i3d/": "rgb", "Flow/inception_i3d/": "flow"}
LEAVES = {
    "kernel": "conv_3d/w",
    "batch_norm/bias": "batch_norm/beta",
    "batch_norm/mean": "batch_norm/moving_mean",
    "batch_norm/var": "batch_norm/moving_variance",
    "classifier/kernel": "conv_3d/w",
    "classifier/bias": "conv_3d/b",
}
STEM = "Conv3d_1a_7x7"


def read(path: Path, *, stream: str | None) -> Imported:
    """Reads a checkpoint of the release into an `i3d`.

    Args:
      path: as in `tensorflow_checkpoint.read`.
      stream: "rgb" or "flow" if the caller expects one; the file tells which it is.

    Raises:
      UserError: the file cannot be read, is not such a checkpoint, or holds the other stream.
    """
    weights = tensorflow_checkpoint.read(path)
    prefix = _prefix(weights)
    found = PREFIXES.get(prefix) or stream_of(weights, f"{prefix}{STEM}/conv_3d/w", channel_axis=3)
    refuse_other_stream(weights, found, stream)
    return read_network(
        weights, "i3d", {"stream": found}, _naming(weights, prefix), tensorflow_checkpoint.TRAINING_VARIABLES
    )


def _prefix(weights: Weights) -> str:
    """What stands before every name."""
    found = [prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in weights.arrays)]
    if len(found) > 1:
        raise UserError(f"{weights.source} holds both streams ({' and '.join(found)}), expected one")
    return found[0] if found else ""


def _naming(weights: Weights, prefix: str) -> Naming:
    offset = weights.arrays.get(f"{prefix}{STEM}/batch_norm/beta")
    vector = BROADCAST_VECTOR if offset is not None and offset.ndim == 5 else AS_OURS
    arrangements = {leaf: vector for leaf in LEAVES if leaf.startswith("batch_norm/")}
    return Naming(lambda unit: f"{prefix}{unit}/", LEAVES, arrangements)
