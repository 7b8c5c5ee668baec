"""The architectures by name: `create(name, num_classes, **options)`."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from i3d_jax.clips import STREAMS
from i3d_jax.errors import UserError, did_you_mean
from i3d_jax.models.c3d import C3D
from i3d_jax.models.conv_lstm import ConvLSTM
from i3d_jax.models.fused import Fused
from i3d_jax.models.i3d import I3D, TwoStreamI3D
from i3d_jax.models.inception import LAST_BLOCKS
from i3d_jax.models.inception_v1 import InceptionV1
from i3d_jax.models.layers import SPATIAL_PADDINGS, TEMPORAL_PADDINGS
from i3d_jax.models.network import BATCH_NORMS, BOTH_STREAMS, Network, SnapshotNetwork
from i3d_jax.models.two_stream import TwoStream

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
# What an option that is a word may be.
_CHOICES = {
    "stream": STREAMS,
    "temporal_padding": TEMPORAL_PADDINGS,
    "stem_padding": SPATIAL_PADDINGS,
    "last_block": LAST_BLOCKS,
    "batch_norm": BATCH_NORMS,
}
_DTYPES = ("float32", "bfloat16")


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
      UserError: an unknown name or option (the nearest right one is named), or a value out of range.
    """
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}{did_you_mean(name, MODELS)}; the models are {', '.join(MODELS)}")
    model = MODELS[name]
    known = [field.name for field in dataclasses.fields(model) if field.name not in ("parent", "name", "num_classes")]
    for option in options:
        if option not in known:
            raise UserError(
                f"the model {name!r} has no option {option!r}{did_you_mean(option, known)}; it has {', '.join(known)}"
            )
    if num_classes < 1:
        raise UserError(f"the model needs at least one class, found num_classes {num_classes}")
    if not 0 <= options.get("dropout_rate", 0) < 1:
        raise UserError(f"the dropout rate must be at least 0 and below 1, found {options['dropout_rate']}")
    if not 0 < options.get("width_multiplier", 1) <= 8:
        raise UserError(f"the width multiplier must be above 0 and at most 8, found {options['width_multiplier']}")
    decay = options.get("batch_norm_decay", 0)
    if not 0 <= decay < 1:
        raise UserError(f"the model's batch_norm_decay must be at least 0 and below 1, found {decay}")
    for option in ("frame_size", "statistics_steps"):
        if options.get(option, 1) < 1:
            raise UserError(f"the model's {option} must be at least 1, found {options[option]}")
    all_choices = {**_CHOICES, "stream": (*STREAMS, BOTH_STREAMS)} if issubclass(model, SnapshotNetwork) else _CHOICES
    for option, choices in all_choices.items():
        if option in options and options[option] not in choices:
            raise UserError(f"the model's {option} must be one of {', '.join(choices)}, found {options[option]!r}")
    if "dtype" in options:
        named = [dtype for dtype in _DTYPES if _is_dtype(options["dtype"], dtype)]
        if not named:
            raise UserError(f"the dtype must be one of {', '.join(_DTYPES)}, found {options['dtype']!r}")
        options["dtype"] = jnp.dtype(named[0])
    return model(num_classes=num_classes, **options)


def _is_dtype(value: Any, name: str) -> bool:
    """Says whether a value, such as "bfloat16" or `jnp.bfloat16`, stands for the dtype of that name."""
    try:
        # NumPy takes an empty name and None for its own default.
        return value not in ("", None) and jnp.dtype(value).name == name
    except TypeError:
        return False


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
