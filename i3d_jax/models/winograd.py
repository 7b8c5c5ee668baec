"""Winograd's minimal filtering for 3x3 windows at stride 1, on CPUs (Lavin & Gray 2016, F(2x2, 3x3)).

A tile of 2x2 outputs is made of 16 products where the plain sum takes 36. The products are those of 16 matrix products,
of tiles by channels with channels by features, so the machine's fastest routine does the work. The 16 are one batch and
the transforms around them products with a constant matrix: a program of few steps, since each that XLA writes itself
takes time to compile. In float32 the results are within a few units in the last place of the plain ones; in narrower
dtypes they would not be. What is not finite spreads to the whole tile that it is in, and no further.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32

from i3d_jax.shapes import AnyArray

# Of the transformed tiles that are made at once: more would leave the processor's cache, for memory that the system has
# to clear first.
_MOST_BYTES = 2**24

# The three transforms of one axis, a row for each value made: of 4 inputs, of 3 taps, of 4 products (to 2 outputs).
_OF_INPUTS = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_OF_TAPS = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OF_PRODUCTS = ((1, 1, 1, 0), (0, 1, -1, -1))
# Those of both axes, of a grid given row after row.
_TAPS = np.kron(_OF_TAPS, _OF_TAPS).astype(np.float32)
_PRODUCTS = np.kron(_OF_PRODUCTS, _OF_PRODUCTS).astype(np.float32)

# Of the 4x4 inputs of a tile each of the 16 values takes four: their places in blocks of 2x2 (a block's row and the row
# in it, then columns) and their signs.
_TAKEN = [[(place, sign) for place, sign in enumerate(row) if sign] for row in _OF_INPUTS]
_ENDS = [list(itertools.product(rows, columns)) for rows, columns in itertools.product(_TAKEN, repeat=2)]
_PLACES = np.array([[(*divmod(row, 2), *divmod(column, 2)) for (row, _), (column, _) in ends] for ends in _ENDS])
_SIGNS = np.array([[of_row * of_column for (_, of_row), (_, of_column) in ends] for ends in _ENDS], np.float32)


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
    height, width = _outputs(images)
    rows, columns = -(-height // 2), -(-width // 2)
    kernels = _transformed(_TAPS, kernel.reshape(9, *kernel.shape[2:]))
    contracted = (((2,), (2 if turned else 1,)), ((0,), (0,)))

    def convolved(images):
        outputs = _transformed(_PRODUCTS, lax.dot_general(_tiles(images), kernels, contracted))
        # A tile's 2x2 outputs go back to their places.
        outputs = outputs.reshape(2, 2, len(images), rows, columns, -1).transpose(2, 3, 0, 4, 1, 5)
        return outputs.reshape(len(images), 2 * rows, 2 * columns, -1)[:, :height, :width]

    transformed_bytes = 16 * len(images) * rows * columns * images.shape[3] * images.dtype.itemsize
    if clips is None or clips == len(images) or transformed_bytes <= _MOST_BYTES:
        return convolved(images)
    # A loop over the clips would bring those of all devices to each.
    steps = images.reshape(clips, -1, *images.shape[1:]).swapaxes(0, 1)
    outputs = lax.map(convolved, steps).swapaxes(0, 1)
    return outputs.reshape(len(images), *outputs.shape[2:])


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
    corners = lax.optimization_barrier(_blocks(gradient).transpose(2, 4, 0, 1, 3, 5)).reshape(4, -1, features)
    contracted = (((1,), (1,)), ((0,), (0,)))
    of_kernels = lax.dot_general(_tiles(images), _transformed(_PRODUCTS.T, corners), contracted)
    return _transformed(_TAPS.T, of_kernels).reshape(3, 3, channels, features)


def _outputs(images: AnyArray) -> tuple[int, int]:
    return images.shape[1] - 2, images.shape[2] - 2


def _blocks(images: AnyArray) -> AnyArray:
    """[N, H, W, C], with zeros up to even sizes, as [N, H / 2, 2, W / 2, 2, C]."""
    count, height, width, channels = images.shape
    images = jnp.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    return images.reshape(count, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)


def _tiles(images: AnyArray) -> AnyArray:
    """The 16 transformed values of every overlapping 4x4 tile, [16, tiles, C]."""
    # Without the barriers XLA would repeat the padding for each value, and the sum for each number of a product.
    blocks = lax.optimization_barrier(_blocks(images))
    count, rows, _, columns, _, channels = blocks.shape
    sizes = (count, rows - 1, 1, columns - 1, 1, channels)

    def value(places, signs):
        taken = (lax.dynamic_slice(blocks, (0, *place, 0), sizes) for place in places)
        return sum(sign * inputs for sign, inputs in zip(signs, taken, strict=True))

    # One program for all 16.
    return lax.optimization_barrier(jax.vmap(value)(_PLACES, _SIGNS)).reshape(16, -1, channels)


def _transformed(matrix: AnyArray, values: AnyArray) -> Array:
    """A transform of both axes of a grid, [size * size, rows, columns]."""
    return jnp.matmul(matrix, values.reshape(len(values), -1)).reshape(len(matrix), *values.shape[1:])
