"""Bilinear resizing as other programs define it, of NumPy and of JAX arrays alike."""

from __future__ import annotations

import numpy as np

from i3d_jax.shapes import AnyArray


def resize(pixels: AnyArray, height: int, width: int, *, half_pixel: bool) -> AnyArray:
    """Resizes pictures without smoothing them first: smaller ones are made of some of the pixels alone.

    Args:
      pixels: [..., H, W, C] of any kind of number; a JAX array or a NumPy one, and so is the result.
      height, width: of the result.
      half_pixel: where pixels lie. True: their centres at halves, as PyTorch's `interpolate(align_corners=False)`,
        OpenCV and TensorFlow 2 have it. False: output pixel i is taken at i H / height, as TensorFlow 1's
        `resize_bilinear` has it, which moves the picture up and to the left.

    Returns:
      float32 [..., height, width, C].
    """
    pixels = pixels.astype(np.float32)
    for axis, size in ((-3, height), (-2, width)):
        pixels = _along(pixels, axis, size, half_pixel)
    return pixels


def _along(pixels: AnyArray, axis: int, size: int, half_pixel: bool) -> AnyArray:
    source = pixels.shape[axis]
    if source == size:
        return pixels
    # In float32, as TensorFlow's kernel counts: where a product meets a whole number decides which pixels are taken.
    scale, places = np.float32(source) / np.float32(size), np.arange(size, dtype=np.float32)
    half = np.float32(0.5 if half_pixel else 0)
    places = ((places + half) * scale - half).clip(min=0)
    lower = np.minimum(np.floor(places).astype(np.int32), source - 1)
    upper = np.minimum(lower + 1, source - 1)
    share = (places - lower).astype(np.float32).reshape(-1, *[1] * (-axis - 1))
    below, above = pixels.take(lower, axis), pixels.take(upper, axis)
    return below + (above - below) * share
