"""Inflates an imported image network, and checks it: a video that repeats one image gives the image's activations.

That is the paper's boring-video fixed point (section 2.5).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from i3d_jax import inflation, models
from i3d_jax.importers.imported import Imported
from i3d_jax.models import inception

FRAMES = 16
SIZE = 224


class Deviation(NamedTuple):
    """How far an inflated network is from its image network.

    Attributes:
      relative: the greatest difference at an endpoint over the endpoint's greatest activation.
      endpoint: the endpoint of the video network at which it is greatest.
      endpoints: how many were compared.
    """

    relative: float
    endpoint: str
    endpoints: int


def inflated(image: Imported, *, stream: str, profile: str) -> Imported:
    """Makes an `i3d` of an image network, classifier included: it scores the image network's classes.

    Args:
      image: the image network.
      stream: "rgb" or "flow".
      profile: as in `inflation.inflate`.
    """
    options = {**image.options, "stream": stream, "temporal_padding": "zeros"}
    template = models.template(models.create("i3d", image.num_classes, **options))
    variables = inflation.inflate(image.variables, template, profile=profile)
    return dataclasses.replace(image, model="i3d", options=options, variables=variables)


def deviation(image: Imported, video: Imported, *, seed: int = 0) -> Deviation:
    """Compares all endpoints that an image network and the `i3d` inflated from it share, on a random image.

    Time is padded with copies of the first and the last frame, where the law is exact at every step. For flow the image
    is grey: the stem's kernel over 2 channels is the mean of the one over 3, twice, so that flow of 3/2 of the grey
    value in both channels gives the stem exactly what the grey image gives it.

    Args:
      image: the image network.
      video: the video network.
      seed: of the image.
    """
    frame = np.random.default_rng(seed).uniform(-1, 1, (1, SIZE, SIZE, 3)).astype(np.float32)
    stream, boring = video.options["stream"], frame
    if stream == "flow":
        boring = np.repeat(frame[..., :1], 2, axis=-1)
        frame = np.repeat(frame[..., :1] * np.float32(2 / 3), 3, axis=-1)
    image_model = models.create(image.model, image.num_classes, **image.options)
    video_model = models.create(video.model, video.num_classes, **{**video.options, "temporal_padding": "replicate"})
    # Accelerators round float32 products to fewer digits by themselves, which would hide a small mistake.
    with jax.default_matmul_precision("highest"):
        _, expected = jax.jit(image_model.apply)(image.variables, {"rgb": frame})
        _, found = jax.jit(video_model.apply)(video.variables, {stream: np.repeat(boring[:, None], FRAMES, axis=1)})
    return greatest_deviation(expected, found)


def greatest_deviation(expected: Mapping[str, jax.Array], found: Mapping[str, jax.Array]) -> Deviation:
    """Compares the endpoints of an image network with those that a video network calls alike.

    Args:
      expected: {name: [1, ...]}.
      found: {name: [1, ...] or, with an axis of time, [1, T, ...]}.
    """
    compared = {}
    for name, activations in found.items():
        if (image_name := inception.image_name(name)) in expected:
            images, videos = np.asarray(expected[image_name]), np.asarray(activations)
            if videos.ndim > images.ndim:
                images = images[:, None]
            # An endpoint without any activation is compared with the smallest number, not divided by zero.
            greatest = max(np.abs(images).max(), np.finfo(np.float32).tiny)
            relative = float(np.abs(videos - images).max() / greatest)
            # No number would be smaller than any other, and be passed over.
            compared[name] = relative if math.isfinite(relative) else math.inf
    endpoint = max(compared, key=compared.__getitem__)
    return Deviation(compared[endpoint], endpoint, len(compared))
