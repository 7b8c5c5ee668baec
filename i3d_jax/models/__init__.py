"""The architectures by name: `create(name, num_classes, **options)`."""

from __future__ import annotations

import dataclasses
import difflib

import flax.linen as nn
import jax.numpy as jnp

from i3d_jax.errors import UserError
from i3d_jax.models.i3d import I3D

_MODELS = {"i3d": I3D}
_DTYPES = ("float32", "bfloat16")


def create(name: str, num_classes: int = 400, **options) -> nn.Module:
    """Makes a model; no parameters yet.

    Args:
      name: the architecture: "i3d".
      num_classes: class scores it gives, at least 1.
      **options: attributes of the architecture's class, such as `dropout_rate`, `width_multiplier` and `dtype`
        ("float32" or "bfloat16").

    Returns:
      A Flax module: `model.init(key, inputs)` gives {"params", "batch_stats"}, `model.apply(variables, inputs)` gives
      (logits float32 [B, num_classes], endpoints).

    Raises:
      UserError: an unknown name or option (the nearest right one is named), or a value out of range.
    """
    if name not in _MODELS:
        raise UserError(f"there is no model {name!r}{nearest(name, _MODELS)}; the models are {', '.join(_MODELS)}")
    model = _MODELS[name]
    known = [field.name for field in dataclasses.fields(model) if field.name not in ("parent", "name", "num_classes")]
    for option in options:
        if option not in known:
            raise UserError(
                f"the model {name!r} has no option {option!r}{nearest(option, known)}; it has {', '.join(known)}"
            )
    if num_classes < 1:
        raise UserError(f"the model needs at least one class, found num_classes {num_classes}")
    if not 0 <= options.get("dropout_rate", 0) < 1:
        raise UserError(f"the dropout rate must be at least 0 and below 1, found {options['dropout_rate']}")
    if not 0 < options.get("width_multiplier", 1) <= 8:
        raise UserError(f"the width multiplier must be above 0 and at most 8, found {options['width_multiplier']}")
    if "dtype" in options:
        dtype = jnp.dtype(options["dtype"]).name if options["dtype"] != "" else ""
        if dtype not in _DTYPES:
            raise UserError(f"the dtype must be one of {', '.join(_DTYPES)}, found {options['dtype']!r}")
        options["dtype"] = jnp.dtype(dtype)
    return model(num_classes=num_classes, **options)


def nearest(word: str, known) -> str:
    """Returns ", did you mean 'X'?" for the known word that looks most like `word`, or nothing where none does."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
