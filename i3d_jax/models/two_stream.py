"""Two-Stream: two Inception-v1, one of a frame and one of the flow around it (paper, sections 2.3 and 3).

Open in the paper: which predictions are averaged. Here it is the logits, of streams and of snapshots alike, as the
released I3D adds its streams' logits; so the loss through the average keeps a gradient where one stream is sure and
wrong.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float, Float32

from i3d_jax.models.inception_v1 import InceptionV1
from i3d_jax.models.network import STREAM_SCOPES, Clip, SnapshotNetwork, with_predictions
from i3d_jax.shapes import AnyArray


class TwoStream(SnapshotNetwork):
    """One network of frames and one of stacks of ten fields of flow, trained end to end through their average.

    With one stream it is that stream's image network, of every snapshot, and nothing is averaged but snapshots.
    """

    training_clip = Clip(1, 10, 224)
    test_clip = Clip(25, 10, 224)

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Float[AnyArray, "batch ..."]], train: bool = False
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float[Array, "batch ..."]]]:
        """Scores clips: the mean over streams and snapshots.

        Args:
          inputs: of the streams that it sees, "rgb" float [B, n, H, W, 3] and "flow" float [B, 10 n, H, W, 2] in
            [-1, 1]: ten fields of flow for each frame, in order; n is 1 in training and 25 in the paper's tests. H and
            W at least 32.
          train: whether to use the batch's statistics and dropout (which needs the rng "dropout").

        Returns:
          Logits, float32 [B, num_classes], and the endpoints of the streams under "RGB/…" and "Flow/…", each
          [B, n, ...], with "Logits" and "Predictions" of the average.

        Raises:
          UserError: a stream is missing or too small, or there are not ten fields for each frame.
        """
        logits: list[Array] = []
        endpoints: dict[str, Array] = {}
        for stream, images in self.snapshots(inputs, model="two_stream", frames_per_clip=1).items():
            flat, name = images.reshape(-1, *images.shape[2:]), STREAM_SCOPES[stream]
            own_logits, own = InceptionV1(stream=stream, name=name, **self.shared_options())({stream: flat}, train)
            logits.append(own_logits)
            batch = images.shape[:2]
            endpoints |= {f"{name}/{key}": value.reshape(*batch, *value.shape[1:]) for key, value in own.items()}
        total = functools.reduce(operator.add, logits)
        return with_predictions(total.reshape(*batch, -1).mean(1) / len(logits), endpoints)

    def classifier_inputs(
        self, endpoints: Mapping[str, Float[AnyArray, "batch ..."]]
    ) -> dict[str, Float32[AnyArray, "batch n channels"]]:
        """The pooled features of each stream's snapshots: float32 [B, n, C] by the scope of its classifier."""
        return {f"{scope}/Logits": endpoints[f"{scope}/features"] for scope in self.image_trunks}

    def logits_of(
        self, scores: Mapping[str, Float32[Array, "batch n classes"]]
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float32[Array, "batch ..."]]]:
        """The mean over streams and snapshots, and the scores of each stream's snapshots."""
        return functools.reduce(operator.add, (own.mean(1) for own in scores.values())) / len(scores), dict(scores)

    def stream_logits(
        self, endpoints: Mapping[str, Float[AnyArray, "batch ..."]]
    ) -> dict[str, Float32[AnyArray, "batch classes"]]:
        """The logits of each stream alone, the mean over its snapshots: float32 [B, num_classes] by stream.

        Their average is the network's. Empty if it sees one stream only.
        """
        if len(self.streams) == 1:
            return {}
        return {stream: endpoints[f"{STREAM_SCOPES[stream]}/Logits"].mean(1) for stream in self.streams}
