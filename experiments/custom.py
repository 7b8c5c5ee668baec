"""I3D RGB on your own videos.

    python -m i3d_jax.prepare --annotations labels.csv --videos VIDEOS --output DATASET
    python -m i3d_jax.main --config experiments/custom.py --config.data.directory=DATASET --workdir WORKDIR

Variants: `custom.py` is the paper's network and clip size, for a GPU or a TPU; `custom.py:small` is a narrow network on
16 frames of 112 pixels, for a laptop and a few hundred videos.
"""

from ml_collections import ConfigDict

from experiments import base
from i3d_jax.errors import UserError


def get_config(variant: str = "full") -> ConfigDict:
    """Returns the recipe for `variant`: "full" or "small"."""
    config = base.get_config()
    config.log_every = 10
    # From scratch and in so few steps SGD does not get over the large gradients of its beginning.
    config.optimizer.name = "adam"
    if variant == "full":
        config.total_steps = 5_000
        config.batch_size = 32
        config.model.batch_norm_decay = 0.99
        config.optimizer.learning_rates = (0.001, 0.0001)
        config.optimizer.boundaries = (4_000,)
        config.evaluation.every = 500
        config.checkpoints.every = 250
    elif variant == "small":
        config.total_steps = 300
        config.batch_size = 8
        config.model.width_multiplier = 0.25
        config.model.dropout_rate = 0.2
        config.model.batch_norm_decay = 0.9
        config.data.frames = 16
        config.data.crop = 112
        config.optimizer.learning_rates = (0.001, 0.0001)
        config.optimizer.boundaries = (250,)
        config.evaluation.every = 100
        config.evaluation.frames = 64
        config.evaluation.windows = 4
        config.checkpoints.every = 100
    else:
        raise UserError(f"experiments/custom.py has the variants full and small, found {variant!r}")
    return config
