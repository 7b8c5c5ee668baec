"""Optical flow: where every point of a frame has gone in the next one."""

from i3d_jax.flow.tvl1 import tvl1

__all__ = ["tvl1"]
