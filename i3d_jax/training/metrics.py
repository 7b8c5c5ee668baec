"""Metrics as sums and counts: they add up over batches and devices, and are divided once, at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Shaped

from i3d_jax.shapes import AnyArray

# {name: (sum, count)}
Sums = dict[str, tuple[Any, Any]]


def masked_sum(
    values: Shaped[AnyArray, " batch"], mask: Bool[AnyArray, " batch"]
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """The sum of the values float [B] where the mask bool [B] is set, and how many those are, both float32."""
    weights = mask.astype(jnp.float32)
    return jnp.sum(jnp.where(mask, values.astype(jnp.float32), 0)), jnp.sum(weights)


def add(total: Mapping[str, tuple[Any, Any]], more: Mapping[str, tuple[Any, Any]]) -> Sums:
    """Adds two sets of sums and counts; a name that only one side has is kept as it is."""
    names = [*total, *(name for name in more if name not in total)]
    zero = (0.0, 0.0)
    return {
        name: tuple(a + b for a, b in zip(total.get(name, zero), more.get(name, zero), strict=True)) for name in names
    }


def means(sums: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    """Divides every sum by its count; a count of 0 gives NaN."""
    return {name: float(total) / float(count) if count else float("nan") for name, (total, count) in sums.items()}
