"""Winograd's minimal filtering for 3x3 windows at stride 1, on CPUs (Lavin & Gray 2016, F(2x2, 3x3) and F(4x4, 3x3)).

A tile of 2x2 outputs is made of 16 products where the plain sum takes 36, one of 4x4 of 36 where that takes 144. The
products are those of 16 or 36 matrix products, of tiles by channels with channels by features, so the machine's fastest
routine does the work. They are one batch, and the transforms around them few steps: each that XLA writes itself takes
time to compile. In float32 the results of 2x2 are within a few units in the last place of the plain ones, those of 4x4
within some tens (of the largest output 5e-6); in narrower dtypes they would not be. What is not finite spreads to the
whole tile that it is in, and no further.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32

from i3d_jax.shapes import AnyArray

# Of the transformed tiles that are made at once: more would leave the processor's cache, for memory that the system has
# to clear first.
_MOST_BYTES = 2**24
# Of tiles of 4x4 outputs and of channels, for which those repay that there are more kernels to read, and larger
# transforms.
_LEAST_TILES, _LEAST_CHANNELS = 256, 128


class _Filtering(NamedTuple):
    """The transforms of one axis.

    Attributes:
      outputs: of a tile.
      of_inputs: of outputs + 2 inputs, a row for each value made.
      of_taps: of the 3 taps, to as many.
      of_products: of as many products, to the outputs.
    """

    outputs: int
    of_inputs: Sequence[Sequence[float]]
    of_taps: Sequence[Sequence[float]]
    of_products: Sequence[Sequence[float]]

    def taps(self) -> np.ndarray:
        """`of_taps` for both axes, of a grid given row after row."""
        return np.kron(self.of_taps, self.of_taps).astype(np.float32)

    def products(self) -> np.ndarray:
        """`of_products` for both axes, of a grid given row after row."""
        return np.kron(self.of_products, self.of_products).astype(np.float32)


_OF_2 = _Filtering(
    2,
    of_inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    of_taps=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    of_products=((1, 1, 1, 0), (0, 1, -1, -1)),
)
# By the polynomials' values at 0, 1, -1, 1/2, -2 and infinity, which round less than at 0, 1, -1, 2, -2 and infinity.
_OF_4 = _Filtering(
    4,
    of_inputs=(
        (1, -3 / 2, -2, 3 / 2, 1, 0),
        (0, -1, 1 / 2, 5 / 2, 1, 0),
        (0, 1, -5 / 2, 1 / 2, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 1 / 2, -1, -1 / 2, 1, 0),
        (0, 1, -3 / 2, -2, 3 / 2, 1),
    ),
    of_taps=(
        (1, 0, 0),
        (1 / 3, 1 / 3, 1 / 3),
        (-1 / 3, 1 / 3, -1 / 3),
        (-16 / 15, -8 / 15, -4 / 15),
        (1 / 15, -2 / 15, 4 / 15),
        (0, 0, 1),
    ),
    of_products=((1, 1, 1, 1, 1, 0), (0, 1, -1, 1 / 2, -2, 0), (0, 1, 1, 1 / 4, 4, 0), (0, 1, -1, 1 / 8, -8, 1)),
)


def convolution(
    images: Float32[AnyArray, "batch height width channels"],
    kernel: Float32[AnyArray, "3 3 _channels _features"],
    *,
    turned: bool = False,
    clips: int | None = None,
) -> Float32[Array, "batch height-2 width-2 features"]:
    """Convolves padded images with a 3x3 kernel at stride 1.

    Args:
      images: float32 [N, H, W, C], padding included.
      kernel: float32 [3, 3, C, features].
      turned: whether the kernel is float32 [3, 3, features, C] instead.
      clips: whose steps in time the images are, one clip after the other, where a step may follow the other; None for
        all at once.

    Returns:
      float32 [N, H - 2, W - 2, features].
    """
    height, width = images.shape[1] - 2, images.shape[2] - 2
    filtering = _filtering(len(images), height, width, images.shape[3])
    size = filtering.outputs
    rows, columns = -(-height // size), -(-width // size)
    kernels = _transformed(filtering.taps(), kernel.reshape(9, *kernel.shape[2:]))
    contracted = (((2,), (2 if turned else 1,)), ((0,), (0,)))

    def convolved(images):
        products = lax.dot_general(_tiles(images, filtering), kernels, contracted)
        outputs = _transformed(filtering.products(), products)
        # A tile's outputs go back to their places.
        outputs = outputs.reshape(size, size, len(images), rows, columns, -1).transpose(2, 3, 0, 4, 1, 5)
        return outputs.reshape(len(images), size * rows, size * columns, -1)[:, :height, :width]

    clips = clips or len(images)
    steps = len(images) // clips
    bytes_of_step = (size + 2) ** 2 * clips * rows * columns * images.shape[3] * images.dtype.itemsize
    most = max(1, _MOST_BYTES // bytes_of_step)
    at_once = max(count for count in range(1, steps + 1) if steps % count == 0 and count <= most)
    if at_once == steps:
        return convolved(images)
    # A loop over the clips would bring those of all devices to each.
    parts = images.reshape(clips, -1, at_once, *images.shape[1:]).swapaxes(0, 1)
    outputs = lax.map(convolved, parts.reshape(-1, clips * at_once, *images.shape[1:]))
    outputs = outputs.reshape(-1, clips, at_once, *outputs.shape[2:]).swapaxes(0, 1)
    return outputs.reshape(len(images), *outputs.shape[3:])


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
    channels, features = images.shape[3], gradient.shape[3]
    count, height, width = gradient.shape[:3]
    filtering = _filtering(count, height, width, channels)
    size = filtering.outputs
    rows, columns = -(-height // size), -(-width // size)
    gradient = jnp.pad(gradient, ((0, 0), (0, size * rows - height), (0, size * columns - width), (0, 0)))
    of_tiles = gradient.reshape(count, rows, size, columns, size, features).transpose(2, 4, 0, 1, 3, 5)
    of_tiles = lax.optimization_barrier(of_tiles).reshape(size * size, -1, features)
    contracted = (((1,), (1,)), ((0,), (0,)))
    of_kernels = lax.dot_general(_tiles(images, filtering), _transformed(filtering.products().T, of_tiles), contracted)
    return _transformed(filtering.taps().T, of_kernels).reshape(3, 3, channels, features)


def _filtering(count: int, height: int, width: int, channels: int) -> _Filtering:
    """That for outputs [count, height, width, ...] of so many channels."""
    tiles = count * -(-height // 4) * -(-width // 4)
    return _OF_4 if tiles >= _LEAST_TILES and channels >= _LEAST_CHANNELS else _OF_2


def _tiles(images: AnyArray, filtering: _Filtering) -> AnyArray:
    """The transformed values of every tile with the two rows and columns after it, [(outputs + 2)^2, tiles, C]."""
    size = filtering.outputs
    count, height, width, channels = images.shape
    rows, columns = -(-(height - 2) // size), -(-(width - 2) // size)
    after = size * (rows + 1) - height, size * (columns + 1) - width
    # Without the barrier XLA would repeat the padding for each value.
    images = lax.optimization_barrier(jnp.pad(images, ((0, 0), (0, after[0]), (0, after[1]), (0, 0))))

    def along(axis, blocks, tiles):
        """Values along an axis of blocks, whose own inputs are the axis after it; they come first."""
        places = (divmod(place, size) for place in range(size + 2))
        inputs = [
            lax.index_in_dim(lax.slice_in_dim(blocks, block, block + tiles, axis=axis), place, axis + 1, keepdims=False)
            for block, place in places
        ]
        values = [
            sum(factor * values for factor, values in zip(row, inputs, strict=True) if factor)
            for row in filtering.of_inputs
        ]
        # Nor is a value to be summed up again for each number of a product.
        return lax.optimization_barrier(jnp.stack(values))

    values = along(2, images.reshape(count, size * (rows + 1), columns + 1, size, channels), columns)
    values = along(2, values.reshape(-1, count, rows + 1, size, columns, channels), rows)
    return values.reshape((size + 2) ** 2, -1, channels)


def _transformed(matrix: AnyArray, values: AnyArray) -> Array:
    """A transform of both axes of a grid, [size * size, rows, columns]."""
    return jnp.matmul(matrix, values.reshape(len(values), -1)).reshape(len(matrix), *values.shape[1:])
