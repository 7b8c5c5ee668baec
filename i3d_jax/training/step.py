"""The training step and the evaluation step: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from i3d_jax.clips import STREAMS
from i3d_jax.models.network import Network
from i3d_jax.training.metrics import Sums, masked_sum
from i3d_jax.training.state import TrainState


def scaled(pixels: jax.Array) -> jax.Array:
    """Scales stored values of either stream, uint8 0..255, to float32 in [-1, 1]: x / 127.5 - 1.

    For flow that is the displacement over `flow.codec.BOUND` (facts: "Data and preprocessing").
    """
    return pixels.astype(jnp.float32) / 127.5 - 1


def training_step(
    model: nn.Module, optimizer: optax.GradientTransformation, *, seed: int
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Sums]]:
    """Makes the pure function (state, batch) -> (state, metrics).

    The batch holds uint8 "rgb" [B, T, H, W, 3], "flow" [B, T, H, W, 2] or both, int32 "label" [B] and bool "mask" [B]:
    masked clips count neither in the loss nor in the metrics. Dropout's randomness is a function of the seed and the
    state's step alone.

    The metrics are (sum, count): "loss" and "top1" over clips, "gradient_norm" over steps.
    """

    def step(state, batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def mean_loss(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            (logits, endpoints), changed = model.apply(
                variables, inputs_of(batch), train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
            total, count = masked_sum(model.clip_losses(logits, endpoints, batch["label"]), batch["mask"])
            return total / jnp.maximum(count, 1), (changed["batch_stats"], logits, (total, count))

        gradients, (batch_stats, logits, loss) = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        metrics = {
            "loss": loss,
            "top1": masked_sum(logits.argmax(-1) == batch["label"], batch["mask"]),
            "gradient_norm": (optax.global_norm(gradients), jnp.ones(())),
        }
        state = TrainState(
            step=state.step + 1,
            clips=state.clips + batch["label"].shape[0],
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            optimizer_state=optimizer_state,
        )
        return state, metrics

    return step


def evaluation_step(
    model: Network,
) -> Callable[[dict, Mapping[str, jax.Array]], tuple[jax.Array, dict[str, jax.Array]]]:
    """Makes the pure function (variables, batch) -> (logits, stream logits), means over each video's windows.

    Logits are float32 [B, classes]; the stream logits are those of each stream alone, by stream, for the architectures
    that have them (`Network.stream_logits`), else {}.

    The batch holds uint8 "rgb" [B, windows, T, H, W, 3], "flow" [B, windows, T, H, W, 2] or both. The
    network sees one window at a time, so that a video's logits do not depend, to the last bit, on the batch that it is
    in.
    """

    def window_logits(variables, window):
        inputs = {stream: scaled(pixels)[None] for stream, pixels in window.items()}
        logits, endpoints = model.apply(variables, inputs)
        return logits, model.stream_logits(endpoints)

    def step(variables, batch):
        clips = {stream: batch[stream] for stream in STREAMS if stream in batch}
        videos, windows = next(iter(clips.values())).shape[:2]
        flat = {stream: pixels.reshape(-1, *pixels.shape[2:]) for stream, pixels in clips.items()}
        of_windows = jax.lax.map(lambda window: window_logits(variables, window), flat)
        return jax.tree.map(lambda logits: logits.reshape(videos, windows, -1).mean(1), of_windows)

    return step


def inputs_of(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns a batch's streams, scaled to what the network takes."""
    return {stream: scaled(batch[stream]) for stream in STREAMS if stream in batch}
