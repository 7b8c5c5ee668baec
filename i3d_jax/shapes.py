"""The arrays that signatures speak of, as in `Float[AnyArray, "batch time height width channels"]`.

Where an axis is named, the word is the field's: batch, windows, time, height, width, channels, classes; "features" are
the channels that a layer makes. One word stands for one size within a signature; "..." and "*axes" are any number of
axes, and a word that begins with an underscore is any size. Names of a single axis begin with a space, so that linters
do not take them for Python's.

What runs pays nothing for it. The tests check every call of the core (`tests/conftest.py`).
"""

from __future__ import annotations

import jax
import numpy as np

# What JAX computes with: inside a compiled program an array of its own, from outside a NumPy one as well.
AnyArray = jax.Array | np.ndarray
