"""Reads pickles of NumPy arrays. Nothing that a pickle asks for is called except what makes an array of bytes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import IO, Any

import numpy as np

from i3d_jax.system.errors import UserError

_ARRAY, _SCALAR = np.zeros(1, np.float32), np.float32(0)
# What a pickled array names, by whatever module: NumPy has renamed `numpy.core` to `numpy._core`.
_ALLOWED = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": _ARRAY.__reduce__()[0],
    "_frombuffer": _ARRAY.__reduce_ex__(5)[0],
    "scalar": _SCALAR.__reduce__()[0],
}
_MODULES = {
    "ndarray": ("numpy",),
    "dtype": ("numpy",),
    "_reconstruct": ("numpy.core.multiarray", "numpy._core.multiarray"),
    "_frombuffer": ("numpy.core.numeric", "numpy._core.numeric"),
    "scalar": ("numpy.core.multiarray", "numpy._core.multiarray"),
}


class _ForbiddenError(Exception):
    """A pickle names something that is no array."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES.get(name, ()):
            return _ALLOWED[name]
        raise _ForbiddenError(f"{module}.{name}")


def read(file: IO[bytes], source: Path) -> dict[str, np.ndarray]:
    """Reads a pickle of nested dicts of arrays.

    Args:
      file: the pickle.
      source: what messages call it.

    Returns:
      {the keys on the way to an array, joined by "/": the array}; floating-point ones are float32.

    Raises:
      UserError: the pickle is damaged, would call anything but NumPy's makers of arrays (it does not), or holds
        something else than dicts of arrays.
    """
    try:
        content = _Unpickler(file).load()
    except _ForbiddenError as error:
        raise UserError(
            f"{source} holds more than NumPy arrays: reading it would call {error}, which could run a program, so it "
            "was not read"
        ) from None
    # The unpickler meets the bytes of a damaged file with exceptions of many kinds.
    except Exception as error:
        raise UserError(f"{source} is no whole pickle: it is cut short, damaged or something else") from error
    if not isinstance(content, dict):
        raise UserError(f"{source} should hold a dict of arrays, found {type(content).__name__}")
    return _flat(content, source, ())


def _flat(content: dict, source: Path, above: tuple[str, ...]) -> dict[str, np.ndarray]:
    arrays = {}
    # A dict may have been put into itself.
    if len(above) > 20:
        raise UserError(f"{source} should hold a dict of arrays, found dicts that have no end at {'/'.join(above[:4])}")
    for key, value in content.items():
        path = (*above, str(key))
        if isinstance(value, dict):
            arrays.update(_flat(value, source, path))
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            arrays["/".join(path)] = value.astype(np.float32, copy=False) if value.dtype.kind == "f" else value
        else:
            kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
            raise UserError(f"{source} should hold a dict of arrays, found {kind} at {'/'.join(path)}")
    return arrays
