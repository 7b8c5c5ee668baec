"""Optical flow: where every point of a frame has gone in the next one."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i3d_jax.flow.dual_tvl1 import tvl1 as tvl1

__all__ = ["tvl1"]


def __getattr__(name: str) -> Any:
    """Imports `tvl1` when it is asked for: flow as bytes (`codec`) needs no JAX."""
    if name == "tvl1":
        from i3d_jax.flow.dual_tvl1 import tvl1

        return tvl1
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
