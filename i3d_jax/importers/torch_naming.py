"""What the names of PyTorch's Inception networks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# What may be left out of any state dict: rows as `naming.left_out` takes them.
COUNTERS = ((r"\.num_batches_tracked$", "counters of training batches"),)


def torch_unit(
    unit: str, *, block: Callable[[str], str], branches: Mapping[tuple[str, str], str], classifier: str
) -> str:
    """Returns a port's name of one of our units, with the dot that follows.

    Args:
      unit: ours: "Conv3d_1a_7x7", "Mixed_3b/Branch_1/Conv3d_0b_3x3" or "Logits/…".
      block: gives the port's name of the first part.
      branches: the port's name of a unit in a block, by our branch and the window, ("Branch_1", "3x3").
      classifier: the port's name of the classifier.
    """
    first, *rest = unit.split("/")
    if first == "Logits":
        return f"{classifier}."
    if not rest:
        return f"{block(first)}."
    branch, convolution = rest
    return f"{block(first)}.{branches[branch, convolution[-3:]]}."


def torch_leaves(*, convolution: str, batch_norm: str, classifier: str) -> dict[str, str]:
    """Returns the leaves of a `naming.Naming` from what a port calls a unit's two modules.

    `classifier` is the module within the classifier, empty where it is one itself.
    """
    within = f"{classifier}." if classifier else ""
    return {
        "kernel": f"{convolution}.weight",
        "batch_norm/gain": f"{batch_norm}.weight",
        "batch_norm/bias": f"{batch_norm}.bias",
        "batch_norm/mean": f"{batch_norm}.running_mean",
        "batch_norm/var": f"{batch_norm}.running_var",
        "classifier/kernel": f"{within}weight",
        "classifier/bias": f"{within}bias",
    }
