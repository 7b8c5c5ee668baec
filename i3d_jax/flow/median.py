"""The median of the values around every pixel, by comparisons that neighbouring pixels share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from i3d_jax.shapes import AnyArray


def median(image: Float[AnyArray, "*batch height width"], size: int) -> Float[Array, "*batch height width"]:
    """Returns the median of the `size` x `size` values around each pixel; the border's values go on beyond it.

    Sorting 25 values for each pixel is what a median costs most for. Instead every column of the window is sorted, once
    for all windows that it is part of; then the columns' smallest values are sorted, their second smallest, and so on.
    In the square that this gives every value is at least those above it and to its left, which leaves 13 values that
    can be the middle one of 25 (3 of 9). They are put in order by a sorting network of which the compiler keeps what
    the middle one needs.

    Args:
      image: float [..., H, W].
      size: 3 or 5, or 1 for the image itself; other odd numbers work but grow fast.

    Returns:
      float [..., H, W].
    """
    height, width = image.shape[-2:]
    before = size // 2
    padding = [(0, 0)] * (image.ndim - 2) + [(before, before)] * 2
    padded = jnp.pad(image, padding, mode="edge")
    columns = _sorted([padded[..., row : row + height, :] for row in range(size)])
    square = [_sorted([values[..., column : column + width] for column in range(size)]) for values in columns]
    # Of the value in row i and column j, (i + 1) (j + 1) are no greater and (size - i) (size - j) no smaller.
    most = size * size // 2 + 1
    candidates = [
        square[i][j]
        for i in range(size)
        for j in range(size)
        if (i + 1) * (j + 1) <= most and (size - i) * (size - j) <= most
    ]
    return _sorted(candidates)[len(candidates) // 2]


def _sorted(values: list[jax.Array]) -> list[jax.Array]:
    """Sorts arrays of one shape against each other, element by element, the smallest first."""
    values = list(values)
    for low, high in comparators(len(values)):
        smaller, larger = jnp.minimum(values[low], values[high]), jnp.maximum(values[low], values[high])
        values[low], values[high] = smaller, larger
    return values


def comparators(count: int) -> list[tuple[int, int]]:
    """Returns the pairs of places that a sorting network compares, in order: Batcher's odd-even merge sort (1968).

    Args:
      count: places, 1 or more.
    """
    pairs = []
    merged = 1
    while merged < count:
        distance = merged
        while distance:
            for start in range(distance % merged, count - distance, 2 * distance):
                for low in range(start, min(start + distance, count - distance)):
                    if low // (2 * merged) == (low + distance) // (2 * merged):
                        pairs.append((low, low + distance))
            distance //= 2
        merged *= 2
    return pairs
