"""Inflation: the variables of an image network become those of a video network (paper, section 2.5).

An NxN kernel becomes NxNxN by repeating it N times along time and dividing by N, so that a video that repeats one image
gives that image's activations (the boring-video fixed point). Offsets and statistics are copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from i3d_jax.errors import UserError

PROFILES = ("average", "centre")


def inflate(
    variables_2d: Mapping[str, Any], template: Mapping[str, Any], *, profile: str = "average"
) -> dict[str, Any]:
    """Gives the variables of an image network the shapes of a video network.

    Kernels [h, w, C, features] become [t, h, w, C, features]; other leaves keep their shape. A kernel over 3 input
    channels whose template has another number (2 or 20 for flow) becomes the mean over the 3, for every channel: the
    common rule, the paper leaves it open.

    Args:
      variables_2d: pytree of dictionaries, such as {"params", "batch_stats"}.
      template: the same of arrays or `jax.ShapeDtypeStruct`; its names are those of `variables_2d`.
      profile: how a kernel is spread over time: "average" (the paper: the same at every tap, divided by their number)
        or "centre" (all of it at the middle tap; zeros elsewhere).

    Returns:
      Variables with the template's names, shapes and dtypes.

    Raises:
      UserError: names that only one side has, or shapes that no inflation joins, of both sides; an unknown profile.
    """
    if profile not in PROFILES:
        raise UserError(f"the profile of an inflation must be one of {', '.join(PROFILES)}, found {profile!r}")
    images, videos = (flax.traverse_util.flatten_dict(dict(tree), sep="/") for tree in (variables_2d, template))
    problems = []
    for side, own, other in (("image", images, videos), ("video", videos, images)):
        if names := [name for name in own if name not in other]:
            problems.append(f"only the {side} network has {', '.join(names[:4])}" + _more(names[4:]))
    inflated = {}
    for name, wanted in videos.items():
        if name not in images:
            continue
        leaf = jnp.asarray(images[name])
        if leaf.ndim == 4 and len(wanted.shape) == 5:
            leaf = _spread(_fit_channels(leaf, wanted.shape[3]), wanted.shape[0], profile)
        if leaf.shape != wanted.shape:
            problems.append(
                f"{name} is {list(images[name].shape)} in the image network, {list(wanted.shape)} in the video"
            )
        inflated[name] = leaf.astype(wanted.dtype)
    if problems:
        raise UserError("the image network does not inflate to the video network: " + "; ".join(problems[:6]))
    return flax.traverse_util.unflatten_dict(inflated, sep="/")


def _more(names: Sequence[str]) -> str:
    return f" and {len(names)} more" if names else ""


def _fit_channels(kernel: jax.Array, channels: int) -> jax.Array:
    if kernel.shape[2] == 3 and channels != 3:
        return jnp.repeat(kernel.mean(2, keepdims=True), channels, axis=2)
    return kernel


def _spread(kernel: jax.Array, taps: int, profile: str) -> jax.Array:
    if profile == "centre":
        return jnp.zeros((taps, *kernel.shape), kernel.dtype).at[taps // 2].set(kernel)
    return jnp.repeat(kernel[None], taps, axis=0) / taps
