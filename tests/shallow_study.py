"""`python -m i3d_jax.study` with three layers of Inception's trunk: all of the study in minutes, most of it the study.

The trunk is one table; as its width does not change what a study does, nor does its depth.
"""

from i3d_jax.errors import run
from i3d_jax.models import inception
from i3d_jax.study import __main__ as study

TRUNK = {name: inception.TRUNK[name] for name in ("Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Mixed_5c")}

if __name__ == "__main__":
    inception.TRUNK = TRUNK
    run(study.main)
