"""Convolution, for videos and for images: how it runs on a platform.

Videos are NDHWC: [batch, time, height, width, channels]; images are NHWC. Below, "..." stands for the axes between the
batch and the channels. Padding is TensorFlow's SAME (an odd pixel goes after), unless said otherwise.

How an operation is lowered is chosen per platform here, for pools in `models.pooling`, and nowhere else. On TPUs and
GPUs it is XLA's native 3D convolution. On CPUs that is several times slower than the machine's matrix product, so there
the taps along time become channels of one 2D convolution, which for 3x3 windows is Winograd's; pointwise convolutions,
those of few positions (`models.windows`) and other kernels' gradients become matrix products. On NVIDIA's GPUs the
first layer's taps become channels too, for its matrix units take channels by eights; on TPUs, where channels lie in
tiles of 128, blocks of 2x2x2 pixels do. All give the same numbers up to rounding.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from i3d_jax.models import slabs, windows, winograd
from i3d_jax.models.batch_norm import Pool, Statistics, normalised_relu
from i3d_jax.models.purpose import by_platform, goes_in_slabs, is_translated, runs_never
from i3d_jax.shapes import AnyArray

# With fewer channels in all taps along time, Winograd's products and one per tap are too thin, and a 2D convolution is
# faster; with fewer features Winograd's are, too.
THIN_CHANNELS = 64
# Of fewer channels the matrix units of accelerators are mostly idle; those of NVIDIA's GPUs take multiples of it.
LEAST_CHANNELS = 8
# Of a convolution for which Winograd's transforms repay the time that they take, to compile as well.
LEAST_OPERATIONS = 5e8

# By the rank of the input.
_DIMENSION_NUMBERS = {5: ("NDHWC", "DHWIO", "NDHWC"), 4: ("NHWC", "HWIO", "NHWC")}

# One number for each axis between batch and channels: three for videos (time first), two for images.
Sizes = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

TEMPORAL_PADDINGS = ("zeros", "replicate")
SPATIAL_PADDINGS = ("same", "symmetric")


def same_padding(sizes: Sequence[int], window: Sequence[int], strides: Sequence[int]) -> Pads:
    """TensorFlow's SAME padding: (before, after) for each axis, the odd one after."""
    return tuple(lax.padtype_to_pads(sizes, window, strides, "SAME"))


def convolution(
    inputs: Float[AnyArray, "batch ... channels"],
    kernel: Float[AnyArray, "... channels features"],
    strides: Sizes,
    padding: Pads,
) -> Float[Array, "batch ... features"]:
    """Convolution (cross-correlation) of videos or images.

    Args:
      inputs: float [B, ..., C].
      kernel: float [..., C, features], of the inputs' rank and dtype.
      strides: along time (of videos), height, width.
      padding: zeros (before, after) along the same axes.

    Returns:
      float [B, ..., features].
    """
    if runs_never():
        return _native_convolution(inputs, kernel, strides=strides, padding=padding)
    return _convolution(inputs, kernel, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(inputs, kernel, strides, padding):
    return by_platform(
        inputs,
        kernel,
        cpu=functools.partial(_cpu_convolution, strides=strides, padding=padding),
        default=functools.partial(_native_convolution, strides=strides, padding=padding),
        cuda=functools.partial(_cuda_convolution, strides=strides, padding=padding),
        tpu=functools.partial(_tpu_convolution, strides=strides, padding=padding),
    )


def normalised_convolution(
    inputs: Float[AnyArray, "batch ... channels"],
    kernel: Float[AnyArray, "... channels features"],
    strides: Sizes,
    padding: Pads,
    *,
    statistics: Statistics,
    dtype: DTypeLike,
    pool: Pool | None = None,
) -> tuple[Float[Array, "batch ... features"], Float[Array, "batch ... features"]]:
    """`convolution`, then `normalised_relu` by the statistics (mean, scale, offset), float32 [features], in `dtype`.

    The second of the results comes after a max-pool, too; that sees the convolution's output, so a scale must not be
    negative then. On CPUs a long video goes in slabs of time, of which each is normalised before the next if there is
    no pool.
    """
    if pool is None:
        outputs = _in_slabs_on_cpus(inputs, kernel, *statistics, strides=strides, padding=padding, dtype=dtype)
        return outputs, outputs
    convolved = _in_slabs_on_cpus(inputs, kernel, strides=strides, padding=padding, dtype=dtype)
    mean, scale, offset = statistics
    outputs, last = (normalised_relu(values, mean, scale, offset, dtype) for values in (convolved, pool(convolved)))
    return outputs, last


def _in_slabs_on_cpus(inputs, kernel, *statistics, strides, padding, dtype):
    """The convolution, normalised if there are statistics."""

    def plain(inputs, kernel, *statistics, padding=padding):
        outputs = convolution(inputs, kernel, strides, padding)
        if not statistics:
            return outputs
        mean, scale, offset = statistics
        return normalised_relu(outputs, mean, scale, offset, dtype)

    def in_slabs(inputs, kernel, *statistics):
        of_slab = functools.partial(plain, padding=((0, 0), *padding[1:]))
        frames = slabs.padded(inputs, padding[0], 0)
        return slabs.over_time(of_slab, frames, kernel, *statistics, taps=kernel.shape[0], stride=strides[0], made=made)

    # The frames that the taps see, side by side.
    made = kernel.shape[0] * inputs.nbytes // strides[0]
    if inputs.ndim == 4 or kernel.shape[0] == 1 or made <= slabs.MOST_BYTES or not goes_in_slabs():
        return plain(inputs, kernel, *statistics)
    return by_platform(inputs, kernel, *statistics, cpu=in_slabs, default=plain)


def concatenated(parts: Sequence[Float[AnyArray, "batch ... _channels"]]) -> Float[Array, "batch ... features"]:
    """Concatenates arrays [B, ..., C] along their channels.

    On GPUs what comes of it is written out. What reads it would else look up for each number which part it is of, and a
    max-pool does so for each input of a window: 6 of the 51 ms of I3D's training step on an H100.
    """

    def as_it_is(joined):
        return joined

    gpus = {"cuda": lax.optimization_barrier, "rocm": lax.optimization_barrier}
    return by_platform(jnp.concatenate(parts, axis=-1), cpu=as_it_is, default=as_it_is, **gpus)


def _convolution_forward(inputs, kernel, strides, padding):
    return _convolution(inputs, kernel, strides, padding), (inputs, kernel)


def _convolution_backward(strides, padding, residuals, gradient):
    inputs, kernel = residuals
    return by_platform(
        inputs,
        kernel,
        gradient,
        cpu=functools.partial(_cpu_gradients, strides=strides, padding=padding),
        default=functools.partial(_gradients, _native_convolution, strides=strides, padding=padding),
        cuda=functools.partial(_gradients, _cuda_convolution, strides=strides, padding=padding),
        tpu=functools.partial(_gradients, _tpu_convolution, strides=strides, padding=padding),
    )


_convolution.defvjp(_convolution_forward, _convolution_backward)


def _native_convolution(inputs, kernel, *, strides, padding):
    if _is_pointwise(kernel, strides, padding):
        # The same as a product of matrices, for which the compiler need not tile the space.
        return lax.dot_general(inputs, kernel.reshape(kernel.shape[-2:]), (((inputs.ndim - 1,), (0,)), ((), ())))
    numbers = _DIMENSION_NUMBERS[inputs.ndim]
    return lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=numbers)


def _gradients(convolution, inputs, kernel, gradient, *, strides, padding):
    forward = functools.partial(convolution, strides=strides, padding=padding)
    return jax.vjp(forward, inputs, kernel)[1](gradient)


def _cuda_convolution(inputs, kernel, *, strides, padding):
    """The first layer's over images whose channels hold all taps along time, and zeros up to a multiple of 8."""
    taps, *window, channels, features = kernel.shape
    if inputs.ndim == 4 or taps == 1 or channels >= LEAST_CHANNELS:
        return _native_convolution(inputs, kernel, strides=strides, padding=padding)
    images = _folded_images(inputs, taps, strides[0], padding[0])
    kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(*window, taps * channels, features)
    missing = -taps * channels % LEAST_CHANNELS
    images = jnp.pad(images, ((0, 0), (0, 0), (0, 0), (0, missing)))
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0)))
    outputs = _native_convolution(images, kernel, strides=strides[1:], padding=padding[1:])
    return outputs.reshape(len(inputs), -1, *outputs.shape[1:])


def _tpu_convolution(inputs, kernel, *, strides, padding):
    """The first layer's over videos whose channels hold blocks of 2x2x2 pixels.

    What is not finite reaches all windows that hold one of the four rows of its blocks, whichever the column.
    """
    if kernel.shape[-2] >= LEAST_CHANNELS or strides != (2, 2, 2):
        return _native_convolution(inputs, kernel, strides=strides, padding=padding)
    zeros, in_blocks = [], []
    for size, taps, (before, after) in zip(inputs.shape[1:-1], kernel.shape[:-2], padding, strict=True):
        # Windows begin with a block, so a kernel that begins within one gets zeros before it.
        zeros.append((before % 2, (before + taps) % 2))
        windows_after_first = (before + size + after - taps) // 2
        blocks = windows_after_first + (taps + sum(zeros[-1])) // 2
        blocks_before = (before + 1) // 2
        in_blocks.append((blocks_before, blocks - blocks_before - (size + 1) // 2))
    kernel = _kernel_in_blocks(kernel, zeros)
    return _native_convolution(_video_in_blocks(inputs), kernel, strides=(1, 1, 1), padding=in_blocks)


def _video_in_blocks(videos):
    """[B, T, H, W, C] as [B, T / 2, H / 2, W / 2, 8 C], sizes rounded up.

    Columns lie next to each other in a TPU's tiles, from which it takes every other one slowly. A product with zeros
    and ones brings the even ones to the front: exact in what the convolution, of the same precision, sees of a number.
    """
    batch, frames, height, width, channels = videos.shape
    videos = jnp.pad(videos, ((0, 0), (0, frames % 2), (0, height % 2), (0, 0), (0, 0)))
    half = (width + 1) // 2
    place = jnp.arange(width)[:, None, None] == jnp.arange(2 * half).reshape(half, 2).T
    numbers = (((3,), (0,)), ((), ()))
    apart = lax.dot_general(videos, place.astype(videos.dtype), numbers)
    apart = apart.reshape(batch, (frames + 1) // 2, 2, (height + 1) // 2, 2, channels, 2, half)
    blocks = apart.transpose(0, 1, 3, 7, 2, 4, 6, 5)
    return blocks.reshape(*blocks.shape[:4], 8 * channels)


def _kernel_in_blocks(kernel, padding):
    """[t, h, w, C, F] as [t / 2, h / 2, w / 2, 8 C, F], after zeros (before, after) along its axes."""
    kernel = jnp.pad(kernel, (*padding, (0, 0), (0, 0)))
    taps, height, width, channels, features = kernel.shape
    kernel = kernel.reshape(taps // 2, 2, height // 2, 2, width // 2, 2, channels, features)
    blocks = kernel.transpose(0, 2, 4, 1, 3, 5, 6, 7)
    return blocks.reshape(*blocks.shape[:3], 8 * channels, features)


def _is_pointwise(kernel, strides, padding):
    return set(kernel.shape[:-2]) == {1} and set(strides) == {1} and not any(map(sum, padding))


def _cpu_convolution(inputs, kernel, *, strides, padding):
    if _has_few_positions(inputs, kernel, strides, padding):
        return _convolution_by_windows(inputs, kernel, padding=padding)
    return _folded_convolution(inputs, kernel, strides=strides, padding=padding)


def _has_few_positions(inputs, kernel, strides, padding):
    """Says whether the windows of all outputs, side by side, take no more memory than the kernel."""
    if is_translated() or set(strides) != {1} or set(kernel.shape[:-2]) == {1}:
        return False
    sizes = zip(inputs.shape[1:-1], kernel.shape[:-2], padding, strict=True)
    positions = inputs.shape[0] * math.prod(size + sum(pads) - taps + 1 for size, taps, pads in sizes)
    # An exported network's number of clips may be open.
    return isinstance(positions, int) and positions <= kernel.shape[-1]


def _convolution_by_windows(inputs, kernel, *, padding):
    return windows.convolution(jnp.pad(inputs, ((0, 0), *padding, (0, 0))), kernel)


def _folded_convolution(inputs, kernel, *, strides, padding, turned=False):
    """The same convolution as one over images whose channels, or features, hold all taps along time.

    A turned kernel is [..., features, channels]: to lay a large one out anew takes longer than the products.
    """
    if inputs.ndim == 4:
        video = {"strides": (1, *strides), "padding": ((0, 0), *padding)}
        return _folded_convolution(inputs[:, None], kernel[None], **video, turned=turned)[:, 0]
    taps = len(kernel)
    channels, features = kernel.shape[:2:-1] if turned else kernel.shape[3:]
    if _is_pointwise(kernel, strides, padding):
        contracted = (((4,), (1 if turned else 0,)), ((), ()))
        return lax.dot_general(inputs, kernel.reshape(kernel.shape[-2:]), contracted)
    in_space = {"strides": strides[1:], "padding": padding[1:], "turned": turned, "clips": len(inputs)}
    if channels > features and taps > 1 and strides[0] == 1:
        # Fewer numbers are moved if the taps become features, whose shifted frames are added up.
        kernel = _with_taps(kernel, axis=-2 if turned else -1)
        outputs = _image_convolution(inputs.reshape(-1, *inputs.shape[2:]), kernel, **in_space)
        outputs = outputs.reshape(*inputs.shape[:2], *outputs.shape[1:3], taps, features)
        outputs = jnp.pad(outputs, ((0, 0), padding[0], *[(0, 0)] * 4))
        steps = outputs.shape[1] - taps + 1
        return sum(outputs[:, tap : tap + steps, :, :, tap] for tap in range(taps))
    images = _cpu_folded_images(inputs, taps, strides[0], padding[0])
    outputs = _image_convolution(images, _with_taps(kernel, axis=-1 if turned else -2), **in_space)
    return outputs.reshape(len(inputs), -1, *outputs.shape[1:])


def _with_taps(kernel, axis):
    """A kernel [taps, height, width, C, features] without its first axis, which goes into one of the last two."""
    joined = jnp.moveaxis(kernel, 0, axis - 1)
    shape = list(kernel.shape[1:])
    shape[axis] *= len(kernel)
    return joined.reshape(shape)


def _without_taps(kernel, taps):
    """A kernel [height, width, taps C, features] as one [taps, height, width, C, features]."""
    height, width, channels, features = kernel.shape
    return kernel.reshape(height, width, taps, channels // taps, features).transpose(2, 0, 1, 3, 4)


def _image_convolution(images, kernel, *, strides, padding, turned, clips):
    if _has_winograd(images, kernel, strides):
        images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
        return winograd.convolution(images, kernel, turned=turned, clips=clips)
    return _native_convolution(images, kernel.swapaxes(2, 3) if turned else kernel, strides=strides, padding=padding)


def _folded_images(inputs, taps, stride, padding):
    """Videos [B, T, H, W, C] as images [B T', H, W, taps C], each with all frames that one step in time sees."""
    inputs = jnp.pad(inputs, ((0, 0), padding, (0, 0), (0, 0), (0, 0)))
    steps = (inputs.shape[1] - taps) // stride + 1
    last = (steps - 1) * stride + 1
    shifted = [lax.slice_in_dim(inputs, tap, tap + last, stride, axis=1) for tap in range(taps)]
    folded = jnp.concatenate(shifted, axis=-1)
    return folded.reshape(-1, *folded.shape[2:])


def _cpu_folded_images(inputs, taps, stride, padding):
    """The same; of one clip a step in time after the other, for XLA is slow at joining slices with a stride."""
    if stride == 1 or inputs.shape[0] != 1 or is_translated():
        return _folded_images(inputs, taps, stride, padding)
    [video] = jnp.pad(inputs, ((0, 0), padding, (0, 0), (0, 0), (0, 0)))
    frames, height, width, channels = video.shape

    def image(step):
        seen = lax.dynamic_slice_in_dim(video, stride * step, taps)
        return seen.transpose(1, 2, 0, 3).reshape(height, width, taps * channels)

    return lax.map(image, jnp.arange((frames - taps) // stride + 1))


def _has_winograd(images, kernel, strides):
    """Of images and kernels whose taps along time are among the channels or features, or will be among the channels."""
    if is_translated():
        return False
    *taps, height, width, channels, features = kernel.shape
    of_its_kind = (height, width) == (3, 3) and set(strides) == {1} and kernel.dtype == jnp.float32
    thick = min(math.prod(taps) * channels, features) >= THIN_CHANNELS
    return of_its_kind and thick and 2 * math.prod(images.shape[:-1]) * math.prod(kernel.shape) >= LEAST_OPERATIONS


def _cpu_gradients(inputs, kernel, gradient, *, strides, padding):
    # Without the barrier XLA would fuse the producer of both into each product that reads them, and repeat it.
    inputs, gradient = lax.optimization_barrier((inputs, gradient))
    if _has_few_positions(inputs, kernel, strides, padding):
        forward = functools.partial(_convolution_by_windows, padding=padding)
        return jax.vjp(forward, inputs, kernel)[1](gradient)
    return _folded_gradients(inputs, kernel, gradient, strides, padding)


def _folded_gradients(inputs, kernel, gradient, strides, padding):
    if inputs.ndim == 4:
        gradients = _folded_gradients(
            inputs[:, None], kernel[None], gradient[:, None], (1, *strides), ((0, 0), *padding)
        )
        return gradients[0][:, 0], gradients[1][0]
    return (
        _folded_input_gradient(inputs, kernel, gradient, strides, padding),
        _folded_kernel_gradient(inputs, kernel, gradient, strides, padding),
    )


def _folded_input_gradient(inputs, kernel, gradient, strides, padding):
    if strides != (1, 1, 1):
        forward = functools.partial(_native_convolution, kernel=kernel, strides=strides, padding=padding)
        return jax.vjp(forward, inputs)[1](gradient)[0]
    flipped = jnp.flip(kernel, (0, 1, 2))
    mirrored = tuple(
        (size - 1 - before, size - 1 - after) for size, (before, after) in zip(kernel.shape[:3], padding, strict=True)
    )
    return _folded_convolution(gradient, flipped, strides=strides, padding=mirrored, turned=True)


def _folded_kernel_gradient(inputs, kernel, gradient, strides, padding):
    taps, height, width, channels, features = kernel.shape
    if _has_winograd(gradient, kernel, strides):
        images = jnp.pad(_folded_images(inputs, taps, 1, padding[0]), ((0, 0), *padding[1:], (0, 0)))
        of_kernel = winograd.kernel_gradient(images, gradient.reshape(-1, *gradient.shape[2:]))
        return _without_taps(of_kernel, taps)
    thin = taps * channels < THIN_CHANNELS
    if thin and taps > 1 and features >= THIN_CHANNELS:
        padded = jnp.pad(inputs, ((0, 0), (0, 0), *padding[1:], (0, 0)))
        images = _cpu_folded_images(padded, taps, strides[0], padding[0])
        of_clip = functools.partial(windows.kernel_gradient, window=(height, width), strides=strides[1:])
        # A loop over clips that lie on several devices would bring all of them to each.
        of_clips = jax.vmap(of_clip)(images.reshape(*gradient.shape[:2], *images.shape[1:]), gradient)
        return _without_taps(of_clips.sum(0), taps)
    if thin and taps * height * width > 1:
        forward = functools.partial(_folded_convolution, inputs, strides=strides, padding=padding)
        return jax.vjp(lambda kernel: forward(kernel=kernel), kernel)[1](gradient)[0]
    inputs = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    outputs = gradient.reshape(-1, features)

    def tap_gradient(offsets):
        window = inputs
        for axis, (offset, stride) in enumerate(zip(offsets, strides, strict=True), start=1):
            last = offset + (gradient.shape[axis] - 1) * stride + 1
            window = lax.slice_in_dim(window, offset, last, stride, axis=axis)
        return lax.dot_general(window.reshape(-1, channels), outputs, (((0,), (0,)), ((), ())))

    products = [tap_gradient(offsets) for offsets in itertools.product(range(taps), range(height), range(width))]
    return jnp.stack(products).reshape(kernel.shape)
