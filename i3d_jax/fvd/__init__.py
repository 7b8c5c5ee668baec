"""Fréchet Video Distance: the command `python -m i3d_jax.fvd`, and a module that is called as `i3d_jax.fvd(a, b)`."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i3d_jax.fvd.distance import Distance
    from i3d_jax.fvd.saved import Statistics


def statistics(videos: Any, **options: Any) -> Statistics:
    """Computes the features of a set once, to be compared with many; see `fvd.distance.statistics`."""
    # Imported late, here and below: what asks for help waits for no JAX.
    from i3d_jax.fvd import distance

    return distance.statistics(videos, **options)


class _Callable(types.ModuleType):
    """A module that can be called as a function."""

    def __call__(self, real: Any, generated: Any, **options: Any) -> Distance:
        """Measures two sets of videos; see `fvd.distance.fvd`."""
        from i3d_jax.fvd import distance

        return distance.fvd(real, generated, **options)


sys.modules[__name__].__class__ = _Callable
