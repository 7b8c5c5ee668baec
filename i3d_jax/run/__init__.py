"""A recipe becomes a run, once: `build(config, workdir)` gives it, `train()` and `evaluate()` are what it does."""

from i3d_jax.run.resolve import build
from i3d_jax.run.run import Run

__all__ = ["Run", "build"]
