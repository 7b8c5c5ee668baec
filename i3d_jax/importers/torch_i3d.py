"""I3D in the PyTorch ports, which name it in two ways; read both, write the first.

    Mixed_3b.b1a.conv3d.weight         Mixed_3b.b1a.bn.running_mean             logits.conv3d.bias
    mixed_3b.branch_1.0.conv3d.weight  mixed_3b.branch_1.0.batch3d.running_mean  conv3d_0c_1x1.conv3d.bias

Both pad as the release does and use its epsilon of 1e-3; their batch normalisation has gains.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from i3d_jax.importers import torch_file
from i3d_jax.importers.imported import CLASSIFIERS, Imported, read_network, refuse_other_stream, stream_of
from i3d_jax.importers.naming import TORCH_KERNEL, Naming, scatter, with_gains
from i3d_jax.importers.torch_naming import COUNTERS, torch_leaves, torch_unit

# The branches' units by branch and window, in either port.
_LETTERS = {
    ("Branch_0", "1x1"): "b0",
    ("Branch_1", "1x1"): "b1a",
    ("Branch_1", "3x3"): "b1b",
    ("Branch_2", "1x1"): "b2a",
    ("Branch_2", "3x3"): "b2b",
    ("Branch_3", "1x1"): "b3b",
}
_NUMBERS = {
    ("Branch_0", "1x1"): "branch_0",
    ("Branch_1", "1x1"): "branch_1.0",
    ("Branch_1", "3x3"): "branch_1.1",
    ("Branch_2", "1x1"): "branch_2.0",
    ("Branch_2", "3x3"): "branch_2.1",
    ("Branch_3", "1x1"): "branch_3.1",
}
_ARRANGEMENTS = {"kernel": TORCH_KERNEL, "classifier/kernel": TORCH_KERNEL}
LETTERED = Naming(
    lambda unit: torch_unit(unit, block=str, branches=_LETTERS, classifier="logits"),
    torch_leaves(convolution="conv3d", batch_norm="bn", classifier="conv3d"),
    _ARRANGEMENTS,
)
NUMBERED = Naming(
    lambda unit: torch_unit(unit, block=str.lower, branches=_NUMBERS, classifier="conv3d_0c_1x1"),
    torch_leaves(convolution="conv3d", batch_norm="batch3d", classifier="conv3d"),
    _ARRANGEMENTS,
)
STEM = "Conv3d_1a_7x7"


def read(path: Path, *, stream: str | None) -> Imported:
    """Reads a state dict or safetensors file of either port into an `i3d`.

    Args:
      path: the file.
      stream: "rgb" or "flow" if the caller expects one; the first kernel's channels tell which it is.

    Raises:
      UserError: the file cannot be read, is of neither port, or holds the other stream.
    """
    stems = [names.place(STEM, "kernel").name for names in (LETTERED, NUMBERED)]
    weights = torch_file.read(path, stems=stems)
    numbered = NUMBERED.place(CLASSIFIERS["i3d"], "classifier/bias").name in weights.arrays
    names = NUMBERED if numbered else LETTERED
    found = stream_of(weights, names.place(STEM, "kernel").name, channel_axis=1)
    refuse_other_stream(weights, found, stream)
    return read_network(weights, "i3d", {"stream": found}, names, COUNTERS)


def state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns an i3d's variables as the state dict of the first port: gains of 1 unless it has them, counters of 0.

    The arrays are views where they can be.
    """
    arrays = scatter(with_gains(variables), LETTERED)
    counters = {
        name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
        for name in arrays
        if name.endswith("running_mean")
    }
    return {**arrays, **counters}
