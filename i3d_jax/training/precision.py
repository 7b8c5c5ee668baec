"""How exactly matrix products and convolutions of float32 numbers are computed.

GPUs (TF32) and TPUs (bfloat16) round what they multiply unless they are told not to: I3D's logits then differ from
those of a CPU by up to 6e-4, and by 1e-5 where they are told.
"""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from i3d_jax.system.errors import UserError

HIGHEST, DEFAULT = "highest", "default"
PRECISIONS = (HIGHEST, DEFAULT)


def computed_in(precision: str) -> contextlib.AbstractContextManager:
    """What is traced within multiplies float32 numbers as such ("highest"), or as fast as the device can ("default").

    Raises:
      UserError: there is no such precision.
    """
    check_precision(precision)
    return jax.default_matmul_precision(HIGHEST) if precision == HIGHEST else contextlib.nullcontext()


def of_dtype(precision: str, dtype: DTypeLike) -> str:
    """Returns the precision for a network of this dtype: of another than float32 there is nothing to keep."""
    return precision if jnp.dtype(dtype) == jnp.float32 else DEFAULT


def check_precision(precision: str) -> None:
    """Raises a `UserError` for a precision that there is not."""
    if precision not in PRECISIONS:
        raise UserError(f"the precision must be one of {', '.join(PRECISIONS)}, found {precision!r}")
