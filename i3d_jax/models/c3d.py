"""3D-ConvNet: C3D with batch normalisation, its first pool at temporal stride 2 (paper, section 2.2; Tran et al. 2015).

Eight convolutions of 3x3x3, five max-pools, two fully connected layers of 4096; batch normalisation and ReLU after each
but the classifier. Pools pad (SAME), so that 16x112x112 becomes 8x56x56, 4x28x28, 2x14x14, 1x7x7 and 1x4x4.

Open in the paper: whether logits or probabilities are averaged over a video's clips. Here logits, as the released I3D
averages over time.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from i3d_jax.models.batch_norm import batch_normalised_relu
from i3d_jax.models.inception import scaled
from i3d_jax.models.layers import release_initializer, run_block
from i3d_jax.models.network import Clip, Network, frames_of, with_predictions
from i3d_jax.models.pooling import MaxPool
from i3d_jax.shapes import AnyArray
from i3d_jax.system.errors import UserError

# Channels of the convolutions by their names in C3D, each with the pool that follows it.
CONVOLUTIONS = {
    "conv1a": (64, "pool1"),
    "conv2a": (128, "pool2"),
    "conv3a": (256, None),
    "conv3b": (256, "pool3"),
    "conv4a": (512, None),
    "conv4b": (512, "pool4"),
    "conv5a": (512, None),
    "conv5b": (512, "pool5"),
}
POOL = MaxPool((2, 2, 2), (2, 2, 2))
FULLY_CONNECTED = {"fc6": 4096, "fc7": 4096}
FRAMES = 16


class C3D(Network):
    """A network of clips of 16 frames; of a longer video the scores of its clips are averaged.

    Attributes:
      frame_size: pixels of a side of its frames, square; the first fully connected layer is made for it.
    """

    frame_size: int = 112

    streams = ("rgb",)
    # As the original implementation, which the paper follows, cuts them: from frames of 128x171.
    training_clip = Clip(FRAMES, 1, 112, short_side=128)
    test_clip = Clip(15 * FRAMES, 1, 112, short_side=128)

    def __post_init__(self):
        self.refuse_below_one("frame_size")
        super().__post_init__()

    def example_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs that it was made for, without the batch's axis: a clip of its frame size."""
        return self.input_shapes(FRAMES, self.frame_size)

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Float[AnyArray, "batch ..."]], train: bool = False
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float[Array, "batch ..."]]]:
        """Scores clips or whole videos.

        Args:
          inputs: {"rgb": float [B, T, S, S, 3]} in [-1, 1], S the option `frame_size`; T at least 16. A video is cut
            into T // 16 clips, one after the other; frames after the last whole clip play no part.
          train: whether to use the batch's statistics and dropout (which needs the rng "dropout").

        Returns:
          Logits, float32 [B, num_classes], averaged over the clips, and the endpoints by C3D's names: of convolutions
          and pools [B, clips * steps, H, W, C], of "fc6" and "fc7" [B, clips, 4096], with "features" (as "fc7"),
          "Logits" and "Predictions".

        Raises:
          UserError: the stream is missing, of another shape, too short, or its frames are of another size.
        """
        videos = frames_of(inputs, "rgb", model="c3d", minimum_size=1)
        batch, frames, height, width = videos.shape[:4]
        if frames < FRAMES:
            raise UserError(f"c3d needs clips of at least {FRAMES} frames, found {frames}")
        if (height, width) != (self.frame_size, self.frame_size):
            raise UserError(
                f"c3d was made for frames of {self.frame_size}x{self.frame_size} pixels (its option frame_size), "
                f"found {width}x{height}"
            )
        clips = frames // FRAMES
        outputs = videos[:, : clips * FRAMES].reshape(batch * clips, FRAMES, *videos.shape[2:]).astype(self.dtype)
        unit = self.unit()
        endpoints: dict[str, Array] = {}
        for name, (features, pool_name) in CONVOLUTIONS.items():
            block = unit(scaled(features, self.width_multiplier), (3, 3, 3), name=name)
            pool = POOL if pool_name else None
            whole, outputs = run_block(block, outputs, train, pool, rematerialise=self.rematerialise)
            endpoints[name] = whole.reshape(batch, -1, *whole.shape[2:])
            if pool_name:
                endpoints[pool_name] = outputs.reshape(batch, -1, *outputs.shape[2:])
        outputs = outputs.reshape(batch * clips, -1)
        for name, features in FULLY_CONNECTED.items():
            layer = _FullyConnected(
                scaled(features, self.width_multiplier), self.batch_norm_decay, self.dtype, name=name
            )
            outputs = self.dropout(layer(outputs, train and self.batch_norm == "train"), train)
            endpoints[name] = outputs.reshape(batch, clips, -1)
        endpoints["features"] = endpoints["fc7"].astype(jnp.float32)
        classifier = nn.Dense(self.num_classes, kernel_init=release_initializer, name="Logits")
        return with_predictions(classifier(endpoints["features"]).mean(1), endpoints)


class _FullyConnected(nn.Module):
    features: int
    batch_norm_decay: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, inputs, train):
        outputs = nn.Dense(
            self.features, use_bias=False, kernel_init=release_initializer, dtype=self.dtype, name="fully_connected"
        )(inputs)
        outputs, _ = batch_normalised_relu(outputs, train, decay=self.batch_norm_decay, dtype=self.dtype)
        return outputs
