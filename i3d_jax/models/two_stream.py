"""Two-Stream: two Inception-v1, one of a frame and one of the flow around it (paper, sections 2.3 and 3).

Open in the paper: which predictions are averaged. Here it is the logits, of streams and of snapshots alike, as the
released I3D adds its streams' logits; so the loss through the average keeps a gradient where one stream is sure and
wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax

from i3d_jax.models import inception
from i3d_jax.models.inception_v1 import InceptionV1
from i3d_jax.models.network import FLOW_STACK, Clip, InceptionNetwork, snapshots, with_predictions


class TwoStream(InceptionNetwork):
    """One network of frames and one of stacks of ten fields of flow, trained end to end through their average."""

    streams = ("rgb", "flow")
    flow_per_frame = FLOW_STACK
    image_trunks = ("RGB", "Flow")
    training_clip = Clip(1, 10, 224)
    test_clip = Clip(25, 10, 224)

    @nn.compact
    def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Scores clips: the mean over streams and snapshots.

        Args:
          inputs: "rgb" float [B, n, H, W, 3] and "flow" float [B, 10 n, H, W, 2] in [-1, 1]: ten fields of flow for
            each frame, in order; n is 1 in training and 25 in the paper's tests. H and W at least 32.
          train: whether to use the batch's statistics and dropout (which needs the rng "dropout").

        Returns:
          Logits, float32 [B, num_classes], and the endpoints of the streams under "RGB/…" and "Flow/…", each
          [B, n, ...], with "Logits" and "Predictions" of the average.

        Raises:
          UserError: a stream is missing or too small, or there are not ten fields for each frame.
        """
        frames, stacks = snapshots(inputs, model="two_stream", frames_per_clip=1, minimum_size=inception.MINIMUM_SIZE)
        logits, endpoints = [], {}
        for stream, name, images in zip(self.streams, self.image_trunks, (frames, stacks), strict=True):
            flat = images.reshape(-1, *images.shape[2:])
            own_logits, own = InceptionV1(stream=stream, name=name, **self.shared_options())({stream: flat}, train)
            logits.append(own_logits)
            batch = images.shape[:2]
            endpoints |= {f"{name}/{key}": value.reshape(*batch, *value.shape[1:]) for key, value in own.items()}
        return with_predictions(sum(logits).reshape(*batch, -1).mean(1) / 2, endpoints)

    def stream_logits(self, endpoints: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The logits of each stream alone, the mean over its snapshots: float32 [B, num_classes] by stream.

        Their average is the network's.
        """
        return {
            stream: endpoints[f"{name}/Logits"].mean(1)
            for stream, name in zip(self.streams, self.image_trunks, strict=True)
        }
