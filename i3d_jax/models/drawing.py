"""Draws a network's kernels together: kernels of about a size by one program, which takes far less time to compile."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

# The release's initial kernels are cut off at this many deviations.
CUT_OFF = 2.0
# Kernels of fewer numbers are drawn together: to compile a program for them takes longer than what is drawn too much.
FEWEST = 4**8


class Postponed(NamedTuple):
    """A kernel that is not drawn yet.

    Attributes:
      key: what it is drawn by.
      placeholder: zeros of its shape and dtype, which stand among the variables until then.
      deviation: of the numbers before they are cut off.
    """

    key: PRNGKeyArray
    placeholder: Float[Array, "..."]
    deviation: float


_postponed: contextvars.ContextVar[list[Postponed] | None] = contextvars.ContextVar("postponed", default=None)


def truncated_normal(
    key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike, deviation: float
) -> Float[Array, "..."]:
    """Normal numbers of the given deviation, cut off at two of it; within `together`, a placeholder for `drawn`."""
    postponed = _postponed.get()
    if postponed is None or not _begins_alike_at_every_length(key):
        return jax.random.truncated_normal(key, -CUT_OFF, CUT_OFF, shape, dtype) * jnp.asarray(deviation, dtype)
    placeholder = jnp.zeros(shape, dtype)
    postponed.append(Postponed(key, placeholder, deviation))
    return placeholder


@contextlib.contextmanager
def together() -> Iterator[list[Postponed]]:
    """Gives the list of the kernels that are asked for within, for `drawn`."""
    kernels: list[Postponed] = []
    token = _postponed.set(kernels)
    try:
        yield kernels
    finally:
        _postponed.reset(token)


def drawn(variables: Any, kernels: Sequence[Postponed]) -> Any:
    """Puts the kernels' numbers in the placeholders' places: those of each kernel drawn alone, up to rounding."""
    by_size = defaultdict(list)
    for kernel in kernels:
        by_size[math.ceil(math.log(max(kernel.placeholder.size, FEWEST), 4))].append(kernel)
    numbers = {}
    for alike in by_size.values():
        keys = jnp.stack([kernel.key for kernel in alike])
        largest = max(kernel.placeholder.size for kernel in alike)
        draw = functools.partial(
            jax.random.truncated_normal,
            lower=-CUT_OFF,
            upper=CUT_OFF,
            shape=(largest,),
            dtype=alike[0].placeholder.dtype,
        )
        for (_, placeholder, deviation), row in zip(alike, jax.vmap(draw)(keys), strict=True):
            numbers[id(placeholder)] = row[: placeholder.size].reshape(placeholder.shape) * deviation
    return jax.tree.map(lambda leaf: numbers.pop(id(leaf), leaf), variables)


def _begins_alike_at_every_length(key: PRNGKeyArray) -> bool:
    """Says whether a key's first numbers are the same however many are drawn by it."""
    # Before version 0.12 JAX made its attributes as it ran, out of a type checker's sight.
    configuration: Any = jax.config
    return configuration.jax_threefry_partitionable and str(jax.random.key_impl(key)) in ("fry", "threefry2x32")
