"""One of two processes with two devices each: what tests/test_distributed.py starts.

python two_processes.py OUTPUT --coordinator HOST:PORT --num_processes 2 --process_id I
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import jax
import numpy as np

from helpers.tiny import Tiny, batch, variables
from i3d_jax import checkpoint
from i3d_jax.study import miniature
from i3d_jax.system import cluster, hosts
from i3d_jax.system.errors import UserError, run
from i3d_jax.training import partition
from i3d_jax.training.optimizer import make_optimizer
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import training_step


def five_steps(used: Devices, seed: int = 3) -> list[np.ndarray]:
    """The leaves of the state after five steps, each on the rows that are this process's."""
    sgd, _ = make_optimizer(name="sgd", learning_rates=(0.1,), boundaries=(), momentum=0.9, weight_decay=1e-4)
    model = Tiny(dropout_rate=0.5)
    step = used.compile_training_step(training_step(model, sgd, seed=seed, replicas=used.replicas))
    state = used.replicate(used.place(initial_state(variables(model), sgd)))
    for number in range(5):
        rows = {
            name: np.split(array, jax.process_count())[jax.process_index()] for name, array in batch(number).items()
        }
        state, _ = step(state, used.shard_batch(rows))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(used.whole(used.merge_replicas(state)))]


# Seconds after which `steps_without_end` takes the other process for dead.
SOON = 6

IMAGE_NETWORK = miniature.Size(width_multiplier=0.0625)

WAYS = {"pjit": {}, "split": {"shard_state": True}, "pmap": {"mode": "pmap"}}


def agree_and_step(output: Path) -> None:
    """Writes what this process found to OUTPUT."""
    process = jax.process_index()
    partition._SMALLEST_SPLIT = 100
    for name, way in WAYS.items():
        np.savez(output / f"{name}{process}.npz", *five_steps(Devices(**way)))
    told = {
        "devices": str(Devices()),
        "gathered": hosts.gather({"process": process, "words": "ü" * process}),
        "made": hosts.by_first(lambda: f"by {process}"),
    }
    told["failed"] = [hosts.failure_of_any(reason) for reason in ("1 is full" if process else None, None)]
    hosts.refuse_different({"a": 1, "b": [1, 2]}, what="values")
    try:
        hosts.refuse_different({"a": 1, "b": [process], "c": process}, what="values")
    except UserError as error:
        told["refused"] = str(error)
    miniature.image_network(output / "image_network", IMAGE_NETWORK)
    if hosts.is_first():
        # As for the page of a run, while the others go on.
        told["read"] = list(checkpoint.restore(output / "image_network", ["variables"])["variables"])
    (output / f"{process}.json").write_text(json.dumps(told))


def steps_without_end() -> None:
    """Prints a line after every sum over all devices."""
    devices = Devices()
    total = jax.jit(lambda batch: batch["mask"].sum())
    for number in itertools.count(1):
        assert total(devices.shard_batch({"mask": np.ones(2, bool)})) == 4
        print(f"step {number}", flush=True)
        time.sleep(0.1)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("five_steps", "steps_without_end"))
    parser.add_argument("--output", type=Path)
    cluster.add_flags(parser)
    options = parser.parse_args(arguments)
    if options.task == "steps_without_end":
        hosts.HEARTBEAT_SECONDS = SOON
    cluster.join(options)
    with cluster.explained():
        if options.task == "five_steps":
            agree_and_step(options.output)
        else:
            steps_without_end()


if __name__ == "__main__":
    run(main, leave=cluster.leave)
