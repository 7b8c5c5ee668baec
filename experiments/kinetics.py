"""I3D on Kinetics-400 from scratch, as the release trained it.

    python -m i3d_jax.main --config experiments/kinetics.py --config.data.directory=DATASET --workdir WORKDIR

Needs: Kinetics-400 prepared by `python -m i3d_jax.prepare --dialect kinetics`, with `--flow tvl1` for the flow stream,
and devices that hold 384 clips of 64x224x224 at a time (the release: 64 GPUs with 6 each). With fewer devices keep the
batch and set `accumulation_steps`; or lower `batch_size`: the learning rates follow in proportion, and to see as many
clips, raise `total_steps` and `optimizer.boundaries`, which are in steps.
Published accuracy on the test split, Kinetics only (release): RGB (`kinetics.py`, or `:i3d_rgb`) 68.4 top-1, 88.0
top-5; flow (`kinetics.py:i3d_flow`) 61.5 and 83.4.
Not trained by this project yet: hours are not known.
"""

from ml_collections import ConfigDict

from experiments import base
from i3d_jax.errors import UserError

VARIANTS = ("i3d_rgb", "i3d_flow")


def get_config(variant: str = "i3d_rgb") -> ConfigDict:
    """Returns the release's recipe of a stream, in steps of 384 clips, for `variant`, one of `VARIANTS`.

    RGB: 115k steps, learning rate .1, .01 from 97k, .001 from 108k. Flow: 155k steps, .1, .01 from 97k, .001 from
    104.5k, .1 again from 115k, .01 from 140k, .001 from 150k.
    """
    if variant not in VARIANTS:
        raise UserError(f"experiments/kinetics.py has the variants {', '.join(VARIANTS)}, found {variant!r}")
    config = base.get_config()
    config.model.dtype = "bfloat16"
    config.optimizer.reference_batch_size = 384
    if variant == "i3d_flow":
        config.model.stream = "flow"
        config.total_steps = 155_000
        config.optimizer.learning_rates = (0.1, 0.01, 0.001, 0.1, 0.01, 0.001)
        config.optimizer.boundaries = (97_000, 104_500, 115_000, 140_000, 150_000)
    return config
