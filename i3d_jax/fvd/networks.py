"""The network whose logits are the features, and how they are computed: in full batches, on this host's devices."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import google_crc32c
import jax
import jax.numpy as jnp
import numpy as np

from i3d_jax import checkpoint
from i3d_jax.fvd.protocols import LAYER, Protocol
from i3d_jax.importers import published
from i3d_jax.models.i3d import I3D
from i3d_jax.system.errors import UserError
from i3d_jax.training.partition import Devices
from i3d_jax.training.precision import computed_in

# The network of every publication: what TensorFlow Hub has as i3d-kinetics-400/1.
USUAL = "rgb_scratch"


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and which one it is.

    Attributes:
      model: it computes in float32.
      variables: {"params", "batch_stats"}.
      release: which of the published checkpoints it is, by all of its arrays; None for another.
      crc32c: of all arrays in the order of their names, eight hexadecimal digits.
      where: it comes from.
    """

    model: Any
    variables: Mapping[str, Any]
    release: str | None
    crc32c: str
    where: str

    def told(self) -> dict[str, Any]:
        """Returns what says which network it is, as JSON."""
        return {"release": self.release, "crc32c": self.crc32c, "layer": LAYER}


def open_network(network: Any, *, allow_checkpoint: bool) -> Network:
    """Opens a network, and refuses one whose distances compare with nobody's.

    Args:
      network: a checkpoint directory or workdir; or an object with `model` and `variables`, as `i3d_jax.load` gives.
      allow_checkpoint: whether another network than rgb_scratch is taken.

    Raises:
      UserError: it is another network, or none that sees RGB videos.
    """
    if isinstance(network, (str, os.PathLike)):
        where = str(network)
        model, variables, _ = checkpoint.load(checkpoint.find(network))
    elif hasattr(network, "model") and hasattr(network, "variables"):
        where = str(getattr(network, "directory", None) or "the network")
        model, variables = network.model, network.variables
    else:
        raise UserError(
            "a checkpoint directory, or an object with `model` and `variables` as i3d_jax.load gives, was expected as "
            f"the network, found {type(network).__name__}"
        )
    if not getattr(model, "sees_videos", False) or tuple(model.streams) != ("rgb",):
        raise UserError(f"{where}: a network of RGB videos was expected, found one of {' and '.join(model.streams)}")
    arrays = jax.tree.map(np.asarray, dict(variables))
    release = _release(model, arrays)
    if release != USUAL and not allow_checkpoint:
        raise UserError(
            f"{where} is {release or 'none of the published networks'}: every published Fréchet Video Distance is by "
            f"{USUAL}, and one by another network compares with none of them; --allow_checkpoint (in Python "
            "allow_checkpoint=True) takes it nevertheless"
        )
    leaves = sorted((jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(arrays))
    total = 0
    for _, leaf in leaves:
        total = google_crc32c.extend(total, np.ascontiguousarray(leaf, "<f4").tobytes())
    return Network(model.clone(dtype=jnp.float32), variables, release, f"{total:08x}", where)


def _release(model: Any, variables: Mapping[str, Any]) -> str | None:
    """Says which published checkpoint the variables are, in a network that computes what the release's does."""
    fields = ("width_multiplier", "stem_padding", "last_block", "temporal_padding", "batch_norm_gain")
    if not isinstance(model, I3D) or any(getattr(model, field) != getattr(I3D(), field) for field in fields):
        return None
    return published.release_of(variables)


def features(
    network: Network,
    protocol: Protocol,
    clips: Iterable[np.ndarray],
    *,
    batch_size: int,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[np.ndarray]:
    """Yields the features of clips, batch by batch; a program is compiled for each size of frames, one for the network.

    Args:
      network: whose logits they are, the mean over time.
      protocol: how frames are prepared.
      clips: uint8 or float32 [T, H, W, 3] in 0..255, T the same throughout; H and W may differ.
      batch_size: clips at a time, at least; the devices divide what is taken.
      devices: which; None for all of this host.

    Yields:
      float32 [B, classes]; B is smaller in the last one.

    Raises:
      UserError: clips are too short for the network, or features are not finite.
    """
    over = _over(tuple(devices or jax.local_devices()))
    batch_size = -(-batch_size // over.count) * over.count
    prepare = over.compile_evaluation_step(_preparation(protocol))
    score = over.compile_evaluation_step(_scores(network.model))
    variables = over.place(network.variables)
    clips = iter(clips)
    done = 0
    while batch := list(itertools.islice(clips, batch_size)):
        # Full, so that there is one program; what is added is cut off again.
        with computed_in("highest"):
            prepared = _prepared(prepare, over, batch + [batch[-1]] * (batch_size - len(batch)))
            logits = np.asarray(score(variables, {"rgb": prepared}))[: len(batch)]
        if not np.isfinite(logits).all():
            bad = done + int(np.isfinite(logits).all(1).argmin())
            raise UserError(f"the features of clip {bad} by {network.where} are not finite: its weights are damaged")
        done += len(batch)
        yield logits


def _prepared(prepare: Any, over: Devices, batch: Sequence[np.ndarray]) -> jax.Array:
    """Resizes clips: at once where they are of one size, else one after the other."""
    of_one_size = len({(clip.shape, clip.dtype) for clip in batch}) == 1
    parts = [np.stack(batch)] if of_one_size else [clip[None] for clip in batch]
    resized = [
        prepare({}, over.shard_batch({"rgb": part, "mask": np.ones(len(part), bool)}))[: len(part)] for part in parts
    ]
    return resized[0] if of_one_size else jnp.concatenate(resized)


@functools.lru_cache(maxsize=4)
def _over(devices: tuple[jax.Device, ...]) -> Devices:
    return Devices(devices=devices)


@functools.lru_cache(maxsize=16)
def _preparation(protocol: Protocol) -> Any:
    def step(variables, batch):
        del variables
        return protocol.prepare(batch["rgb"])

    return step


@functools.lru_cache(maxsize=16)
def _scores(model: Any) -> Any:
    def step(variables, batch):
        _, endpoints = model.apply(variables, {"rgb": batch["rgb"]})
        return endpoints[LAYER]

    return step
