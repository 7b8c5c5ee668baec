"""Video action recognition with inflated 3D ConvNets, in JAX and Flax.

Carreira & Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", CVPR 2017.
"""

__version__ = "0.1.0"
