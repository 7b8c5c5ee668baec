"""I3D: Inception-v1 inflated to three dimensions, one stream (paper, section 2.5; release, `i3d.py`)."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from i3d_jax.errors import UserError
from i3d_jax.models import inception
from i3d_jax.models.layers import Convolution, ConvolutionUnit, average_pool, max_pool

# Fewer frames leave less than the two steps that the last average pool takes; smaller frames leave no pixel.
MINIMUM_FRAMES = 9
MINIMUM_SIZE = 32
CHANNELS = {"rgb": 3, "flow": 2}


class I3D(nn.Module):
    """One stream of the Two-Stream I3D; the names of its variables are those of the release's checkpoints.

    Attributes:
      num_classes: class scores it gives.
      stream: "rgb" (3 channels) or "flow" (2).
      dropout_rate: share of the pooled features dropped in training, 0 up to 1.
      width_multiplier: scales the channels of every layer but the last; 1.0 is the paper's network.
      batch_norm_decay: how much of the running statistics one training step keeps; the release's is 0.999.
      dtype: dtype of the computation, float32 or bfloat16; parameters, statistics and logits are float32.
    """

    num_classes: int = 400
    stream: str = "rgb"
    dropout_rate: float = 0.5
    width_multiplier: float = 1.0
    batch_norm_decay: float = 0.999
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Scores clips.

        Args:
          inputs: {stream: float [B, T, H, W, 3 or 2]} with values in [-1, 1]; T at least 9, H and W at least 32. The
            last pool is 2x7x7: at sizes below 224 it covers what is left, at larger ones it slides.
          train: whether to use the batch's statistics and dropout (which needs the rng "dropout").

        Returns:
          Logits, float32 [B, num_classes], averaged over time and space, and the endpoints by the release's names;
          besides these, "features" float32 [B, T', C] is the last pool averaged over space, "Logits" the logits and
          "Predictions" their softmax.

        Raises:
          UserError: the stream is missing, or the clip is too short, too small or has another number of channels.
        """
        outputs = self._checked(inputs).astype(self.dtype)
        shared = {"batch_norm_decay": self.batch_norm_decay, "dtype": self.dtype}
        endpoints = {}
        for name, layer in inception.TRUNK.items():
            match layer:
                case inception.Unit(features, window, strides):
                    features = inception.scaled(features, self.width_multiplier)
                    outputs = ConvolutionUnit(features, window, strides, name=name, **shared)(outputs, train)
                case inception.Pool(window, strides):
                    outputs = max_pool(outputs, window, strides)
                case inception.Mixed():
                    outputs = inception.MixedBlock(layer, self.width_multiplier, name=name, **shared)(outputs, train)
            endpoints[name] = outputs

        height, width = outputs.shape[2:4]
        pooled = average_pool(outputs.astype(jnp.float32), (2, min(7, height), min(7, width)))
        endpoints["features"] = pooled.mean((2, 3))
        dropped = nn.Dropout(self.dropout_rate, deterministic=not train)(pooled)
        logits = _Logits(self.num_classes, name="Logits")(dropped).mean((1, 2, 3))
        endpoints["Logits"] = logits
        endpoints["Predictions"] = jax.nn.softmax(logits)
        return logits, endpoints

    def clip_losses(self, logits: jax.Array, endpoints: Mapping[str, jax.Array], labels: jax.Array) -> jax.Array:
        """The training loss of each clip, float32 [B]: the cross-entropy of logits [B, classes] and labels int [B]."""
        del endpoints
        scores = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(scores, labels[:, None], axis=-1)[:, 0]

    def _checked(self, inputs):
        if self.stream not in inputs:
            raise UserError(f"I3D expects the stream {self.stream!r}, found {', '.join(sorted(inputs)) or 'none'}")
        clips = inputs[self.stream]
        if clips.ndim != 5 or clips.shape[-1] != CHANNELS[self.stream]:
            raise UserError(
                f"I3D expects {self.stream} of shape [batch, time, height, width, {CHANNELS[self.stream]}], "
                f"found {list(clips.shape)}"
            )
        frames, *size = clips.shape[1:4]
        if frames < MINIMUM_FRAMES:
            raise UserError(f"I3D needs clips of at least {MINIMUM_FRAMES} frames, found {frames}")
        if min(size) < MINIMUM_SIZE:
            raise UserError(f"I3D needs frames of at least {MINIMUM_SIZE} pixels a side, found {size[1]}x{size[0]}")
        return clips


class _Logits(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, pooled):
        return Convolution(self.num_classes, (1, 1, 1), use_bias=True, name="Conv3d_0c_1x1")(pooled)
