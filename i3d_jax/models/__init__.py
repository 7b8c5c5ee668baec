"""The architectures by name: `create(name, num_classes, **options)`."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from i3d_jax.models.c3d import C3D
from i3d_jax.models.conv_lstm import ConvLSTM
from i3d_jax.models.fused import Fused
from i3d_jax.models.i3d import I3D, TwoStreamI3D
from i3d_jax.models.inception_v1 import InceptionV1
from i3d_jax.models.network import Network
from i3d_jax.models.two_stream import TwoStream
from i3d_jax.system.errors import UserError, did_you_mean

# As the paper's figure 2 orders them, behind the network of images that they begin with.
MODELS: dict[str, type[Network]] = {
    "inception_v1": InceptionV1,
    "conv_lstm": ConvLSTM,
    "c3d": C3D,
    "two_stream": TwoStream,
    "fused": Fused,
    "i3d": I3D,
    "two_stream_i3d": TwoStreamI3D,
}
# What an option may be whose class says so; options come from files, too.
_KINDS = {"bool": bool, "int": int, "float": int | float, "str": str}


def create(name: str, num_classes: int = 400, **options) -> Network:
    """Makes a model; no parameters yet.

    Args:
      name: the architecture: "inception_v1" (images), "conv_lstm", "c3d", "two_stream", "fused", "i3d" or
        "two_stream_i3d".
      num_classes: class scores it gives, at least 1.
      **options: attributes of the architecture's class, such as `dropout_rate`, `width_multiplier` and `dtype`
        ("float32" or "bfloat16").

    Returns:
      A Flax module: `model.init(key, inputs)` gives {"params", "batch_stats"}, `model.apply(variables, inputs)` gives
      (logits float32 [B, num_classes], endpoints).

    Raises:
      UserError: an unknown name or option (the nearest right one is named), or a value of another kind or out of range.
    """
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}{did_you_mean(name, MODELS)}; the models are {', '.join(MODELS)}")
    model = MODELS[name]
    fields = {field.name: field for field in dataclasses.fields(model)}
    known = [option for option in fields if option not in ("parent", "name", "num_classes")]
    for option, value in options.items():
        if option not in known:
            raise UserError(
                f"the model {name!r} has no option {option!r}{did_you_mean(option, known)}; it has {', '.join(known)}"
            )
        kind = _KINDS.get(str(fields[option].type))
        if kind is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise UserError(
                f"the model's {option} was expected to be of the kind {fields[option].type}, found {value!r:.60}"
            )
    return model(num_classes=num_classes, **options)


def template(model: Network) -> dict[str, Any]:
    """The shapes of a model's variables {"params", "batch_stats"}, which depend on no particular number of frames."""
    # Dictionaries of the caller's own.
    return jax.tree.map(lambda shape: shape, _template(model))


@functools.lru_cache(maxsize=64)
def _template(model: Network) -> dict[str, Any]:
    inputs = {
        stream: jax.ShapeDtypeStruct((1, *shape), jnp.float32) for stream, shape in model.example_shapes().items()
    }
    return jax.eval_shape(model.init, jax.random.key(0), inputs)
