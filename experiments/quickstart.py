"""Eight actions that no single frame tells apart, from drawn videos to an evaluated network in minutes on two cores.

    python -m i3d_jax.main --config experiments/quickstart.py --workdir runs/quickstart

Needs nothing but the installation: the videos are drawn, written as H.264 files and prepared in the workdir.
"""

from ml_collections import ConfigDict

from experiments import base


def get_config() -> ConfigDict:
    """Returns a narrow I3D on clips of 16 frames of 48 pixels."""
    config = base.get_config()
    config.total_steps = 1000
    config.batch_size = 8
    config.log_every = 50

    config.model.width_multiplier = 0.25
    config.model.dropout_rate = 0.0
    config.model.batch_norm_decay = 0.9

    config.data.synthetic_videos_per_action = 40
    config.data.frames = 16
    config.data.crop = 48
    # Mirrored, "moving left" is "moving right".
    config.data.flip = False

    # From scratch the gradient is large at first, and SGD at a rate that suits the rest of the run would take the
    # network apart; the release had 115k steps to recover.
    config.optimizer.name = "adam"
    config.optimizer.learning_rates = (0.002, 0.0002)
    config.optimizer.boundaries = (800,)

    config.evaluation.split = "test"
    config.evaluation.every = 0
    config.evaluation.batch_size = 16
    config.evaluation.frames = 16
    config.evaluation.windows = 4

    config.checkpoints.every = 250
    config.checkpoints.keep_last = 1
    return config
