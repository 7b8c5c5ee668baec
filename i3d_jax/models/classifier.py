"""The classifiers of a network by themselves: linear maps of its last features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax

from i3d_jax.models.network import Network


def classify(
    model: Network, params: Mapping[str, Any], features: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Scores features as the network does at its end: `model.apply` from `model.classifier_inputs` on.

    Args:
      model: the network.
      params: its parameters; only those of its classifiers are used.
      features: what its classifiers see, float32 [B, n, C] by their scope.

    Returns:
      (logits float32 [B, num_classes], the endpoints that `model.clip_losses` and `model.stream_logits` need).
    """
    scores = {scope: _scores(layer_at(params, scope), values) for scope, values in features.items()}
    return model.logits_of(scores)


def layer_at(params: Mapping[str, Any], scope: str) -> dict[str, jax.Array]:
    """Returns the leaves of a linear layer, {"kernel", "bias"}, from the scope that it stands in, such as "RGB/Logits".

    Raises:
      KeyError: there is no such scope.
    """
    for name in scope.split("/"):
        params = params[name]
    return {path[-1]: leaf for path, leaf in flax.traverse_util.flatten_dict(dict(params)).items()}


def _scores(layer: Mapping[str, jax.Array], features: jax.Array) -> jax.Array:
    """Maps float32 [..., C] to [..., num_classes]; a kernel of a 1x1 convolution has axes of length 1 before these."""
    return features @ layer["kernel"].reshape(features.shape[-1], -1) + layer["bias"]
