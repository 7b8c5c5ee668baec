"""The paper's networks on your own videos.

    python -m i3d_jax.prepare --annotations labels.csv --videos VIDEOS --output DATASET
    python -m i3d_jax.main --config experiments/custom.py --config.data.directory=DATASET --workdir WORKDIR

Variants: `custom.py` is I3D RGB with the paper's clips, for a GPU or a TPU; `custom.py:small` is a narrow I3D on 16
frames of 112 pixels, for a laptop and a few hundred videos. `:i3d_flow`, `:two_stream_i3d`, `:conv_lstm`, `:c3d`,
`:two_stream` and `:fused` are the other architectures with the paper's clips; those that see flow (all but `:conv_lstm`
and `:c3d`) need a dataset prepared with `--flow tvl1`. Only `small` has been trained by this project.
"""

from ml_collections import ConfigDict

from experiments import base
from i3d_jax.system.errors import UserError, did_you_mean

# By variant: the architecture.
VARIANTS = {
    "full": "i3d",
    "small": "i3d",
    "i3d_flow": "i3d",
    "two_stream_i3d": "two_stream_i3d",
    "conv_lstm": "conv_lstm",
    "c3d": "c3d",
    "two_stream": "two_stream",
    "fused": "fused",
}


def get_config(variant: str = "full") -> ConfigDict:
    """Returns the recipe for `variant`, one of `VARIANTS`."""
    if variant not in VARIANTS:
        hint = did_you_mean(variant, VARIANTS)
        raise UserError(f"experiments/custom.py has the variants {', '.join(VARIANTS)}, found {variant!r}{hint}")
    config = base.get_config(VARIANTS[variant])
    config.log_every = 10
    # From scratch and in so few steps SGD does not get over the large gradients of its beginning.
    config.optimizer.name = "adam"
    config.total_steps = 5_000
    config.batch_size = 32
    config.model.batch_norm_decay = 0.99
    # At the higher rate the fully connected layers of C3D stay where they fell in the first steps.
    config.optimizer.learning_rates = (0.0003, 0.00003) if variant == "c3d" else (0.001, 0.0001)
    config.optimizer.boundaries = (4_000,)
    config.evaluation.every = 500
    config.checkpoints.every = 250
    if variant == "i3d_flow":
        config.model.stream = "flow"
    if variant == "small":
        config.total_steps = 300
        config.batch_size = 8
        config.model.width_multiplier = 0.25
        config.model.dropout_rate = 0.2
        config.model.batch_norm_decay = 0.9
        config.data.frames = 16
        config.data.crop = 112
        config.optimizer.boundaries = (250,)
        config.evaluation.every = 100
        config.evaluation.frames = 64
        config.evaluation.windows = 4
        config.checkpoints.every = 100
    return config
