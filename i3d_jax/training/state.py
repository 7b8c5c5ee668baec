"""What one training step takes and gives."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """Everything that a training step changes; a pytree.

    Attributes:
      step: int32 scalar, the steps taken.
      clips: int32 scalar, the position in the data: the number of training clips drawn since the start of the run.
      params: float32 pytree, the model's parameters.
      batch_stats: float32 pytree, the running statistics of batch normalisation.
      optimizer_state: the optimizer's pytree.
    """

    step: jax.Array
    clips: jax.Array
    params: Any
    batch_stats: Any
    optimizer_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def initial_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """Makes the state before the first step from a model's variables {"params", "batch_stats"}."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        clips=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        optimizer_state=optimizer.init(variables["params"]),
    )


def initial_variables(model: nn.Module, key: jax.Array, inputs: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """Draws a model's variables {"params", "batch_stats"} for inputs of the given shapes."""
    # Random numbers for a hundred arrays run once: on CPUs, optimising that program takes far longer than running it.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None

    def draw(key):
        return model.init(key, {stream: jnp.zeros(shape.shape, shape.dtype) for stream, shape in inputs.items()})

    return jax.jit(draw, compiler_options=options)(key)
