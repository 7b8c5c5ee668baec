"""Stands in for i3d_jax.main in the tests of launch/: processes that meet, compute together, and stop together.

It reads the same flags and ends by the same ways, in seconds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from i3d_jax.system import cluster
from i3d_jax.system.errors import Stopped, run
from i3d_jax.system.preemption import Termination

# A test that fails leaves nothing behind for long.
MOST_STEPS = 2000


def main(arguments: Sequence[str]) -> None:
    """Joins the others, says what they have together and takes steps until one of them is told to stop."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    cluster.add_flags(parser)
    options, rest = parser.parse_known_args(arguments)
    cluster.join(options)
    # Runs of one step, one after the other, in the way of a study.
    for run_number in range(1, MOST_STEPS):
        with Termination() as termination:
            termination.in_loop()
            numbers = multihost_utils.process_allgather(np.array(jax.process_index() + 1))
            if run_number == 1:
                own = f"process {jax.process_index()} of {jax.process_count()}, pid {os.getpid()}"
                # In one piece, since both write to one place.
                os.write(1, f"{own}, sum {numbers.sum()}, arguments {rest}\n".encode())
            if termination.stops_after():
                raise Stopped(f"stopped by SIGTERM after step {run_number}")
            time.sleep(0.02)


if __name__ == "__main__":
    run(main, leave=cluster.leave)
