"""The training step as it is handed to the compiler of a device that is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from i3d_jax import models
from i3d_jax.training.optimizer import make_optimizer
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import training_step


def lowered_step(
    architecture: str,
    devices: Sequence[jax.Device],
    clips: int,
    *,
    frames: int | None = None,
    size: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[jax.stages.Lowered, dict[str, tuple[int, ...]]]:
    """Lowers the step that training runs: bfloat16, the release's optimizer, the state's memory used again.

    Args:
      architecture: one of `models.MODELS`.
      devices: those of a topology; all take part.
      clips: for each device.
      frames, size: of a clip, in frames and in pixels of a side; None: the paper's Table 1.
      options: of the model.

    Returns:
      The step, to be compiled, and the shape of a clip by stream.
    """
    parallel = Devices(devices=devices)
    model = models.create(architecture, dtype="bfloat16", **(options or {}))
    optimizer, _ = make_optimizer(
        name="sgd",
        learning_rates=(0.1, 0.01, 0.001),
        boundaries=(97_000, 108_000),
        momentum=0.9,
        weight_decay=1e-7,
    )
    clip = model.input_shapes(frames or model.training_clip.frames, size or model.training_clip.size)
    rows = clips * parallel.count
    batch = {stream: jax.ShapeDtypeStruct((rows, *shape), jnp.uint8) for stream, shape in clip.items()}
    batch |= {"label": jax.ShapeDtypeStruct((rows,), jnp.int32), "mask": jax.ShapeDtypeStruct((rows,), jnp.bool_)}
    state = jax.eval_shape(lambda variables: initial_state(variables, optimizer), models.template(model))
    step = parallel.compile_training_step(training_step(model, optimizer, seed=0))
    return step.lower(state, batch), clip
