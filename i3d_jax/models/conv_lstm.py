"""ConvNet+LSTM: Inception-v1 of each frame, then a batch-normalised LSTM (paper, section 2.1; Cooijmans et al. 2016).

Open in the paper: the details of the batch-normalised LSTM. Here it is DeepMind's own of the time (Sonnet 1's
`BatchNormLSTM`), as the authors will have used it:

    gates i, j, f, o = gain_x BN(x W_x) + gain_h BN(h W_h) + b,   c' = sigmoid(f + 1) c + sigmoid(i) tanh(j),
    h' = sigmoid(o) tanh(c')

with gains that begin at 0.1 (Cooijmans et al., section 3.3: larger ones make the gradient vanish) and statistics of
their own for each time step, since the state is far from stationary in the first steps. A step after the last that has
been trained uses the last one's: the network is trained on 25 steps and tested on 50.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Integer

from i3d_jax.models import inception
from i3d_jax.models.batch_norm import BATCH_NORM_EPSILON
from i3d_jax.models.layers import release_initializer
from i3d_jax.models.network import Clip, InceptionNetwork, cross_entropy, frames_of, with_predictions
from i3d_jax.shapes import AnyArray
from i3d_jax.system.errors import UserError

UNITS = 512
FORGET_BIAS = 1.0
INITIAL_GAIN = 0.1


class ConvLSTM(InceptionNetwork):
    """Inception-v1 up to its last average pool, an LSTM of 512 units, a classifier of every step.

    Attributes:
      statistics_steps: time steps that have batch statistics of their own, at least as many as training clips have.
    """

    statistics_steps: int = 25

    streams = ("rgb",)
    image_trunks = ("InceptionV1",)
    training_clip = Clip(25, 5, 224)
    test_clip = Clip(50, 5, 224)

    def __post_init__(self):
        self.refuse_below_one("statistics_steps")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Float[AnyArray, "batch ..."]], train: bool = False
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float[Array, "batch ..."]]]:
        """Scores clips by the LSTM's last step.

        Args:
          inputs: {"rgb": float [B, T, H, W, 3]} in [-1, 1]: the frames that it steps over, one in five of a video of 25
            frames a second. H and W at least 32.
          train: whether to use the batch's statistics and dropout (which needs the rng "dropout").

        Returns:
          Logits of the last step, float32 [B, num_classes], and the endpoints: TF-Slim's under "InceptionV1/…", each
          [B, T, ...], "features" float32 [B, T, 1024], "LSTM" float32 [B, T, 512], "StepLogits" float32
          [B, T, num_classes], and "Logits" and "Predictions" of the last step.

        Raises:
          UserError: the stream is missing, of another shape or too small, or a training clip has more steps than there
            are statistics.
        """
        clips = frames_of(inputs, "rgb", model="conv_lstm", minimum_size=inception.MINIMUM_SIZE)
        batch, steps = clips.shape[:2]
        if steps < 1:
            raise UserError("conv_lstm needs clips of at least 1 frame, found 0")
        if train and steps > self.statistics_steps:
            raise UserError(
                f"conv_lstm keeps statistics of {self.statistics_steps} steps, found training clips of {steps}: "
                "raise the option statistics_steps"
            )
        frames = clips.reshape(-1, *clips.shape[2:]).astype(self.dtype)
        trunk = inception.ImageTrunk(
            self.unit(),
            self.width_multiplier,
            self.stem_padding,
            self.last_block,
            self.rematerialise,
            name="InceptionV1",
        )
        endpoints = {
            f"InceptionV1/{name}": value.reshape(batch, steps, *value.shape[1:])
            for name, value in trunk(frames, train).items()
        }
        last = endpoints[f"InceptionV1/{self.last_block}"]
        pooled = inception.last_pool(last.reshape(-1, *last.shape[2:])).mean((1, 2))
        features = pooled.reshape(batch, steps, -1)
        outputs = BatchNormalisedLSTM(
            inception.scaled(UNITS, self.width_multiplier),
            statistics_steps=self.statistics_steps,
            decay=self.batch_norm_decay,
            name="LSTM",
        )(features, train and self.batch_norm == "train")
        classifier = nn.Dense(self.num_classes, kernel_init=release_initializer, name="Logits")
        step_logits = classifier(self.dropout(outputs, train))
        endpoints |= {"features": features, "LSTM": outputs, "StepLogits": step_logits}
        return with_predictions(step_logits[:, -1], endpoints)

    def classifier_inputs(
        self, endpoints: Mapping[str, Float[AnyArray, "batch ..."]]
    ) -> dict[str, Float32[AnyArray, "batch n channels"]]:
        """The LSTM's output at every step, float32 [B, T, 512]: the loss is of every step."""
        return {"Logits": endpoints["LSTM"]}

    def logits_of(
        self, scores: Mapping[str, Float32[Array, "batch n classes"]]
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float32[Array, "batch ..."]]]:
        """The scores of the last step, and those of every step."""
        return scores["Logits"][:, -1], {"StepLogits": scores["Logits"]}

    def clip_losses(
        self,
        logits: Float[AnyArray, "batch classes"],
        endpoints: Mapping[str, Float[AnyArray, "batch ..."]],
        labels: Integer[AnyArray, " batch"],
        label_smoothing: float = 0.0,
    ) -> Float[Array, " batch"]:
        """The cross-entropy at every time step, averaged over the steps (paper, section 2.1), float32 [B]."""
        del logits
        scores = endpoints["StepLogits"]
        labels = jnp.broadcast_to(labels[:, None], scores.shape[:2])
        return cross_entropy(scores, labels, label_smoothing).mean(1)


class BatchNormalisedLSTM(nn.Module):
    """The LSTM at the head of this file; it begins with zeros for its state.

    Attributes:
      units: of the state.
      statistics_steps: time steps that have batch statistics of their own.
      decay: how much of the running statistics one training step keeps, 0 to 1.
    """

    units: int
    statistics_steps: int
    decay: float

    @nn.compact
    def __call__(
        self, inputs: Float32[AnyArray, "batch time channels"], train: bool
    ) -> Float32[Array, "batch time units"]:
        """Maps float32 [B, T, C] to the outputs h of every step, float32 [B, T, units].

        If `train`, each step is normalised by the batch's statistics, and T is at most `statistics_steps`.
        """
        gates = 4 * self.units
        input_kernel = self.param("input_kernel", release_initializer, (inputs.shape[-1], gates), jnp.float32)
        hidden_kernel = self.param("hidden_kernel", release_initializer, (self.units, gates), jnp.float32)
        gain = nn.initializers.constant(INITIAL_GAIN)
        input_gain = self.param("input_gain", gain, (gates,), jnp.float32)
        hidden_gain = self.param("hidden_gain", gain, (gates,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (gates,), jnp.float32)
        running = {
            f"{part}_{name}": self.variable("batch_stats", f"{part}_{name}", fill, (self.statistics_steps, gates))
            for part in ("input", "hidden")
            for name, fill in (("mean", jnp.zeros), ("var", jnp.ones))
        }

        batch, steps = inputs.shape[:2]
        of_step = jnp.minimum(jnp.arange(steps), self.statistics_steps - 1)
        stored = {name: variable.value[of_step] for name, variable in running.items()}

        def statistics(part, values, step_stored):
            if train:
                return values.mean(0), values.var(0)
            return step_stored[f"{part}_mean"], step_stored[f"{part}_var"]

        def step(state, scanned):
            cell, hidden = state
            from_input, step_stored = scanned
            from_hidden = hidden @ hidden_kernel
            used: dict[str, Array] = {}
            total = bias
            for part, values, part_gain in (("input", from_input, input_gain), ("hidden", from_hidden, hidden_gain)):
                mean, variance = statistics(part, values, step_stored)
                used |= {f"{part}_mean": mean, f"{part}_var": variance}
                total = total + part_gain * (values - mean) * lax.rsqrt(variance + BATCH_NORM_EPSILON)
            input_gate, cell_input, forget_gate, output_gate = jnp.split(total, 4, axis=-1)
            cell = nn.sigmoid(forget_gate + FORGET_BIAS) * cell + nn.sigmoid(input_gate) * jnp.tanh(cell_input)
            hidden = nn.sigmoid(output_gate) * jnp.tanh(cell)
            return (cell, hidden), (hidden, used)

        projected = (inputs @ input_kernel).swapaxes(0, 1)
        zeros = jnp.zeros((batch, self.units), jnp.float32)
        _, (outputs, used) = lax.scan(step, (zeros, zeros), (projected, stored))
        if train and not self.is_initializing():
            # The steps after the clip's last take its statistics, so that longer clips find some at test.
            filled = jnp.minimum(jnp.arange(self.statistics_steps), steps - 1)
            for name, variable in running.items():
                variable.value = self.decay * variable.value + (1 - self.decay) * used[name][filled]
        return outputs.swapaxes(0, 1)
