"""I3D RGB on Kinetics-400 from scratch, as the release trained it.

    python -m i3d_jax.main --config experiments/kinetics.py --config.data.directory=DATASET --workdir WORKDIR

Needs: Kinetics-400 prepared by `python -m i3d_jax.prepare --dialect kinetics`, and devices that hold 384 clips of
64x224x224 at a time (the release: 64 GPUs with 6 each). With fewer devices lower `batch_size` and, in proportion, the
learning rates. Published accuracy on the test split: 68.4 top-1, 88.0 top-5 (release, RGB, Kinetics only).
Not trained by this project yet: hours are not known.
"""

from ml_collections import ConfigDict

from experiments import base


def get_config() -> ConfigDict:
    """Returns the release's RGB recipe: 115k steps of 384 clips, learning rate .1, .01 from 97k, .001 from 108k."""
    config = base.get_config()
    config.model.dtype = "bfloat16"
    return config
