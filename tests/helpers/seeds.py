"""Seeds of what a test does at random: another in each run, and any of them again."""

from __future__ import annotations

import os
import random

VARIABLE = "I3D_JAX_TEST_SEED"


def drawn() -> random.Random:
    """Returns random numbers by a seed of the system, or by the one in I3D_JAX_TEST_SEED.

    The seed is printed, and pytest shows what a test that fails has printed. What is drawn comes again with it; the
    moment that a drawn number of seconds hits depends on the machine besides.
    """
    given = os.environ.get(VARIABLE)
    seed = int(given) if given else int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed} ({VARIABLE}={seed} replays it)")
    return random.Random(seed)
