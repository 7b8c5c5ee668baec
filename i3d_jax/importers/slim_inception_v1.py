"""TF-Slim's Inception-v1 (tensorflow/models, research/slim/nets/inception_v1.py), as trained on ImageNet.

Its 1001 classes are ImageNet's 1000 in their usual order, after class 0, the background, which no image shows.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from i3d_jax.importers import tensorflow_checkpoint
from i3d_jax.importers.imported import Imported, read_network
from i3d_jax.importers.naming import Naming

CLASSES_WITH_BACKGROUND = 1001
NAMING = Naming(
    lambda unit: f"InceptionV1/{unit}/",
    {
        "kernel": "weights",
        "batch_norm/bias": "BatchNorm/beta",
        "batch_norm/mean": "BatchNorm/moving_mean",
        "batch_norm/var": "BatchNorm/moving_variance",
        "classifier/kernel": "weights",
        "classifier/bias": "biases",
    },
)


def read(path: Path, *, background: str | None) -> Imported:
    """Reads a checkpoint into an `inception_v1`.

    Args:
      path: as in `tensorflow_checkpoint.read`.
      background: "drop" leaves class 0 out, "keep" keeps it; None drops it where there are 1001 classes.

    Raises:
      UserError: the file cannot be read or is not such a checkpoint.
    """
    weights = tensorflow_checkpoint.read(path)
    imported = read_network(
        weights, "inception_v1", {"stem_padding": "same"}, NAMING, tensorflow_checkpoint.TRAINING_VARIABLES
    )
    if background is None:
        background = "drop" if imported.num_classes == CLASSES_WITH_BACKGROUND else "keep"
    return _without_background(imported) if background == "drop" else imported


def _without_background(imported: Imported) -> Imported:
    """Returns the network without its class 0."""
    params = imported.variables["params"]
    classifier = {name: array[..., 1:] for name, array in params["Logits"]["Conv2d_0c_1x1"].items()}
    params = {**params, "Logits": {"Conv2d_0c_1x1": classifier}}
    return dataclasses.replace(
        imported,
        num_classes=imported.num_classes - 1,
        variables={**imported.variables, "params": params},
        left_out={**imported.left_out, "class 0": "the background, which no image shows"},
    )
