"""3D-Fused Two-Stream: the features of two image networks, fused by a 3D convolution (paper, section 2.4).

Open in the paper: the stride of the last max-pool and what the fully connected layer sees. Its 39 million parameters
leave room for a classifier of a vector of 512 only; so the pool has stride 2 (5x7x7 becomes 3x4x4), and the mean over
that grid goes to the classifier. "Gaussian noise", with which the new layers start, is here the release's: normal, of
deviation 1 / sqrt(fan in), cut off at two deviations.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from i3d_jax.models import inception
from i3d_jax.models.layers import release_initializer, run_block
from i3d_jax.models.network import STREAM_SCOPES, Clip, SnapshotNetwork, with_predictions
from i3d_jax.models.pooling import MaxPool
from i3d_jax.shapes import AnyArray

FRAMES = 5
FUSED_FEATURES = 512


class Fused(SnapshotNetwork):
    """Two Inception-v1 up to their last block; over five snapshots, a 3x3x3 convolution, a max-pool, a classifier.

    With one stream there is one Inception-v1, and the convolution sees its 1024 channels alone.
    """

    training_clip = Clip(FRAMES, 10, 224)
    test_clip = Clip(25, 10, 224)

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Float[AnyArray, "batch ..."]], train: bool = False
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float[Array, "batch ..."]]]:
        """Scores clips; of a longer video the logits of its clips of five snapshots are averaged.

        Args:
          inputs: of the streams that it sees, "rgb" float [B, 5 n, H, W, 3] and "flow" float [B, 50 n, H, W, 2] in
            [-1, 1]: ten fields of flow for each frame, in order; n is 1 in training and 5 in the paper's tests. H and
            W at least 32.
          train: whether to use the batch's statistics and dropout (which needs the rng "dropout").

        Returns:
          Logits, float32 [B, num_classes], and the endpoints: of the trunks under "RGB/…" and "Flow/…", each
          [B, 5 n, ...]; "Concatenated" and "Fusion" [B, 5 n, 7, 7, C] and "MaxPool" [B, 3 n, 4, 4, C] of frames of 224;
          "features" float32 [B, n, 512]; "Logits" and "Predictions".

        Raises:
          UserError: a stream is missing or too small, or the numbers of frames do not go together.
        """
        endpoints: dict[str, Array] = {}
        grids = []
        for stream, images in self.snapshots(inputs, model="fused", frames_per_clip=FRAMES).items():
            batch, name = images.shape[0], STREAM_SCOPES[stream]
            trunk = inception.ImageTrunk(
                self.unit(), self.width_multiplier, self.stem_padding, self.last_block, self.rematerialise, name=name
            )
            own = trunk(images.reshape(-1, *images.shape[2:]).astype(self.dtype), train)
            endpoints |= {
                f"{name}/{key}": value.reshape(*images.shape[:2], *value.shape[1:]) for key, value in own.items()
            }
            last = own[self.last_block]
            grids.append(last.reshape(-1, FRAMES, *last.shape[1:]))

        concatenated = jnp.concatenate(grids, axis=-1)
        features = inception.scaled(FUSED_FEATURES, self.width_multiplier)
        fusion = self.unit()(features, (3, 3, 3), name="Fusion")
        pool = MaxPool((3, 3, 3), (2, 2, 2))
        fused, pooled = run_block(fusion, concatenated, train, pool, rematerialise=self.rematerialise)
        for name, value in (("Concatenated", concatenated), ("Fusion", fused), ("MaxPool", pooled)):
            endpoints[name] = value.reshape(batch, -1, *value.shape[2:])
        endpoints["features"] = pooled.astype(jnp.float32).mean((1, 2, 3)).reshape(batch, -1, features)
        classifier = nn.Dense(self.num_classes, kernel_init=release_initializer, name="Logits")
        scores = classifier(self.dropout(endpoints["features"], train))
        return with_predictions(scores.mean(1), endpoints)
