"""Convolution and its gradient as products of windows that lie side by side, on CPUs.

Each input is moved as often as there are taps, but the kernel is read as it lies, once. Where there are few positions
and many features it is the kernel that is large. And of few channels a product for each tap would be too thin.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from i3d_jax.shapes import AnyArray


def convolution(
    inputs: Float[AnyArray, "batch ... channels"], kernel: Float[AnyArray, "... channels features"]
) -> Float[Array, "batch ... features"]:
    """Convolves padded videos or images at stride 1.

    Args:
      inputs: float [B, ..., C], padding included.
      kernel: float [..., C, features], of the inputs' rank and dtype.

    Returns:
      float [B, ..., features], each size less by the window's, plus 1.
    """
    *window, channels, features = kernel.shape
    sizes = [size - taps + 1 for size, taps in zip(inputs.shape[1:-1], window, strict=True)]

    def seen(first):
        return lax.dynamic_slice(inputs, (0, *first, 0), (len(inputs), *sizes, channels))

    # One program for all taps, since each slice by itself would take long to compile; and with the barrier one that
    # runs once, not for each number of the product.
    taps = jnp.array(list(itertools.product(*map(range, window))))
    windows = lax.optimization_barrier(jax.vmap(seen, out_axes=-2)(taps))
    outputs = windows.reshape(-1, len(taps) * channels) @ kernel.reshape(-1, features)
    return outputs.reshape(len(inputs), *sizes, features)


def kernel_gradient(
    images: Float[AnyArray, "batch _height _width channels"],
    gradient: Float[AnyArray, "batch height width features"],
    *,
    window: tuple[int, int],
    strides: tuple[int, int],
) -> Float[Array, "_rows _columns channels features"]:
    """The gradient of a convolution of images with respect to its kernel.

    It takes one image after the other, and of the window one row of taps after the other, so that what lies side by
    side stays in the processor's cache.

    Args:
      images: float [N, H, W, C], padding included.
      gradient: of the outputs, float [N, H', W', features].
      window, strides: along height and width.

    Returns:
      float [*window, C, features], in the gradient's dtype, summed up in float32 at least.
    """
    batch, rows, columns, features = gradient.shape
    channels = images.shape[3]
    summed_in = jnp.promote_types(gradient.dtype, jnp.float32)

    def add_image(total, number):
        image, outputs = (lax.dynamic_index_in_dim(array, number, keepdims=False) for array in (images, gradient))
        across = (columns - 1) * strides[1] + 1
        seen = [lax.slice_in_dim(image, tap, tap + across, strides[1], axis=1) for tap in range(window[1])]
        # Without the barriers XLA would gather anew for each row, and each number for each product.
        lines = lax.optimization_barrier(jnp.concatenate(seen, axis=-1))

        def of_row(tap):
            down = (rows - 1) * strides[0] + 1
            taken = lax.slice_in_dim(lax.dynamic_slice_in_dim(lines, tap, down), 0, down, strides[0])
            windows = lax.optimization_barrier(taken).reshape(rows * columns, -1)
            contracted = (((0,), (0,)), ((), ()))
            return lax.dot_general(windows, outputs.reshape(-1, features), contracted, preferred_element_type=summed_in)

        return total + lax.map(of_row, jnp.arange(window[0])).reshape(total.shape), None

    of_kernel = jnp.zeros((*window, channels, features), summed_in)
    return lax.scan(add_image, of_kernel, jnp.arange(batch))[0].astype(gradient.dtype)
