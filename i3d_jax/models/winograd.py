"""Winograd's minimal filtering for 3x3 windows at stride 1, on CPUs (Lavin & Gray 2016, F(2x2, 3x3)).

A tile of 2x2 outputs is made of 16 products where the plain sum takes 36. The products are those of 16 matrix products,
of tiles by channels with channels by features, so the machine's fastest routine does the work. In float32 the results
are within a few units in the last place of the plain ones; in narrower dtypes they would not be.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32

from i3d_jax.shapes import AnyArray

# The three transforms of one axis, a row for each value made: of 4 inputs, of 3 taps, of 4 products (to 2 outputs).
_OF_INPUTS = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_OF_TAPS = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OF_PRODUCTS = ((1, 1, 1, 0), (0, 1, -1, -1))


def convolution(
    images: Float32[AnyArray, "batch height width channels"],
    kernel: Float32[AnyArray, "3 3 _channels _features"],
    *,
    turned: bool = False,
) -> Float32[Array, "batch height-2 width-2 features"]:
    """Convolves padded images with a 3x3 kernel at stride 1.

    Args:
      images: float32 [N, H, W, C], padding included.
      kernel: float32 [3, 3, C, features].
      turned: whether the kernel is float32 [3, 3, features, C] instead.

    Returns:
      float32 [N, H - 2, W - 2, features].
    """
    count, (height, width), features = images.shape[0], _outputs(images), kernel.shape[2 if turned else 3]
    taps = [kernel[row, column] for row in range(3) for column in range(3)]
    kernels = _transform(taps, 3, _OF_TAPS)
    contracted = (((1,), (1 if turned else 0,)), ((), ()))
    products = [lax.dot_general(tile, matrix, contracted) for tile, matrix in zip(_tiles(images), kernels, strict=True)]
    values = _transform(products, 4, _OF_PRODUCTS)
    rows, columns = -(-height // 2), -(-width // 2)
    values = [value.reshape(count, rows, columns, features) for value in values]
    # A tile's 2x2 outputs go back to their places.
    lines = [jnp.stack(values[2 * row : 2 * row + 2], axis=3).reshape(count, rows, -1, features) for row in range(2)]
    outputs = jnp.stack(lines, axis=2).reshape(count, 2 * rows, 2 * columns, features)
    return outputs[:, :height, :width]


def kernel_gradient(
    images: Float32[AnyArray, "batch height width channels"],
    gradient: Float32[AnyArray, "batch height-2 width-2 features"],
) -> Float32[Array, "3 3 channels features"]:
    """The gradient of `convolution` with respect to the kernel.

    Args:
      images: float32 [N, H, W, C], padding included.
      gradient: of the outputs, float32 [N, H - 2, W - 2, features].

    Returns:
      float32 [3, 3, C, features].
    """
    height, width = _outputs(images)
    gradient = jnp.pad(gradient, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    outputs = [gradient[:, row::2, column::2] for row in range(2) for column in range(2)]
    of_products = [
        value.reshape(-1, value.shape[-1]) for value in _transform(outputs, 2, tuple(zip(*_OF_PRODUCTS, strict=True)))
    ]
    contracted = (((0,), (0,)), ((), ()))
    of_kernels = [
        lax.dot_general(tile, value, contracted) for tile, value in zip(_tiles(images), of_products, strict=True)
    ]
    taps = _transform(of_kernels, 4, tuple(zip(*_OF_TAPS, strict=True)))
    return jnp.stack(taps).reshape(3, 3, *taps[0].shape)


def _outputs(images: AnyArray) -> tuple[int, int]:
    return images.shape[1] - 2, images.shape[2] - 2


def _tiles(images: AnyArray) -> list[AnyArray]:
    """The 16 transformed values of every overlapping 4x4 tile, each [tiles, C]."""
    height, width = _outputs(images)
    images = jnp.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    # Without the barrier XLA would fuse the padding into each of the 16 consumers, and repeat it.
    images = lax.optimization_barrier(images)
    rows, columns = height + height % 2, width + width % 2
    values = [images[:, row : row + rows : 2, column : column + columns : 2] for row in range(4) for column in range(4)]
    return [value.reshape(-1, value.shape[-1]) for value in _transform(values, 4, _OF_INPUTS)]


def _transform(values: Sequence[AnyArray], size: int, matrix: Sequence[Sequence[float]]) -> list[AnyArray]:
    """Applies a transform to both axes of a grid [size, size] of arrays, given row after row."""
    grid = [values[size * row : size * row + size] for row in range(size)]
    mixed_rows = [[_combination(weights, column) for column in zip(*grid, strict=True)] for weights in matrix]
    return [_combination(weights, row) for row in mixed_rows for weights in matrix]


def _combination(weights: Sequence[float], arrays: Sequence[AnyArray]) -> AnyArray:
    terms = [
        array if weight == 1 else -array if weight == -1 else weight * array
        for weight, array in zip(weights, arrays, strict=True)
        if weight
    ]
    return sum(terms[1:], start=terms[0])
