"""Reading images between their pixels, as OpenCV 5 does: bilinear resizing and bicubic warping; and their gradient.

Pixel (0, 0) has its centre at (0, 0); x counts columns, y rows. Images are float32 [..., H, W].
"""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from i3d_jax.shapes import AnyArray

# The free parameter of Keys' cubic convolution as OpenCV sets it.
CUBIC = -0.75


def resize(
    image: Float[AnyArray, "*batch rows columns"], height: int, width: int, *, step: tuple[float, float] | None = None
) -> Float[Array, "*batch {height} {width}"]:
    """Resizes images [..., H, W] to [..., height, width] by bilinear interpolation, without smoothing beforehand.

    Args:
      image: the images.
      height, width: of the result.
      step: (down, across): source pixels from one pixel of the result to the next. None: the ratio of the sizes.
    """
    if step is None:
        step = image.shape[-2] / height, image.shape[-1] / width
    rows, columns = (_bilinear(*axis) for axis in zip(image.shape[-2:], (height, width), step, strict=True))
    image = _blend(image, *rows, axis=-2)
    return _blend(image, *columns, axis=-1)


def _bilinear(source: int, target: int, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, for each place of the target, the two source places that it lies between and the second one's share."""
    position = np.clip((np.arange(target) + 0.5) * step - 0.5, 0, source - 1)
    first = np.floor(position).astype(np.int32)
    return first, np.minimum(first + 1, source - 1), (position - first).astype(np.float32)


def _blend(image: AnyArray, first: np.ndarray, second: np.ndarray, share: np.ndarray, *, axis: int) -> jax.Array:
    share = share[:, None] if axis == -2 else share
    return jnp.take(image, first, axis=axis) * (1 - share) + jnp.take(image, second, axis=axis) * share


def gradient(
    image: Float[AnyArray, "*batch height width"],
) -> tuple[Float[Array, "*batch height width"], Float[Array, "*batch height width"]]:
    """Returns half the difference of the two neighbours, across and down; the border's values go on beyond it."""
    padding = [(0, 0)] * (image.ndim - 2) + [(1, 1)] * 2
    padded = jnp.pad(image, padding, mode="edge")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return across / 2, down / 2


def warp(
    images: Float32[AnyArray, "batch channels height width"],
    x: Float32[AnyArray, "batch rows columns"],
    y: Float32[AnyArray, "batch rows columns"],
) -> Float32[Array, "batch channels rows columns"]:
    """Reads images at any places, by bicubic interpolation; beyond the border they are 0.

    Args:
      images: float32 [N, C, H, W].
      x: float32 [N, H', W'], columns; the same for all C.
      y: float32 [N, H', W'], rows.

    Returns:
      float32 [N, C, H', W'].
    """
    batch, channels, height, width = images.shape
    left, top = jnp.floor(x), jnp.floor(y)
    across, down = _cubic_weights(x - left), _cubic_weights(y - top)
    # Four taps from one before the place; from 3 places beyond the border on all of them see zeros.
    padded = jnp.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)))
    columns = jnp.clip(left, -3, width + 1).astype(jnp.int32) + 3
    rows = jnp.clip(top, -3, height + 1).astype(jnp.int32) + 3
    first = (rows * (width + 8) + columns).reshape(batch, -1, 1)
    # Channels last, so that one look-up brings all of them.
    pixels = padded.reshape(batch, channels, -1).transpose(0, 2, 1)

    def row(number: int) -> jax.Array:
        taps = [jnp.take_along_axis(pixels, first + number * (width + 8) + tap, axis=1) for tap in range(4)]
        weighted = [tap * weight.reshape(batch, -1, 1) for tap, weight in zip(taps, across, strict=True)]
        return functools.reduce(operator.add, weighted)

    rows_of_taps = [row(number) * weight.reshape(batch, -1, 1) for number, weight in enumerate(down)]
    result = functools.reduce(operator.add, rows_of_taps)
    return result.transpose(0, 2, 1).reshape(batch, channels, *x.shape[1:])


def _cubic_weights(share: AnyArray) -> tuple[AnyArray, ...]:
    """Returns the weights of the pixels 1 before, at, 1 and 2 after a place that lies `share` (0 to 1) after a pixel.

    In factors, which lose no digits to cancellation: flat parts of a picture amplify every rounding.

    Reference: Keys, "Cubic convolution interpolation for digital image processing", 1981.
    """
    rest = 1 - share
    return (
        CUBIC * share * rest * rest,
        ((CUBIC + 2) * share - (CUBIC + 3)) * share * share + 1,
        ((CUBIC + 2) * rest - (CUBIC + 3)) * rest * rest + 1,
        CUBIC * rest * share * share,
    )
