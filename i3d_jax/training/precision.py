"""In which precision networks compute, where a device offers several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from i3d_jax.system.errors import UserError, did_you_mean

PRECISIONS = ("highest", "default")


@contextlib.contextmanager
def computed_in(precision: str) -> Iterator[None]:
    """What is traced within computes float32 as float32 ("highest"), or as the device is quickest ("default").

    GPUs and TPUs multiply float32 in fewer bits unless they are told otherwise: golden logits are met to 6e-4 of the
    largest in place of 1e-5. On CPUs, and for bfloat16, both are the same.

    Raises:
      UserError: another precision.
    """
    if precision not in PRECISIONS:
        found = f"{precision!r}{did_you_mean(precision, PRECISIONS)}"
        raise UserError(f"the precision must be {' or '.join(PRECISIONS)}, found {found}")
    with jax.default_matmul_precision("highest") if precision == "highest" else contextlib.nullcontext():
        yield
