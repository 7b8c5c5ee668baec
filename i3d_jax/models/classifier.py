"""The classifiers of a network by themselves: linear maps of its last features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
from jaxtyping import Array, Float32

from i3d_jax.models.network import Network
from i3d_jax.shapes import AnyArray


def classify(
    model: Network, params: Mapping[str, Any], features: Mapping[str, Float32[AnyArray, "batch n channels"]]
) -> tuple[Float32[Array, "batch classes"], dict[str, Float32[Array, "batch ..."]]]:
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


def layer_at(params: Mapping[str, Any], scope: str) -> dict[str, Float32[AnyArray, "..."]]:
    """Returns the leaves of a linear layer, {"kernel", "bias"}, from the scope that it stands in, such as "RGB/Logits".

    Raises:
      KeyError: there is no such scope.
    """
    for name in scope.split("/"):
        params = params[name]
    return {path[-1]: leaf for path, leaf in flax.traverse_util.flatten_dict(dict(params)).items()}


def _scores(
    layer: Mapping[str, Float32[AnyArray, "..."]], features: Float32[AnyArray, "*axes channels"]
) -> Float32[Array, "*axes classes"]:
    """Maps float32 [..., C] to [..., num_classes]; a kernel of a 1x1 convolution has axes of length 1 before these."""
    return jnp.matmul(features, layer["kernel"].reshape(features.shape[-1], -1)) + layer["bias"]
