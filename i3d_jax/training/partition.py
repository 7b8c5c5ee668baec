"""Devices: the only place that knows there are several.

The batch is split over all devices along its first axis; parameters are whole on each. XLA puts in the sums over
devices, so the statistics of batch normalisation are those of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from i3d_jax.errors import UserError

_AXIS = "batch"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lines the devices (all there are, if None) up along one axis."""
    return Mesh(np.array(jax.devices() if devices is None else devices), (_AXIS,))


def check_batch_size(batch_size: int, mesh: Mesh, *, key: str) -> None:
    """Raises a `UserError` naming the config's `key` if the devices do not divide the global batch."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        works = max(devices, round(batch_size / devices) * devices)
        raise UserError(
            f"{key} is {batch_size}, which {devices} devices do not divide; the nearest that works is {works}"
        )


def replicate(tree, mesh: Mesh):
    """Puts a pytree whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits a host's rows of a batch over its devices; the result is the global batch.

    Rows that are missing for an even split are added: zeros, with a mask of False. Arrays of text stay behind.
    """
    sharding = NamedSharding(mesh, PartitionSpec(_AXIS))
    local_devices = len(mesh.local_devices)
    rows = len(batch["mask"])
    padding = -rows % local_devices
    arrays = {name: array for name, array in batch.items() if array.dtype.kind in "biuf"}
    if padding:
        arrays = {
            name: np.concatenate([array, np.zeros((padding, *array.shape[1:]), array.dtype)])
            for name, array in arrays.items()
        }
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in arrays.items()}


def compile_training_step(step: Callable, mesh: Mesh) -> Callable:
    """Compiles (state, batch) -> (state, metrics): a whole state, whose memory is used again, and a split batch."""
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(_AXIS))
    return jax.jit(step, in_shardings=(replicated, split), out_shardings=replicated, donate_argnums=0)


def compile_evaluation_step(step: Callable, mesh: Mesh) -> Callable:
    """Compiles (variables, batch) -> arrays [B, ...]; each device goes through its own rows, without the others."""
    everywhere, split = PartitionSpec(), PartitionSpec(_AXIS)
    return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(everywhere, split), out_specs=split, check_vma=False))
