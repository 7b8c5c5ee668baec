"""Tables of names: which array of a foreign file is which variable of ours, and how its axes are arranged.

Every network here is convolution units (a kernel and batch normalisation) and a classifier (a kernel and a bias), so a
format is told by how it calls a unit and how it calls a unit's arrays.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np

from i3d_jax.importers.weights import Weights
from i3d_jax.system.errors import UserError

MOST_NAMED = 4
_GAIN, _OFFSET = ("batch_norm", "gain"), ("batch_norm", "bias")


class Arrangement(NamedTuple):
    """Two functions of an array's axes that undo one another: from theirs to ours, and from ours to theirs."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


AS_OURS = Arrangement(lambda array: array, lambda array: array)
# PyTorch: [features, C, (t,) h, w]; ours: [(t,) h, w, C, features].
TORCH_KERNEL = Arrangement(
    lambda array: np.moveaxis(array, (0, 1), (-1, -2)), lambda array: np.moveaxis(array, (-1, -2), (0, 1))
)
# A fully connected layer, [features, C], is a convolution of one pixel, [1, 1, C, features].
TORCH_DENSE = Arrangement(lambda array: array.T[None, None], lambda array: array[0, 0].T)
# Vectors of batch normalisation that broadcast over a clip: [1, 1, 1, 1, C].
BROADCAST_VECTOR = Arrangement(lambda array: array.reshape(-1), lambda array: array.reshape(1, 1, 1, 1, -1))


class Place(NamedTuple):
    """Where a variable of ours stands in a foreign file."""

    name: str
    arrangement: Arrangement


@dataclasses.dataclass(frozen=True)
class Naming:
    """How a format calls the arrays of a network.

    Attributes:
      unit: gives the format's name of one of our units ("Mixed_3b/Branch_0/Conv3d_0a_1x1") or of our classifier
        ("Logits/Conv3d_0c_1x1"), with the separator that follows it.
      leaves: what follows for "kernel", "batch_norm/bias", "batch_norm/mean", "batch_norm/var", "classifier/kernel"
        and "classifier/bias"; for "batch_norm/gain" too where the format has gains.
      arrangements: of the leaves whose axes are not as ours.
    """

    unit: Callable[[str], str]
    leaves: Mapping[str, str]
    arrangements: Mapping[str, Arrangement] = dataclasses.field(default_factory=dict)

    def place(self, unit: str, leaf: str) -> Place:
        """Returns where a leaf of one of our units stands."""
        return Place(self.unit(unit) + self.leaves[leaf], self.arrangements.get(leaf, AS_OURS))


def gains(variables: Mapping[str, Any]) -> list[np.ndarray]:
    """Returns the gains of batch normalisation among a network's variables."""
    flat = flax.traverse_util.flatten_dict(dict(variables))
    return [array for path, array in flat.items() if path[-2:] == _GAIN]


def without_gains(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns variables that compute the same where all gains are 1."""
    flat = flax.traverse_util.flatten_dict(dict(variables))
    return flax.traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if path[-2:] != _GAIN})


def with_gains(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns variables with a gain beside every offset of batch normalisation, 1 where there was none."""
    flat = flax.traverse_util.flatten_dict(dict(variables))
    ones = {path[:-2] + _GAIN: np.ones_like(leaf) for path, leaf in flat.items() if path[-2:] == _OFFSET}
    return flax.traverse_util.unflatten_dict({**ones, **flat})


def some(names: Sequence[str]) -> str:
    """Returns the first few names as a list to be read, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def places(template: Mapping[str, Any], naming: Naming) -> dict[str, Place]:
    """Returns the table {our path: its place} of a template's variables."""
    paths = flax.traverse_util.flatten_dict(dict(template), sep="/")
    return {path: naming.place(*_unit_and_leaf(path)) for path in paths}


def _unit_and_leaf(path: str) -> tuple[str, str]:
    """Splits "params/Conv3d_1a_7x7/conv_3d/kernel" into "Conv3d_1a_7x7" and "kernel"."""
    _, *unit, layer, leaf = path.split("/")
    if layer in ("conv_2d", "conv_3d"):
        return "/".join(unit), leaf
    if layer == "batch_norm":
        return "/".join(unit), f"batch_norm/{leaf}"
    return "/".join([*unit, layer]), f"classifier/{leaf}"


def classes(weights: Weights, naming: Naming, classifier: str) -> int:
    """Returns how many classes the classifier of a file has.

    Raises:
      UserError: the file has no such classifier.
    """
    name = naming.place(classifier, "classifier/bias").name
    if name not in weights.arrays:
        raise refusal(weights, name)
    return weights.arrays[name].size


def refusal(weights: Weights, name: str) -> UserError:
    """Returns the error that a file is not of a format which has an array of this name."""
    held = some(sorted(weights.arrays)) or "nothing"
    return UserError(f"{weights.source} is not of the expected format: it has no {name}, but {held}")


def gather(weights: Weights, template: Mapping[str, Any], naming: Naming) -> dict[str, Any]:
    """Picks and arranges the variables of a template; what else the file holds is not looked at.

    Raises:
      UserError: arrays that the file lacks, those of another shape, with both shapes, and those that hold numbers which
        no network has: whole ones, infinite ones, none at all, variances below 0.
    """
    shapes = flax.traverse_util.flatten_dict(dict(template), sep="/")
    table = places(template, naming)
    problems, found = [], {}
    if missing := [place.name for place in table.values() if place.name not in weights.arrays]:
        problems.append(f"it lacks {some(missing)}")
    for path, (name, arrangement) in table.items():
        if name in weights.arrays:
            # A view of one number: only its shape matters.
            expected = arrangement.to_theirs(np.broadcast_to(np.float32(0), shapes[path].shape)).shape
            if weights.arrays[name].shape != expected:
                problems.append(f"{name} is {list(weights.arrays[name].shape)}, expected {list(expected)}")
            elif wrong := _wrong_values(path, weights.arrays[name]):
                problems.append(f"{name} holds {wrong}")
            else:
                found[path] = arrangement.to_ours(weights.arrays[name])
    if problems:
        raise UserError(f"{weights.source} does not hold the expected network: {'; '.join(problems[:MOST_NAMED])}")
    return flax.traverse_util.unflatten_dict(found, sep="/")


def _wrong_values(path: str, array: np.ndarray) -> str | None:
    if array.dtype.kind != "f":
        return f"{array.dtype} numbers, expected floating-point ones"
    if not np.isfinite(array).all():
        return "numbers that are not finite"
    return "variances below 0" if path.endswith("/var") and array.min() < 0 else None


def left_out(weights: Weights, read: Sequence[str], reasons: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Returns {name: reason} of all that was not read.

    Args:
      weights: the file.
      read: the names that were read.
      reasons: rows (regular expression of names, why these are not needed).

    Raises:
      UserError: an array that was not read and that no row explains.
    """
    explained, unexplained = {}, []
    for name in sorted(set(weights.arrays) - set(read)):
        reason = next((reason for pattern, reason in reasons if re.search(pattern, name)), None)
        if reason is None:
            unexplained.append(name)
        else:
            explained[name] = reason
    if unexplained:
        raise UserError(f"{weights.source} holds arrays that the network has no place for: {some(unexplained)}")
    return explained


def scatter(variables: Mapping[str, Any], naming: Naming) -> dict[str, np.ndarray]:
    """Returns {their name: array} of our variables, arranged as theirs: what `gather` undoes."""
    flat = flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, dict(variables)), sep="/")
    table = places(variables, naming)
    return {table[path].name: table[path].arrangement.to_theirs(array) for path, array in flat.items()}
