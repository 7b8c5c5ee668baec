"""A small training run for tests that kill it: the project's step, loop, checkpoints and metrics on a tiny network.

It imports no TensorFlow and, forked from a process that has imported the rest, starts in a fraction of a second.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from helpers.tiny import Tiny, batch, variables
from i3d_jax import checkpoint
from i3d_jax.run.retention import Checkpoints
from i3d_jax.training.logs import MetricsFile
from i3d_jax.training.loop import Cadence, Callbacks, Step, train
from i3d_jax.training.metrics import masked_sum
from i3d_jax.training.optimizer import make_optimizer, make_plateau
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import inputs_of, training_step

CLIPS = 8
# Batches of an epoch; their order is another in each.
EPOCH = 7


def batches(first_clip: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches from a clip of the run on; the order is a function of the position alone."""
    number = first_clip // CLIPS
    while True:
        epoch, place = divmod(number, EPOCH)
        yield batch(int(np.random.default_rng(epoch).permutation(EPOCH)[place]), CLIPS)
        number += 1


def run(workdir: Path, total_steps: int) -> None:
    """Trains in a workdir up to a step, on one device, from where it stands."""
    jax.config.update("jax_compilation_cache_dir", str(workdir.parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    model = Tiny(dropout_rate=0.5)
    optimizer, schedule = make_optimizer(
        name="sgd", learning_rates=(0.05, 0.02, 0.01), boundaries=(25, 50), momentum=0.9, weight_decay=1e-3
    )
    # With everything that a state may hold: momentum, the average of the parameters, and a schedule that remembers.
    plateau = make_plateau(patience=1, factor=0.5)
    devices = Devices(devices=jax.devices()[:1])
    description = checkpoint.Description(
        model="i3d", options={}, num_classes=3, labels=["a", "b", "c"], preprocessing={}
    )
    checkpoints = Checkpoints(workdir / "checkpoints", description, keep_last=2)
    with checkpoints:
        state = devices.place(initial_state(variables(model), optimizer, average=True, plateau=plateau))
        if checkpoints.steps():
            state = checkpoints.restore(state)
        metrics = MetricsFile(workdir / "metrics.jsonl", after_step=int(state.step))

        def write(number, split, values):
            metrics.write(number, split, values)
            # In one piece: it is killed at any moment.
            os.write(1, f"step {number}\n".encode())

        @jax.jit
        def score(variables):
            held_out = batch(1000)
            logits, endpoints = model.apply(variables, inputs_of(held_out))
            losses = model.clip_losses(logits, endpoints, held_out["label"])
            return masked_sum(losses, held_out["mask"]), jnp.mean(logits.argmax(-1) == held_out["label"])

        def evaluate(state):
            (total, count), top1 = score(state.variables)
            figures = {"loss": float(total / count), "top1": float(top1)}
            assert math.isfinite(figures["loss"])
            write(int(state.step), "test", figures)
            return figures

        step = devices.compile_training_step(training_step(model, optimizer, seed=0, average_decay=0.9))
        train(
            state,
            batches(int(state.clips)),
            step=Step(take=lambda state, batch: step(state, devices.shard_batch(batch))),
            cadence=Cadence(total_steps=total_steps, log_every=1, evaluate_every=10, checkpoint_every=3),
            learning_rate=schedule,
            callbacks=Callbacks(evaluate=evaluate, checkpoints=checkpoints, write=write),
            plateau=plateau,
        )
        checkpoints.wait()


def serve() -> None:
    """Runs what each line of standard input says: a workdir and a last step, as JSON; and tells how it ended.

    Each run is a process of its own, forked from this one, which has imported everything and computed nothing.
    """
    for line in sys.stdin:
        workdir, total_steps = json.loads(line)
        process = os.fork()
        if process == 0:
            code = 1
            try:
                run(Path(workdir), total_steps)
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        print("process", process, flush=True)
        _, status = os.waitpid(process, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    # Else each run looks through all of that again, and copies it, when it collects garbage.
    gc.freeze()
    serve()
