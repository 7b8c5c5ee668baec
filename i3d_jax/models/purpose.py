"""What a network is traced for. This decides how its operations are lowered, never what they compute."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax

from i3d_jax.shapes import AnyArray

_ANY_PLATFORM, _DEFAULT_PLATFORM, _SHAPES, _TRANSLATION = range(4)
_purpose = contextvars.ContextVar("purpose", default=_ANY_PLATFORM)


@contextlib.contextmanager
def for_default_platform() -> Iterator[None]:
    """What is traced within is for JAX's default platform alone.

    On a CPU the operations' alternatives on other platforms are left out: I3D's training step is traced in two thirds
    to three quarters of the time.
    """
    with _traced_for(_DEFAULT_PLATFORM):
        yield


@contextlib.contextmanager
def for_shapes() -> Iterator[None]:
    """What is traced within is never run: each operation is the native one, which takes the least time to trace."""
    with _traced_for(_SHAPES):
        yield


@contextlib.contextmanager
def for_translation() -> Iterator[None]:
    """What is traced within is translated for another runtime, an operation at a time.

    Its convolutions are the CPU's, which are of images, for translators know none of videos; and no operation goes in
    slabs, whose custom derivatives they do not take.
    """
    with _traced_for(_TRANSLATION):
        yield


@contextlib.contextmanager
def _traced_for(purpose):
    token = _purpose.set(purpose)
    try:
        yield
    finally:
        _purpose.reset(token)


def runs_never() -> bool:
    """Says whether only shapes are asked for."""
    return _purpose.get() == _SHAPES


def goes_in_slabs() -> bool:
    """Says whether what takes much memory may be done in parts."""
    return _purpose.get() not in (_SHAPES, _TRANSLATION)


def is_translated() -> bool:
    """Says whether another runtime is to find the operations that it knows."""
    return _purpose.get() == _TRANSLATION


def by_platform(
    *arrays: AnyArray,
    cpu: Callable[..., Any],
    default: Callable[..., Any],
    **others: Callable[..., Any],
) -> Any:
    """`jax.lax.platform_dependent` of "cpu", the rest and, in `others`, "cuda", "rocm" or "tpu", each of which returns
    the same array or arrays; of what is traced for one platform, a CPU, or for a translation, the CPU's alternative
    alone."""
    on_cpu = _purpose.get() == _DEFAULT_PLATFORM and jax.default_backend() == "cpu"
    if on_cpu or is_translated():
        return cpu(*arrays)
    return lax.platform_dependent(*arrays, cpu=cpu, default=default, **others)
