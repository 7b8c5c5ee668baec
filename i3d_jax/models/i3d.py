"""I3D: Inception-v1 inflated to three dimensions, one stream or both (paper, section 2.5; release, `i3d.py`).

The names of a stream's variables are those of the release's checkpoints.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float, Float32, Integer

from i3d_jax.clips import STREAMS
from i3d_jax.models import inception
from i3d_jax.models.lowering import TEMPORAL_PADDINGS
from i3d_jax.models.network import STREAM_SCOPES, Clip, InceptionNetwork, cross_entropy, frames_of, with_predictions
from i3d_jax.shapes import AnyArray
from i3d_jax.system.errors import UserError

# Fewer frames leave less than the two steps that the last average pool takes.
MINIMUM_FRAMES = 9


def _pooled_centres(steps: int) -> list[float]:
    return [(step + 1) / (steps + 1) for step in range(steps)]


class I3D(InceptionNetwork):
    """One stream of the Two-Stream I3D.

    Attributes:
      stream: "rgb" (3 channels) or "flow" (2).
      temporal_padding: "zeros" (the release) or "replicate", as in `layers.Convolution`.
    """

    stream: str = "rgb"
    temporal_padding: str = "zeros"

    image_trunks = ("",)
    training_clip = Clip(64, 1, 224)
    test_clip = Clip(250, 1, 224)

    def __post_init__(self):
        self.refuse_unless_one_of(stream=STREAMS, temporal_padding=TEMPORAL_PADDINGS)
        super().__post_init__()

    @property
    def streams(self) -> tuple[str, ...]:
        """The one stream that it sees."""
        return (self.stream,)

    @property
    def flow_per_frame(self) -> int:
        """One field a frame, if it sees flow."""
        return int(self.stream == "flow")

    def step_centres(self, steps: int) -> list[float]:
        """As in `Network`; a step of the last pool takes two neighbours of eight frames each."""
        return _pooled_centres(steps)

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Float[AnyArray, "batch ..."]], train: bool = False
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float[Array, "batch ..."]]]:
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
        clips = frames_of(inputs, self.stream, model="I3D", minimum_size=inception.MINIMUM_SIZE)
        if clips.shape[1] < MINIMUM_FRAMES:
            raise UserError(f"I3D needs clips of at least {MINIMUM_FRAMES} frames, found {clips.shape[1]}")
        endpoints = inception.trunk(
            clips.astype(self.dtype),
            train,
            unit=self.unit(temporal_padding=self.temporal_padding),
            width_multiplier=self.width_multiplier,
            stem_padding=self.stem_padding,
            last_block=self.last_block,
            rematerialise=self.rematerialise,
        )
        pooled = inception.last_pool(endpoints[self.last_block])
        endpoints["features"] = pooled.mean((2, 3))
        scores = inception.Classifier(self.num_classes, name="Logits")(self.dropout(pooled, train))
        return with_predictions(scores.mean((1, 2, 3)), endpoints)


class TwoStreamI3D(InceptionNetwork):
    """Both streams of I3D side by side; its logits are the sum of theirs, as in the release's `evaluate_sample.py`.

    The paper trains the streams apart. Here the loss is the sum of the streams' own, which has the same gradients.

    Attributes:
      temporal_padding: as in `I3D`.
    """

    temporal_padding: str = "zeros"

    streams = STREAMS
    flow_per_frame = 1
    image_trunks = tuple(STREAM_SCOPES.values())
    training_clip = I3D.training_clip
    test_clip = I3D.test_clip

    def __post_init__(self):
        self.refuse_unless_one_of(temporal_padding=TEMPORAL_PADDINGS)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Float[AnyArray, "batch ..."]], train: bool = False
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float[Array, "batch ..."]]]:
        """Scores clips.

        Args:
          inputs: "rgb" float [B, T, H, W, 3] and "flow" float [B, T', H, W, 2], as `I3D` takes them.
          train: as in `I3D`.

        Returns:
          Logits, float32 [B, num_classes], and the endpoints of the streams under "RGB/…" and "Flow/…", with "Logits"
          and "Predictions" of the sum.

        Raises:
          UserError: as in `I3D`.
        """
        options = {**self.shared_options(), "temporal_padding": self.temporal_padding}
        logits: list[Array] = []
        endpoints: dict[str, Array] = {}
        for stream, name in STREAM_SCOPES.items():
            own_logits, own = I3D(stream=stream, name=name, **options)(inputs, train)
            logits.append(own_logits)
            endpoints |= {f"{name}/{endpoint}": value for endpoint, value in own.items()}
        return with_predictions(functools.reduce(operator.add, logits), endpoints)

    def step_centres(self, steps: int) -> list[float]:
        """As in `I3D`."""
        return _pooled_centres(steps)

    def classifier_inputs(
        self, endpoints: Mapping[str, Float[AnyArray, "batch ..."]]
    ) -> dict[str, Float32[AnyArray, "batch n channels"]]:
        """The last pool of each stream, averaged over space: float32 [B, T', C] by the scope of its classifier."""
        return {f"{scope}/Logits": endpoints[f"{scope}/features"] for scope in self.image_trunks}

    def logits_of(
        self, scores: Mapping[str, Float32[Array, "batch n classes"]]
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float32[Array, "batch ..."]]]:
        """The sum of the streams' logits, and those of each stream."""
        endpoints = {scope: own.mean(1) for scope, own in scores.items()}
        return functools.reduce(operator.add, endpoints.values()), endpoints

    def clip_losses(
        self,
        logits: Float[AnyArray, "batch classes"],
        endpoints: Mapping[str, Float[AnyArray, "batch ..."]],
        labels: Integer[AnyArray, " batch"],
        label_smoothing: float = 0.0,
    ) -> Float[Array, " batch"]:
        """The sum of the two streams' cross-entropies, float32 [B]."""
        del logits
        losses = [cross_entropy(own, labels, label_smoothing) for own in self.stream_logits(endpoints).values()]
        return functools.reduce(operator.add, losses)

    def stream_logits(
        self, endpoints: Mapping[str, Float[AnyArray, "batch ..."]]
    ) -> dict[str, Float32[AnyArray, "batch classes"]]:
        """The logits of each stream alone, float32 [B, num_classes] by stream; their sum is the network's."""
        return {stream: endpoints[f"{name}/Logits"] for stream, name in STREAM_SCOPES.items()}
