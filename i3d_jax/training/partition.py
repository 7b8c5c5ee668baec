"""Devices: the only place that knows there are several, of this machine or of several machines.

The batch is split over all devices along its first axis. There are two ways to compute with it:

- "pjit": one program over global arrays (`jax.jit` over a mesh). XLA puts in the sums over devices, so the statistics
  of batch normalisation are those of the global batch, and the number of devices changes nothing but the order in which
  numbers are added. Parameters and optimizer state are whole on each device or, with `shard_state`, split over them.
- "pmap": replicas, one a device, each with the batch statistics of its own clips, as the release trained (facts:
  "Shared by the five architectures"). Gradients and metrics are summed over the replicas. It is what `jax.pmap`
  computes, written as `jax.shard_map` over the same mesh, so that arrays stay global, and checkpoints and several hosts
  work alike.

Outside the training loop a state has one set of running statistics, and so has a checkpoint. Inside, under "pmap", its
`batch_stats` have a leading axis of replicas: `replicate` makes it, `merge_replicas` takes the mean over it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from i3d_jax.system.errors import UserError, did_you_mean
from i3d_jax.training.compiler_options import jitted
from i3d_jax.training.state import TrainState

MODES = ("pjit", "pmap")

_AXIS = "batch"
_WHOLE, _SPLIT = PartitionSpec(), PartitionSpec(_AXIS)
# Leaves of fewer numbers stay whole under `shard_state`: to gather them takes longer than what they save is worth.
_SMALLEST_SPLIT = 4096


class Devices:
    """The devices that a run computes on, and how.

    Attributes:
      mode: "pjit" or "pmap".
      shard_state: whether parameters and optimizer state are split over the devices.
      mesh: the devices along one axis.
      replicas: the name of the axis of replicas, for `step.training_step`; None under "pjit".
    """

    def __init__(self, *, mode: str = "pjit", shard_state: bool = False, devices: Sequence[jax.Device] | None = None):
        """Lines devices up along one axis.

        Args:
          mode: "pjit" or "pmap".
          shard_state: under "pjit", whether every leaf of the state that is not small is split over the devices along
            the longest of its axes that they divide, in place of being whole on each.
          devices: all there are on all hosts, if None.

        Raises:
          UserError: there is no such mode, or `shard_state` is asked of "pmap".
        """
        if mode not in MODES:
            raise UserError(f"parallel.mode must be 'pjit' or 'pmap', found {mode!r}{did_you_mean(mode, MODES)}")
        if shard_state and mode == "pmap":
            raise UserError("parallel.shard_state splits the state of parallel.mode 'pjit', found 'pmap'")
        self.mode = mode
        self.shard_state = shard_state
        self.mesh = Mesh(np.array(jax.devices() if devices is None else devices), (_AXIS,))
        self.replicas = _AXIS if mode == "pmap" else None
        self._repeated = jax.jit(self._repeat, out_shardings=self._named(_SPLIT))
        self._mean = jax.jit(_mean, out_shardings=self._named(_WHOLE))
        self._whole = jax.jit(lambda tree: tree, out_shardings=self._named(_WHOLE))
        self._programs: dict[Callable, jax.stages.Wrapped] = {}

    def __str__(self) -> str:
        hosts = len({device.process_index for device in self.mesh.devices.flat})
        words = f"{self.count} {self.mesh.devices.flat[0].platform} device{'s' * (self.count != 1)}"
        return words + (f" of {hosts} hosts" if hosts > 1 else "")

    @property
    def count(self) -> int:
        """How many devices there are, on all hosts together."""
        return self.mesh.size

    def check_batch_size(self, batch_size: int, *, key: str) -> None:
        """Raises a `UserError` naming the config's `key` if the devices do not divide the global batch."""
        if batch_size < 1:
            raise UserError(f"{key} must be at least {self.count}, the number of devices, found {batch_size}")
        if batch_size % self.count:
            works = max(self.count, round(batch_size / self.count) * self.count)
            raise UserError(
                f"{key} is {batch_size}, which {self.count} devices do not divide; the nearest that works is {works}"
            )

    def place(self, tree: Any) -> Any:
        """Puts a pytree of arrays, the same on every host, onto the devices: whole on each, or as `shard_state` says.

        The arrays are new ones, whose memory a step may use again.
        """

        def put(leaf):
            # Unlike device_put, without asking the other hosts whether they have the same.
            array = np.asarray(leaf)
            return jax.make_array_from_callback(array.shape, self._sharding(array), lambda index: array[index])

        return jax.tree.map(put, tree)

    def whole(self, tree: Any) -> Any:
        """Makes a pytree of global arrays whole on every device."""
        return self._whole(tree) if self.shard_state else tree

    def replicate(self, state: TrainState) -> TrainState:
        """Returns a whole state as the compiled training step takes it: with running statistics for every replica."""
        if self.mode == "pjit":
            return state
        return state.replace(batch_stats=self._repeated(state.batch_stats))

    def merge_replicas(self, state: TrainState) -> TrainState:
        """Returns a state of replicas as a whole one, whose running statistics are the mean of theirs.

        `replicate(merge_replicas(state))` is the synchronised state: every replica has the mean. A run that does both
        before each checkpoint is the run that is resumed from it.
        """
        if self.mode == "pjit":
            return state
        return state.replace(batch_stats=self._mean(state.batch_stats))

    def shard_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Splits a host's rows of a batch over its devices; the result is the global batch.

        Rows that are missing for an even split are added: zeros, with a mask of False. Arrays of text stay behind.
        """
        padding = -len(batch["mask"]) % len(self.mesh.local_devices)
        arrays = {name: array for name, array in batch.items() if array.dtype.kind in "biuf"}
        if padding:
            arrays = {
                name: np.concatenate([array, np.zeros((padding, *array.shape[1:]), array.dtype)])
                for name, array in arrays.items()
            }
        sharding = self._named(_SPLIT)
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in arrays.items()}

    def local_rows(self, array: jax.Array) -> np.ndarray:
        """Returns this host's rows of an array [B, ...] that is split as a batch is, in their order."""
        pieces = sorted(array.addressable_shards, key=lambda piece: piece.index[0].start or 0)
        return np.concatenate([np.asarray(piece.data) for piece in pieces])

    def compile_training_step(self, step: Callable) -> jax.stages.Wrapped:
        """Compiles (state, batch) -> (state, metrics); asked for the same step again, it gives the same function.

        Args:
          step: of `step.training_step`, made with these `replicas`.

        Returns:
          A function of a state as `replicate` gives it, whose memory is used again, and a batch as `shard_batch` does.
        """
        if step not in self._programs:
            self._programs[step] = self._compile_training_step(step)
        return self._programs[step]

    def _compile_training_step(self, step: Callable) -> jax.stages.Wrapped:
        if self.mode == "pmap":
            return self._compile_replicas(step)
        if not self.shard_state:
            whole = self._named(_WHOLE)
            return jax.jit(step, in_shardings=(whole, self._named(_SPLIT)), out_shardings=whole, donate_argnums=0)

        def split_step(state, batch):
            # Every clip needs all parameters. What follows the gradient is done by each device for its part.
            params = jax.lax.with_sharding_constraint(state.params, self._named(_WHOLE))
            state, metrics = step(state.replace(params=params), batch)
            shardings = jax.tree.map(self._sharding, state)
            return jax.lax.with_sharding_constraint(state, shardings), metrics

        return jax.jit(split_step, donate_argnums=0)

    def compile_evaluation_step(self, step: Callable) -> Callable:
        """Compiles (variables, batch) -> arrays [B, ...]; each device goes through its own rows, without the others.

        Asked for the same step again, also of the same devices in another run, it gives the same function.
        """
        return _evaluation_program(step, self.mesh)

    def _compile_replicas(self, step: Callable) -> jax.stages.Wrapped:
        def replica(state, batch):
            state = state.replace(batch_stats=jax.tree.map(lambda own: own[0], state.batch_stats))
            state, metrics = step(state, batch)
            return state.replace(batch_stats=jax.tree.map(lambda own: own[None], state.batch_stats)), metrics

        def replicated(state, batch):
            specs = jax.tree.map(lambda _: _WHOLE, state)
            specs = specs.replace(batch_stats=jax.tree.map(lambda _: _SPLIT, state.batch_stats))
            # Unchecked, JAX leaves gradients as each replica computes them; the step sums them itself.
            replicas = jax.shard_map(
                replica, mesh=self.mesh, in_specs=(specs, _SPLIT), out_specs=(specs, _WHOLE), check_vma=False
            )
            return replicas(state, batch)

        return jax.jit(replicated, donate_argnums=0)

    def _repeat(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.count, *leaf.shape)), tree)

    def _sharding(self, leaf) -> NamedSharding:
        """Says how a leaf of the state, an array or its shape, lies on the devices."""
        axes = [axis for axis, size in enumerate(leaf.shape) if size % self.count == 0]
        if not self.shard_state or leaf.size < _SMALLEST_SPLIT or not axes:
            return self._named(_WHOLE)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return self._named(PartitionSpec(*[None] * longest, _AXIS))

    def _named(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)


@functools.lru_cache(maxsize=16)
def _evaluation_program(step: Callable, mesh: Mesh) -> Callable:
    """Compiled once in a process, however many runs of a study score the same network."""
    return jitted(jax.shard_map(step, mesh=mesh, in_specs=(_WHOLE, _SPLIT), out_specs=_SPLIT, check_vma=False))


def _mean(tree: Any) -> Any:
    # By the differences from the first: where all are equal, as frozen ones are, their mean is that to the last bit.
    return jax.tree.map(lambda leaf: leaf[0] + (leaf - leaf[0]).mean(0), tree)
