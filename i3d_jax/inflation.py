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

from i3d_jax.models.network import CLASSIFIER
from i3d_jax.system.errors import UserError

PROFILES = ("average", "centre")


def inflate(
    variables_2d: Mapping[str, Any], template: Mapping[str, Any], *, profile: str = "average"
) -> dict[str, Any]:
    """Gives the variables of an image network the shapes of a video network, or of another image network.

    Kernels [h, w, C, features] become [t, h, w, C, features]; other leaves keep their shape. A kernel over 3 input
    channels whose template has another number (2 or 20 for flow) becomes the mean over the 3, for every channel: the
    common rule, the paper leaves it open.

    Args:
      variables_2d: pytree of dictionaries, such as {"params", "batch_stats"}.
      template: the same of arrays or `jax.ShapeDtypeStruct`; its names are those of `variables_2d`, with 3d where these
        have 2d ("Conv3d_1a_7x7/conv_3d" for "Conv2d_1a_7x7/conv_2d").
      profile: how a kernel is spread over time: "average" (the paper: the same at every tap, divided by their number)
        or "centre" (all of it at the middle tap; zeros elsewhere).

    Returns:
      Variables with the template's names, shapes and dtypes, as arrays of NumPy or of JAX.

    Raises:
      UserError: names that only one side has, or shapes that no inflation joins, of both sides; an unknown profile.
    """
    if profile not in PROFILES:
        raise UserError(f"the profile of an inflation must be one of {', '.join(PROFILES)}, found {profile!r}")
    images, videos = (flax.traverse_util.flatten_dict(dict(tree), sep="/") for tree in (variables_2d, template))
    sources = {name: name if name in images else name.replace("3d", "2d") for name in videos}
    problems = []
    for side, lacking in (
        ("image", [name for name in images if name not in set(sources.values())]),
        ("video", [name for name, source in sources.items() if source not in images]),
    ):
        if lacking:
            problems.append(f"only the {side} network has {', '.join(lacking[:4])}" + _more(lacking[4:]))
    inflated = {}
    for name, source in sources.items():
        if source not in images:
            continue
        leaf, wanted = images[source], videos[name]
        if leaf.ndim == 4 and len(wanted.shape) in (4, 5):
            leaf = _fit_channels(leaf, wanted.shape[-2])
            if len(wanted.shape) == 5:
                leaf = _spread(leaf, wanted.shape[0], profile)
        if leaf.shape != wanted.shape:
            problems.append(
                f"{source} is {list(images[source].shape)} in the image network, "
                f"{name} {list(wanted.shape)} in the video network"
            )
        inflated[name] = leaf.astype(wanted.dtype)
    if problems:
        raise UserError("the image network does not inflate to the video network: " + "; ".join(problems[:6]))
    return flax.traverse_util.unflatten_dict(inflated, sep="/")


def inflate_trunks(
    variables_2d: Mapping[str, Any],
    variables: Mapping[str, Any],
    scopes: Sequence[str],
    *,
    profile: str = "average",
) -> dict[str, Any]:
    """Starts the trunks of a network from an image network; its classifier and its other layers stay as they are.

    Args:
      variables_2d: of an image network, {"params", "batch_stats"}.
      variables: the network's own, which the result resembles in names, shapes and dtypes.
      scopes: where its trunks stand, as `Network.image_trunks` tells: "" for the whole network.
      profile: as in `inflate`.

    Raises:
      UserError: the network has no such trunks, or `inflate` raises it.
    """
    if not scopes:
        raise UserError("this architecture has no layers of an image network to start from: it is trained from scratch")
    images = {collection: _without_classifier(tree) for collection, tree in variables_2d.items()}
    started = {collection: dict(tree) for collection, tree in variables.items()}
    for scope in scopes:
        own = {collection: tree[scope] if scope else tree for collection, tree in started.items()}
        template = {collection: _without_classifier(tree) for collection, tree in own.items()}
        for collection, inflated in inflate(images, template, profile=profile).items():
            trunk = {**own[collection], **inflated}
            started[collection] = {**started[collection], scope: trunk} if scope else trunk
    return started


def with_classifier_of(variables: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables `others` with the classifiers (scopes named "Logits") of `variables`."""
    kept, taken = (flax.traverse_util.flatten_dict(dict(tree)) for tree in (variables, others))
    merged = {path: leaf for path, leaf in taken.items() if CLASSIFIER not in path}
    merged |= {path: leaf for path, leaf in kept.items() if CLASSIFIER in path}
    return flax.traverse_util.unflatten_dict(merged)


def _without_classifier(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: leaf for name, leaf in tree.items() if name != CLASSIFIER}


def _more(names: Sequence[str]) -> str:
    return f" and {len(names)} more" if names else ""


def _fit_channels(kernel: jax.Array, channels: int) -> jax.Array:
    if kernel.shape[2] == 3 and channels != 3:
        return kernel.mean(2, keepdims=True).repeat(channels, axis=2)
    return kernel


def _spread(kernel: jax.Array, taps: int, profile: str) -> jax.Array:
    if profile == "centre":
        return jnp.zeros((taps, *kernel.shape), kernel.dtype).at[taps // 2].set(kernel)
    return kernel[None].repeat(taps, axis=0) / taps
