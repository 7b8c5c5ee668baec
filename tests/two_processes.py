"""One of two processes with two devices each: what tests/test_distributed.py starts.

python two_processes.py OUTPUT --coordinator HOST:PORT --num_processes 2 --process_id I
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np
from tiny import Tiny, batch, variables

from i3d_jax.errors import UserError
from i3d_jax.training import distributed, partition
from i3d_jax.training.optimizer import make_optimizer
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import training_step


def five_steps(used: Devices, seed: int = 3) -> list[np.ndarray]:
    """The leaves of the state after five steps, each on the rows that are this process's."""
    sgd, _ = make_optimizer(name="sgd", learning_rates=(0.1,), boundaries=(), momentum=0.9, weight_decay=1e-4)
    model = Tiny(dropout_rate=0.5)
    step = used.compile_training_step(training_step(model, sgd, seed=seed, replicas=used.replicas))
    state = used.spread(used.place(initial_state(variables(model), sgd)))
    for number in range(5):
        rows = {
            name: np.split(array, jax.process_count())[jax.process_index()] for name, array in batch(number).items()
        }
        state, _ = step(state, used.shard_batch(rows))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(used.whole(used.collect(state)))]


WAYS = {"pjit": {}, "split": {"shard_state": True}, "pmap": {"mode": "pmap"}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    distributed.add_flags(parser)
    options = parser.parse_args()
    distributed.join(options)
    process = jax.process_index()
    partition._SMALLEST_SPLIT = 100
    for name, way in WAYS.items():
        leaves = five_steps(Devices(**way))
        np.savez(options.output / f"{name}{process}.npz", *leaves)
    told = {
        "devices": str(Devices()),
        "gathered": distributed.gather({"process": process, "words": "ü" * process}),
        "made": distributed.by_first(lambda: f"by {process}"),
    }
    distributed.refuse_different({"a": 1, "b": [1, 2]}, what="values")
    try:
        distributed.refuse_different({"a": 1, "b": [process], "c": process}, what="values")
    except UserError as error:
        told["refused"] = str(error)
    (options.output / f"{process}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    sys.exit(main())
