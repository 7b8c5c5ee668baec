"""The training step and the evaluation step: pure functions of arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Float32, Integer, Shaped, UInt8

from i3d_jax.clips import STREAMS
from i3d_jax.evaluation.protocol import LOGITS
from i3d_jax.models.network import Network
from i3d_jax.shapes import AnyArray
from i3d_jax.system.errors import UserError
from i3d_jax.training.metrics import Sums, masked_sum
from i3d_jax.training.precision import HIGHEST, computed_in, of_dtype
from i3d_jax.training.state import TrainState


def scaled(pixels: UInt8[AnyArray, "*axes"]) -> Float32[AnyArray, "*axes"]:
    """Scales stored values of either stream, uint8 0..255, to float32 in [-1, 1]: x / 127.5 - 1.

    For flow that is the displacement over `flow.codec.BOUND` (facts: "Data and preprocessing").
    """
    return pixels.astype(jnp.float32) / 127.5 - 1


@runtime_checkable
class Trainable(Protocol):
    """What a step trains: a network, or what stands in its place (`training.transfer.Classifiers`)."""

    def apply(self, *args: Any, **options: Any) -> Any:
        """Flax's, with `train`, `mutable` and `rngs`: gives ((logits, endpoints), the mutable collections)."""

    def clip_losses(
        self,
        logits: Float[AnyArray, "batch classes"],
        endpoints: Mapping[str, Float[AnyArray, "batch ..."]],
        labels: Integer[AnyArray, " batch"],
        label_smoothing: float = 0.0,
    ) -> Float[Array, " batch"]:
        """The training loss of each clip, as `Network.clip_losses`."""


@functools.lru_cache(maxsize=16)  # the same function for the same arguments, so that a process compiles it once
def training_step(
    model: Trainable,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    accumulation_steps: int = 1,
    label_smoothing: float = 0.0,
    average_decay: float = 0.0,
    replicas: str | None = None,
) -> Callable[[TrainState, Mapping[str, Shaped[AnyArray, "batch ..."]]], tuple[TrainState, Sums]]:
    """Makes the pure function (state, batch) -> (state, metrics).

    The batch holds uint8 "rgb" [B, T, H, W, 3], "flow" [B, T, H, W, 2] or both, int32 "label" [B] and bool "mask" [B]:
    masked clips count neither in the loss nor in the metrics. Dropout's randomness is a function of the seed and the
    state's step alone.

    The metrics are (sum, count): "loss" and "top1" over clips, "gradient_norm" over steps.

    With `accumulation_steps` above 1, which must divide B, the batch is gone through in so many microbatches, one after
    the other, in the memory that one of them takes. The gradient is that of the whole batch where batch normalisation
    uses running statistics or there is none. Else each microbatch is normalised by its own statistics, as on a replica
    of its own, and the running statistics move once a step, by the mean of the microbatches' statistics.

    Args:
      model: its `clip_losses` is the loss.
      optimizer: makes updates of the parameters from the gradient of the mean loss.
      seed: of dropout.
      accumulation_steps: microbatches of a batch, at least 1.
      label_smoothing: as in `models.network.cross_entropy`; "loss" is that loss.
      average_decay: how much of the moving average of parameters and running statistics a step keeps, 0 up to 1,
        where the state has one. Step n (the first is 0) keeps (1 + n) / (10 + n) if that is less, as TensorFlow does
        it: so the initial parameters are soon forgotten.
      replicas: the name of the axis of replicas, each of which takes the step on its own clips with its own running
        statistics and dropout (`partition`'s mode pmap); gradients and metrics are summed over them. None: there are
        none.
    """

    def sums_over(state, batch, key):
        """Returns (the gradient of the sum of the losses, sums and counts) and the running statistics."""

        def total_loss(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            (logits, endpoints), changed = model.apply(
                variables, inputs_of(batch), train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
            losses = model.clip_losses(logits, endpoints, batch["label"], label_smoothing)
            loss = masked_sum(losses, batch["mask"])
            top1 = masked_sum(logits.argmax(-1) == batch["label"], batch["mask"])
            return loss[0], ({"loss": loss, "top1": top1}, changed["batch_stats"])

        gradients, (metrics, batch_stats) = jax.grad(total_loss, has_aux=True)(state.params)
        return (gradients, metrics), batch_stats

    def accumulated(state, batch, key):
        """As `sums_over`, one microbatch after the other."""

        def add(totals, microbatch):
            number, rows = microbatch
            sums, batch_stats = sums_over(state, rows, jax.random.fold_in(key, number))
            # As differences: where the statistics are frozen they come out of it to the last bit.
            moved = jax.tree.map(jnp.subtract, batch_stats, state.batch_stats)
            return jax.tree.map(jnp.add, totals, (sums, moved)), None

        nothing = (jnp.zeros(()), jnp.zeros(()))
        zeros = (
            (jax.tree.map(jnp.zeros_like, state.params), {"loss": nothing, "top1": nothing}),
            jax.tree.map(jnp.zeros_like, state.batch_stats),
        )
        microbatches = _microbatches(batch, accumulation_steps)
        (sums, moved), _ = jax.lax.scan(add, zeros, (jnp.arange(accumulation_steps), microbatches))
        batch_stats = jax.tree.map(lambda old, move: old + move / accumulation_steps, state.batch_stats, moved)
        return sums, batch_stats

    def step(state: TrainState, batch: Mapping[str, Shaped[AnyArray, "batch ..."]]) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        clips = batch["label"].shape[0]
        if replicas is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(replicas))
            clips *= jax.lax.axis_size(replicas)
        over_batch = sums_over if accumulation_steps == 1 else accumulated
        (gradients, metrics), batch_stats = over_batch(state, batch, key)
        if replicas is not None:
            gradients, metrics = jax.lax.psum((gradients, metrics), replicas)
        # Whatever the batch was cut into, its sums are together here, and are divided once.
        count = jnp.maximum(metrics["loss"][1], 1)
        gradients = jax.tree.map(lambda total: total / count, gradients)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        if state.plateau is not None:
            updates = jax.tree.map(lambda update: update * state.rate_scale, updates)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            kept = jnp.minimum(average_decay, (1 + state.step) / (10 + state.step))
            seen = batch_stats if replicas is None else jax.lax.pmean(batch_stats, replicas)
            new = {"params": params, "batch_stats": seen}
            average = jax.tree.map(lambda old, new: old + (1 - kept) * (new - old), average, new)
        state = state.replace(
            step=state.step + 1,
            clips=state.clips + clips,
            params=params,
            batch_stats=batch_stats,
            optimizer_state=optimizer_state,
            average=average,
        )
        return state, {**metrics, "gradient_norm": (optax.global_norm(gradients), jnp.ones(()))}

    return step


def check_options(
    *, batch_size: int, devices: int, accumulation_steps: int, label_smoothing: float, average_decay: float
) -> None:
    """Raises a `UserError` for options of `training_step` out of range, or microbatches not even over the devices."""
    for key, share in (("label_smoothing", label_smoothing), ("optimizer.average_decay", average_decay)):
        if not 0 <= share < 1:
            raise UserError(f"{key} must be at least 0 and below 1, found {share}")
    if accumulation_steps < 1:
        raise UserError(f"accumulation_steps must be at least 1, found {accumulation_steps}")
    unit = accumulation_steps * devices
    if accumulation_steps > 1 and (batch_size < 1 or batch_size % unit):
        works = max(unit, round(batch_size / unit) * unit)
        raise UserError(
            f"batch_size is {batch_size}, which {accumulation_steps} accumulation steps on {devices} "
            f"device{'s' * (devices != 1)} do not divide; the nearest that works is {works}"
        )


def _microbatches(
    batch: Mapping[str, Shaped[AnyArray, "batch ..."]], number: int
) -> dict[str, Shaped[AnyArray, "{number} rows ..."]]:
    """Splits arrays [B, ...] into [number, B / number, ...]; row i of microbatch j is row i * number + j.

    So every device keeps its rows where a batch is split over devices along its first axis.
    """
    return {name: array.reshape(-1, number, *array.shape[1:]).swapaxes(0, 1) for name, array in batch.items()}


@functools.lru_cache(maxsize=16)
def evaluation_step(
    model: Network, *, average: str = LOGITS, precision: str = HIGHEST
) -> Callable[
    [Mapping[str, Any], Mapping[str, Shaped[AnyArray, "batch ..."]]],
    tuple[Float32[Array, "batch classes"], dict[str, Float32[Array, "batch classes"]]],
]:
    """Makes the pure function (variables, batch) -> (logits, stream logits), averages over each video's windows.

    Logits are float32 [B, classes]; the stream logits are those of each stream alone, by stream, for the architectures
    that have them (`Network.stream_logits`), else {}.

    The batch holds uint8 "rgb" [B, windows, T, H, W, 3], "flow" [B, windows, T, H, W, 2] or both; several crops of a
    window stand there as windows of their own. The network sees one window at a time, within one program, so that a
    video's logits do not depend, to the last bit, on the batch that it is in.

    Args:
      model: the network.
      average: "logits" averages these; "probabilities" gives the logarithms of the mean probabilities, whose softmax
        these are.
      precision: "highest" computes a float32 network in float32 on every device, "default" as fast as the device can
        (`training.precision`).
    """

    def window_logits(variables, window):
        inputs = {stream: scaled(pixels)[None] for stream, pixels in window.items()}
        applied: Any = model.apply(variables, inputs)
        logits, endpoints = applied
        return logits, model.stream_logits(endpoints)

    def averaged(logits):
        if average == LOGITS:
            return logits.mean(1)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=1) - math.log(logits.shape[1])

    def step(
        variables: Mapping[str, Any], batch: Mapping[str, Shaped[AnyArray, "batch ..."]]
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float32[Array, "batch classes"]]]:
        clips = {stream: batch[stream] for stream in STREAMS if stream in batch}
        videos, windows = next(iter(clips.values())).shape[:2]
        flat = {stream: pixels.reshape(-1, *pixels.shape[2:]) for stream, pixels in clips.items()}
        with computed_in(of_dtype(precision, model.dtype)):
            of_windows = jax.lax.map(lambda window: window_logits(variables, window), flat)
        return jax.tree.map(lambda logits: averaged(logits.reshape(videos, windows, -1)), of_windows)

    return step


def inputs_of(batch: Mapping[str, Shaped[AnyArray, "batch ..."]]) -> dict[str, Float32[AnyArray, "batch ..."]]:
    """Returns what a batch holds for the network: its streams, scaled; features (`training.transfer`) as they are."""
    return {
        name: scaled(values) if name in STREAMS else values
        for name, values in batch.items()
        if name not in ("label", "mask")
    }
