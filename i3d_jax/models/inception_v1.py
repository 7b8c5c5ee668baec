"""Inception-v1 with batch normalisation, the network of images that the paper begins with (TF-Slim, `inception_v1.py`).

The names of its variables and endpoints are TF-Slim's, and so is its padding.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float, Float32

from i3d_jax.clips import CHANNELS, STREAMS
from i3d_jax.models import inception
from i3d_jax.models.network import FLOW_STACK, Clip, InceptionNetwork, check_size, with_predictions
from i3d_jax.shapes import AnyArray
from i3d_jax.system.errors import UserError


class InceptionV1(InceptionNetwork):
    """Inception-v1 over single frames, or over stacks of ten fields of flow.

    Attributes:
      stream: "rgb" (3 channels) or "flow" (20: u and v of the first field, then of the next).
    """

    stream: str = "rgb"

    sees_videos = False
    image_trunks = ("",)
    training_clip = Clip(1, 1, 224)
    test_clip = Clip(1, 1, 224)

    def __post_init__(self):
        self.refuse_unless_one_of(stream=STREAMS)
        super().__post_init__()

    @property
    def streams(self) -> tuple[str, ...]:
        """The one stream that it sees."""
        return (self.stream,)

    @property
    def channels(self) -> int:
        """Channels of its images."""
        return CHANNELS["rgb"] if self.stream == "rgb" else FLOW_STACK * CHANNELS["flow"]

    def input_shapes(self, frames: int, size: int) -> dict[str, tuple[int, ...]]:
        """The shape of its input: it sees one image, whatever the number of frames."""
        del frames
        return {self.stream: (size, size, self.channels)}

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Float[AnyArray, "batch ..."]], train: bool = False
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float[Array, "batch ..."]]]:
        """Scores images.

        Args:
          inputs: {stream: float [B, H, W, 3 or 20]} with values in [-1, 1]; H and W at least 32. The last pool is 7x7:
            at sizes below 224 it covers what is left, at larger ones it slides.
          train: whether to use the batch's statistics and dropout (which needs the rng "dropout").

        Returns:
          Logits, float32 [B, num_classes], averaged over space, and the endpoints by TF-Slim's names; besides these,
          "features" float32 [B, C] is the last pool averaged over space, "Logits" the logits and "Predictions" their
          softmax.

        Raises:
          UserError: the stream is missing, or the image is too small or has another number of channels.
        """
        if self.stream not in inputs:
            raise UserError(f"Inception-v1 expects {self.stream!r}, found {', '.join(sorted(inputs)) or 'none'}")
        images = inputs[self.stream]
        if images.ndim != 4 or images.shape[-1] != self.channels:
            raise UserError(
                f"Inception-v1 expects {self.stream} of shape [batch, height, width, {self.channels}], "
                f"found {list(images.shape)}"
            )
        check_size(images, model="Inception-v1", minimum_size=inception.MINIMUM_SIZE)
        endpoints = inception.trunk(
            images.astype(self.dtype),
            train,
            unit=self.unit(),
            width_multiplier=self.width_multiplier,
            stem_padding=self.stem_padding,
            last_block=self.last_block,
            rematerialise=self.rematerialise,
        )
        pooled = inception.last_pool(endpoints[self.last_block])
        endpoints["features"] = pooled.mean((1, 2))
        scores = inception.Classifier(self.num_classes, name="Logits")(self.dropout(pooled, train))
        return with_predictions(scores.mean((1, 2)), endpoints)
