"""What the architectures have in common: their options, their loss, and what they are given to see."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Integer

from i3d_jax.clips import CHANNELS, STREAMS
from i3d_jax.models import drawing, inception
from i3d_jax.models.layers import ConvolutionUnit
from i3d_jax.models.lowering import SPATIAL_PADDINGS
from i3d_jax.models.purpose import for_shapes
from i3d_jax.shapes import AnyArray
from i3d_jax.system.errors import UserError

# Fields of flow around one frame that the networks of images see at a time (paper, section 2.4).
FLOW_STACK = 10
# The scope of the layer that makes the class scores, in every architecture and in each of its streams.
CLASSIFIER = "Logits"
# The scope of each stream's variables and endpoints in a network that is made of both.
STREAM_SCOPES = {"rgb": "RGB", "flow": "Flow"}
# The option `stream` of a network that is made of both, or of one of them.
BOTH_STREAMS = "both"
BATCH_NORMS = ("train", "frozen")
DTYPES = ("float32", "bfloat16")


class Clip(NamedTuple):
    """A clip as the paper's Table 1 counts it.

    Attributes:
      frames: RGB frames, or steps of flow where there are none.
      stride: frames of the video from one of them to the next.
      size: pixels of a side.
      short_side: pixels of the shorter side of the frames that it is cut from; None: as they are stored.
    """

    frames: int
    stride: int
    size: int
    short_side: int | None = None


class Network(nn.Module):
    """An architecture; `model.apply(variables, inputs, train)` gives (logits float32 [B, num_classes], endpoints).

    Attributes:
      num_classes: class scores it gives.
      dropout_rate: share of the features before the classifier that training drops, 0 up to 1.
      width_multiplier: scales the channels of every layer but the last; 1.0 is the paper's network.
      batch_norm_decay: how much of the running statistics one training step keeps; the release's is 0.999.
      dtype: dtype of the computation, float32 or bfloat16; parameters, statistics and logits are float32.
      batch_norm: what training normalises by: "train", the statistics of the batch, which also move the running ones,
        or "frozen", the running ones, which stay as they are (for fine-tuning). Dropout is on in both.
      rematerialise: whether the backward pass computes each block of layers again instead of keeping what it made in
        the forward pass: less memory, more arithmetic, the same numbers up to rounding.

    Class attributes:
      sees_videos: whether it sees clips; else it sees single images.
      training_clip, test_clip: the paper's Table 1.
    """

    num_classes: int = 400
    dropout_rate: float = 0.5
    width_multiplier: float = 1.0
    batch_norm_decay: float = 0.999
    # Given as whatever stands for one (`create`).
    dtype: Any = jnp.float32
    batch_norm: str = "train"
    rematerialise: bool = False

    sees_videos: ClassVar[bool] = True
    training_clip: ClassVar[Clip]
    test_clip: ClassVar[Clip]

    def __post_init__(self):
        if self.num_classes < 1:
            raise UserError(f"the model needs at least one class, found num_classes {self.num_classes}")
        if not 0 <= self.dropout_rate < 1:
            raise UserError(f"the dropout rate must be at least 0 and below 1, found {self.dropout_rate}")
        if not 0 < self.width_multiplier <= 8:
            raise UserError(f"the width multiplier must be above 0 and at most 8, found {self.width_multiplier}")
        if not 0 <= self.batch_norm_decay < 1:
            raise UserError(
                f"the model's batch_norm_decay must be at least 0 and below 1, found {self.batch_norm_decay}"
            )
        self.refuse_unless_one_of(batch_norm=BATCH_NORMS)
        # One value for whatever stands for a dtype, so that equal networks are equal.
        object.__setattr__(self, "dtype", _computed_in(self.dtype))
        super().__post_init__()

    # What follows is the same for all of a class in some architectures, in others an option's.
    @property
    def streams(self) -> tuple[str, ...]:
        """What it sees, of "rgb" and "flow"."""
        raise TypeError(f"the architecture {type(self).__name__} has to say which streams it sees")

    @property
    def flow_per_frame(self) -> int:
        """Fields of flow around each frame that it sees; 0 without flow."""
        return 0

    @property
    def image_trunks(self) -> tuple[str, ...]:
        """The scopes that begin as the trunk of an ImageNet network, () for none; "" is the whole."""
        return ()

    def refuse_unless_one_of(self, **choices: Sequence[str]) -> None:
        """Raises a `UserError` for an option that is none of its choices."""
        for option, words in choices.items():
            if getattr(self, option) not in words:
                raise UserError(
                    f"the model's {option} must be one of {', '.join(words)}, found {getattr(self, option)!r}"
                )

    def refuse_below_one(self, *options: str) -> None:
        """Raises a `UserError` for an option that is a count and below 1."""
        for option in options:
            if getattr(self, option) < 1:
                raise UserError(f"the model's {option} must be at least 1, found {getattr(self, option)}")

    # Flax leaves open what a module is given.
    def init(self, rngs, inputs, train: bool = False, **options) -> dict[str, Any]:  # type: ignore[override]
        """Draws the variables {"params", "batch_stats"} for inputs of the given shapes, in one program.

        The same variables as Flax's `init` draws, which runs the network operation by operation: a minute for I3D.

        Args:
          rngs: a key, or keys by name as Flax takes them.
          inputs: as `apply` takes them, or their `jax.ShapeDtypeStruct`: the values play no part.
          train: as `apply` takes it; it plays no part either.
          options: Flax's own, such as `method`; with any, Flax's `init` runs.
        """
        leaves = jax.tree.leaves((rngs, inputs))
        if options or self.scope is not None:
            return cast(dict[str, Any], super().init(rngs, inputs, train, **options))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            with for_shapes():
                return cast(dict[str, Any], super().init(rngs, inputs, train))
        shapes = {stream: (tuple(array.shape), jnp.dtype(array.dtype)) for stream, array in inputs.items()}
        return _drawing(self, tuple(shapes.items()), train)(rngs)

    def clip_losses(
        self,
        logits: Float[AnyArray, "batch classes"],
        endpoints: Mapping[str, Float[AnyArray, "batch ..."]],
        labels: Integer[AnyArray, " batch"],
        label_smoothing: float = 0.0,
    ) -> Float[Array, " batch"]:
        """The training loss of each clip, float32 [B], from an application's logits and endpoints and int [B] labels.

        The cross-entropy of the logits, with `label_smoothing` as there, unless the architecture says otherwise.
        """
        del endpoints
        return cross_entropy(logits, labels, label_smoothing)

    def stream_logits(
        self, endpoints: Mapping[str, Float[AnyArray, "batch ..."]]
    ) -> dict[str, Float32[AnyArray, "batch classes"]]:
        """The logits of each stream alone, float32 [B, num_classes] by stream, from an application's endpoints.

        Empty unless the architecture makes its logits from those of its streams.
        """
        del endpoints
        return {}

    def classifier_inputs(
        self, endpoints: Mapping[str, Float[AnyArray, "batch ..."]]
    ) -> dict[str, Float32[AnyArray, "batch n channels"]]:
        """What its classifiers see, before dropout, from an application's endpoints: float32 [B, n, C] by their scope.

        n counts what they score one by one: steps of time, clips or snapshots.
        """
        return {CLASSIFIER: endpoints["features"]}

    def step_centres(self, steps: int) -> list[float]:
        """Where the middles of what the classifiers see one by one lie in a clip, from 0, its start, to 1, its end."""
        return [(step + 0.5) / steps for step in range(steps)]

    def logits_of(
        self, scores: Mapping[str, Float32[Array, "batch n classes"]]
    ) -> tuple[Float32[Array, "batch classes"], dict[str, Float32[Array, "batch ..."]]]:
        """Makes the logits from its classifiers' scores, float32 [B, n, num_classes] by their scope.

        Returns:
          (logits float32 [B, num_classes], the endpoints that `clip_losses` and `stream_logits` need).
        """
        return scores[CLASSIFIER].mean(1), {}

    def input_shapes(self, frames: int, size: int) -> dict[str, tuple[int, ...]]:
        """The shapes of its inputs, without the batch's axis, for clips of `frames` frames of `size` pixels a side."""
        counts = {"rgb": frames, "flow": frames * self.flow_per_frame}
        return {stream: (counts[stream], size, size, CHANNELS[stream]) for stream in self.streams}

    def example_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs that it was made for, without the batch's axis: a training clip of Table 1."""
        return self.input_shapes(self.training_clip.frames, self.training_clip.size)

    def shared_options(self) -> dict[str, Any]:
        """The options that every architecture has, for a network that is made of others."""
        return {
            "num_classes": self.num_classes,
            "dropout_rate": self.dropout_rate,
            "width_multiplier": self.width_multiplier,
            "batch_norm_decay": self.batch_norm_decay,
            "dtype": self.dtype,
            "batch_norm": self.batch_norm,
            "rematerialise": self.rematerialise,
        }

    def unit(self, **options) -> Callable[..., ConvolutionUnit]:
        """Makes the maker of its convolution units, with its batch normalisation and dtype and the options given."""
        return functools.partial(
            ConvolutionUnit,
            batch_norm_decay=self.batch_norm_decay,
            frozen=self.batch_norm == "frozen",
            dtype=self.dtype,
            **options,
        )

    def dropout(self, inputs: Float[Array, "*axes"], train: bool) -> Float[Array, "*axes"]:
        """Drops its share of the inputs if `train`, with the rng "dropout"."""
        return nn.Dropout(self.dropout_rate, deterministic=not train)(inputs)


class InceptionNetwork(Network):
    """An architecture that begins as Inception-v1.

    Attributes:
      stem_padding: how the first convolution pads in space: "same" (the release, TF-Slim) or "symmetric", as in
        `layers.Convolution`: for weights that come from PyTorch's GoogLeNet.
      last_block: where the trunk ends, one of `inception.LAST_BLOCKS`: "Mixed_5c" is the paper's, an earlier one makes
        a smaller network.
      batch_norm_gain: whether batch normalisation has gains (PyTorch's `weight`) beside its offsets. The release and
        TF-Slim have none; this is for weights that come from PyTorch.
    """

    stem_padding: str = "same"
    last_block: str = inception.LAST_BLOCKS[-1]
    batch_norm_gain: bool = False

    def __post_init__(self):
        self.refuse_unless_one_of(stem_padding=SPATIAL_PADDINGS, last_block=inception.LAST_BLOCKS)
        super().__post_init__()

    def shared_options(self) -> dict[str, Any]:
        """The options that every architecture of this kind has."""
        return {
            **super().shared_options(),
            "stem_padding": self.stem_padding,
            "last_block": self.last_block,
            "batch_norm_gain": self.batch_norm_gain,
        }

    def unit(self, **options) -> Callable[..., ConvolutionUnit]:
        """As every architecture's, with gains if it has them."""
        return super().unit(batch_norm_gain=self.batch_norm_gain, **options)


class SnapshotNetwork(InceptionNetwork):
    """An architecture of image networks that see frames, the ten fields of flow around each, or both.

    Attributes:
      stream: "both", or one stream alone: "rgb" or "flow". A stream's variables have the same names in either case.
    """

    stream: str = BOTH_STREAMS

    def __post_init__(self):
        self.refuse_unless_one_of(stream=(*STREAMS, BOTH_STREAMS))
        super().__post_init__()

    @property
    def streams(self) -> tuple[str, ...]:
        """What it sees."""
        return STREAMS if self.stream == BOTH_STREAMS else (self.stream,)

    @property
    def flow_per_frame(self) -> int:
        """Ten fields around each frame, if it sees flow."""
        return FLOW_STACK if "flow" in self.streams else 0

    @property
    def image_trunks(self) -> tuple[str, ...]:
        """The scope of each stream's image network."""
        return tuple(STREAM_SCOPES[stream] for stream in self.streams)

    def snapshots(
        self, inputs: Mapping[str, Float[AnyArray, "batch ..."]], *, model: str, frames_per_clip: int
    ) -> dict[str, Float[AnyArray, "batch time height width channels"]]:
        """Returns what its image networks see, by stream in their order.

        Args:
          inputs: of the streams that it sees, "rgb" float [B, n, H, W, 3] and "flow" float [B, 10 n, H, W, 2]: ten
            fields for each frame, in order. Others are left alone.
          model: what to call the network in an error.
          frames_per_clip: n must be a multiple of it.

        Returns:
          "rgb" float [B, n, H, W, 3]; "flow" float [B, n, H, W, 20], the channels u, v of the first field, then of the
          next.

        Raises:
          UserError: a stream is missing or too small, or the numbers of frames do not go together.
        """
        found = {
            stream: frames_of(inputs, stream, model=model, minimum_size=inception.MINIMUM_SIZE)
            for stream in self.streams
        }
        if "flow" in found:
            fields = found["flow"].shape[1]
            frames = found["rgb"].shape[1] if "rgb" in found else fields // FLOW_STACK
            if fields != FLOW_STACK * frames:
                where = f"{fields} for {frames}" if "rgb" in found else f"{fields} fields"
                raise UserError(f"{model} needs {FLOW_STACK} fields of flow for each frame, found {where}")
            batch, _, *shape = found["flow"].shape
            stacks = found["flow"].reshape(batch, frames, FLOW_STACK, *shape).transpose(0, 1, 3, 4, 2, 5)
            found["flow"] = stacks.reshape(batch, frames, *shape[:2], FLOW_STACK * shape[2])
        frames = found[self.streams[0]].shape[1]
        if not frames or frames % frames_per_clip:
            raise UserError(f"{model} needs a number of frames that {frames_per_clip} divides, found {frames}")
        return found


def cross_entropy(
    logits: Float[AnyArray, "*axes classes"], labels: Integer[AnyArray, "*axes"], label_smoothing: float = 0.0
) -> Float[Array, "*axes"]:
    """The cross-entropy in nats, float32 [...], of logits [..., classes] and labels int [...].

    `label_smoothing`, 0 up to 1, is the share of each label that is spread evenly over all classes, its own included
    (Szegedy et al. 2016).
    """
    scores = jax.nn.log_softmax(logits)
    of_label = jnp.take_along_axis(scores, labels[..., None], axis=-1)[..., 0]
    if not label_smoothing:
        return -of_label
    return -(1 - label_smoothing) * of_label - label_smoothing * scores.mean(-1)


def with_predictions(
    logits: Float32[Array, "batch classes"], endpoints: Mapping[str, Float[Array, "batch ..."]]
) -> tuple[Float32[Array, "batch classes"], dict[str, Float[Array, "batch ..."]]]:
    """Returns (logits, endpoints) with "Logits", the logits, and "Predictions", their softmax, among the endpoints."""
    return logits, {**endpoints, "Logits": logits, "Predictions": jax.nn.softmax(logits)}


def frames_of(
    inputs: Mapping[str, Float[AnyArray, "batch ..."]], stream: str, *, model: str, minimum_size: int
) -> Float[AnyArray, "batch time height width channels"]:
    """Returns a stream's videos, float [B, T, H, W, C], from a model's inputs.

    Raises:
      UserError: the stream is missing, has another shape, or its frames are smaller than `minimum_size` a side.
    """
    if stream not in inputs:
        raise UserError(f"{model} expects the stream {stream!r}, found {', '.join(sorted(inputs)) or 'none'}")
    videos = inputs[stream]
    if videos.ndim != 5 or videos.shape[-1] != CHANNELS[stream]:
        raise UserError(
            f"{model} expects {stream} of shape [batch, time, height, width, {CHANNELS[stream]}], "
            f"found {list(videos.shape)}"
        )
    check_size(videos, model=model, minimum_size=minimum_size)
    return videos


def _computed_in(dtype: Any) -> jnp.dtype:
    """Returns the dtype that a value such as "bfloat16" or `jnp.bfloat16` stands for, if networks compute in it."""
    for name in DTYPES:
        # NumPy takes an empty name and None for its own default, and reads others as lists of fields.
        with contextlib.suppress(TypeError, ValueError, SyntaxError):
            if dtype not in ("", None) and jnp.dtype(dtype).name == name:
                return jnp.dtype(name)
    raise UserError(f"the dtype must be one of {', '.join(DTYPES)}, found {dtype!r}")


def check_size(images: Float[AnyArray, "... height width channels"], *, model: str, minimum_size: int) -> None:
    """Raises a `UserError` where frames [..., H, W, C] are smaller than `minimum_size` pixels a side."""
    height, width = images.shape[-3:-1]
    if min(height, width) < minimum_size:
        raise UserError(f"{model} needs frames of at least {minimum_size} pixels a side, found {width}x{height}")


@functools.lru_cache(maxsize=16)
def _drawing(
    model: Network, shapes: tuple[tuple[str, tuple[tuple[int, ...], jnp.dtype]], ...], train: bool
) -> Callable[[Any], dict[str, Any]]:
    """Compiles the drawing once in a process, however many runs of the model it makes."""
    # Random numbers are drawn once: on CPUs, optimising that program takes longer than running it.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    # The variables are the same without, and no kernel is asked for inside a transformation of its own.
    model = model.clone(rematerialise=False)

    def draw(rngs):
        # Nothing but the shapes of the inputs, and of what follows them, is left in the program.
        inputs = {stream: jnp.zeros(shape, dtype) for stream, (shape, dtype) in shapes}
        with for_shapes(), drawing.together() as kernels:
            variables = nn.Module.init(model, rngs, inputs, train)
        return drawing.drawn(variables, kernels)

    return jax.jit(draw, compiler_options=options)
