"""Eight actions that no single frame tells apart, from drawn videos to an evaluated network in minutes on two cores.

    python -m i3d_jax.main --config experiments/quickstart.py --workdir runs/quickstart

Needs nothing but the installation: the videos are drawn, written as H.264 files and prepared in the workdir.

Variants, each a narrow network of one of the paper's architectures: `quickstart.py` (or `:i3d`), which sees RGB alone,
`:i3d_flow`, `:two_stream_i3d`, `:conv_lstm`, `:c3d`, `:two_stream`, `:fused`. Those that see flow compute it first.
docs/architectures.md has what each reaches.
"""

from ml_collections import ConfigDict

from experiments import base
from i3d_jax.system.errors import UserError, did_you_mean

# By variant: the architecture, the frames of a clip, and the frames of the video from one of them to the next. The
# videos have 25 to 37 frames: what the paper spreads over seconds is brought nearer together.
VARIANTS = {
    "i3d": ("i3d", 16, 1),
    "i3d_flow": ("i3d", 16, 1),
    "two_stream_i3d": ("two_stream_i3d", 16, 1),
    "conv_lstm": ("conv_lstm", 10, 2),
    "c3d": ("c3d", 16, 1),
    "two_stream": ("two_stream", 1, 1),
    "fused": ("fused", 5, 4),
}


def get_config(variant: str = "i3d") -> ConfigDict:
    """Returns a narrow network on clips of 48 pixels for `variant`, one of `VARIANTS`."""
    if variant not in VARIANTS:
        hint = did_you_mean(variant, VARIANTS)
        raise UserError(f"experiments/quickstart.py has the variants {', '.join(VARIANTS)}, found {variant!r}{hint}")
    architecture, frames, stride = VARIANTS[variant]
    config = base.get_config(architecture)
    # Two streams take twice the time for a step, and their flow has taken minutes before the first one.
    config.total_steps = {"i3d": 900, "two_stream_i3d": 600}.get(variant, 1000)
    config.batch_size = 8
    config.log_every = 50

    config.model.width_multiplier = 0.25
    config.model.dropout_rate = 0.0
    config.model.batch_norm_decay = 0.9
    if variant == "i3d_flow":
        config.model.stream = "flow"
    if variant == "conv_lstm":
        config.model.statistics_steps = frames
    if variant == "c3d":
        config.model.frame_size = 48

    config.data.synthetic_videos_per_action = 40
    config.data.frames = frames
    config.data.stride = stride
    config.data.crop = 48
    # Mirrored, "moving left" is "moving right".
    config.data.flip = False

    # From scratch the gradient is large at first, and SGD at a rate that suits the rest of the run would take the
    # network apart; the release had 115k steps to recover.
    config.optimizer.name = "adam"
    # At that rate the fully connected layers of C3D stay where they fell in the first steps.
    config.optimizer.learning_rates = (0.0003, 0.00003) if variant == "c3d" else (0.002, 0.0002)
    config.optimizer.boundaries = (config.total_steps * 4 // 5,)

    config.evaluation.split = "test"
    config.evaluation.every = 0
    config.evaluation.batch_size = 16
    config.evaluation.frames = frames
    config.evaluation.windows = 4

    config.checkpoints.every = 250
    config.checkpoints.keep_last = 1
    return config
