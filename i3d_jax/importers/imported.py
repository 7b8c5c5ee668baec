"""A network that was read from a foreign file: its variables, what was read and left out, how its pixels are made."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from i3d_jax import checkpoint, models
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.flow import codec
from i3d_jax.importers import naming
from i3d_jax.importers.naming import Naming
from i3d_jax.importers.weights import Weights
from i3d_jax.system.errors import UserError

# The evaluation that the paper reports: one window of ten seconds.
EVALUATION = {"crop": 224, "frames": 250, "windows": 1}
CLASSIFIERS = {"i3d": "Logits/Conv3d_0c_1x1", "inception_v1": "Logits/Conv2d_0c_1x1"}
_STREAMS = {3: "rgb", 2: "flow"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """A network of ours with the weights of a foreign file.

    Attributes:
      weights: the file.
      model: the architecture, as `models.create` takes it.
      options: its options, JSON values.
      num_classes: class scores it gives.
      variables: {"params", "batch_stats"} with the model's names and shapes, NumPy float32.
      left_out: {name in the file: why it was not read}.
    """

    weights: Weights
    model: str
    options: Mapping[str, Any]
    num_classes: int
    variables: Mapping[str, Any]
    left_out: Mapping[str, str]

    def report(self, *, file_format: str) -> list[str]:
        """Returns lines for the user: what was read, and what was left out and why."""
        read = len(self.weights.arrays.keys() - self.left_out.keys())
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))
        size = f"{read} variables, {parameters:,} parameters, {self.num_classes} classes"
        lines = [f"read {self.weights.source} as {file_format}: {size}"]
        for reason, count in Counter(self.left_out.values()).items():
            example = next(name for name, why in self.left_out.items() if why == reason)
            lines.append(f"left out {count}, {reason}: {example}" + (" and so on" if count > 1 else ""))
        return lines

    def description(self, labels: Sequence[str], provenance: Mapping[str, Any]) -> checkpoint.Description:
        """Returns what `model.json` says of it, with the preprocessing of the published networks."""
        if self.model == "inception_v1":
            preprocessing = {"interpolation": "bilinear", "crop": EVALUATION["crop"]}
        else:
            flow = {"algorithm": "tvl1", "bound": codec.BOUND} if self.options["stream"] == "flow" else None
            preprocessing = {**Preprocessing(flow=flow).to_json(), **EVALUATION}
        return checkpoint.Description(
            model=self.model,
            options=self.options,
            num_classes=self.num_classes,
            labels=labels,
            preprocessing=preprocessing,
            provenance=provenance,
        )


def read_network(
    weights: Weights, model: str, options: Mapping[str, Any], names: Naming, reasons: Sequence[tuple[str, str]]
) -> Imported:
    """Reads one of our networks from the arrays of a file.

    It has gains of batch normalisation where the file has others than 1: what else computes the same in evaluation
    (gains in the kernels, in the next kernels) has another gradient, or other endpoints.

    Args:
      weights: the file.
      model, options: the network; its number of classes is the file's.
      names: how the file calls its arrays.
      reasons: what may be left out, as in `naming.left_out`.

    Raises:
      UserError: the file lacks something, or holds something that is neither needed nor explained, or an array has
        another shape than the network's.
    """
    num_classes = naming.classes(weights, names, CLASSIFIERS[model])
    has_gains = "batch_norm/gain" in names.leaves
    template = models.template(models.create(model, num_classes, **options, batch_norm_gain=has_gains))
    found = naming.gather(weights, template, names)
    read = [place.name for place in naming.places(template, names).values()]
    if all((gain == 1).all() for gain in naming.gains(found)):
        # As where a network of the release was written for PyTorch.
        found = naming.without_gains(found)
    else:
        options = {**options, "batch_norm_gain": True}
    return Imported(
        weights=weights,
        model=model,
        options=options,
        num_classes=num_classes,
        variables=found,
        left_out={**naming.left_out(weights, read, reasons), **weights.beside},
    )


def stream_of(weights: Weights, stem: str, channel_axis: int) -> str:
    """Tells the stream of an I3D by the input channels of its first kernel: 3 is rgb, 2 is flow.

    Args:
      weights: the file.
      stem: the name of its first kernel.
      channel_axis: the axis of the input channels.

    Raises:
      UserError: there is no such kernel, or it has another shape.
    """
    if stem not in weights.arrays:
        raise naming.refusal(weights, stem)
    shape = weights.arrays[stem].shape
    if len(shape) != 5 or shape[channel_axis] not in _STREAMS:
        raise UserError(
            f"{weights.source}: {stem} is {list(shape)}, expected five axes with 3 (rgb) or 2 (flow) input channels"
        )
    return _STREAMS[shape[channel_axis]]


def refuse_other_stream(weights: Weights, found: str, asked: str | None) -> None:
    """Raises a `UserError` if a stream was asked for that is not the file's."""
    if asked not in (None, found):
        raise UserError(f"{weights.source} holds the {found} stream, --stream {asked} was asked for")
