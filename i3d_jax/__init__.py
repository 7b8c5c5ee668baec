"""Video action recognition with inflated 3D ConvNets, in JAX and Flax.

Carreira & Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", CVPR 2017.
"""

import importlib
import sys
import warnings
from importlib import metadata

__version__ = "0.1.0"

# Before anything that an older interpreter cannot even parse.
if sys.version_info < (3, 11):  # noqa: UP036
    found = ".".join(map(str, sys.version_info[:2]))
    print(f"error: i3d_jax needs Python 3.11 or newer, found {found}", file=sys.stderr)
    sys.exit(2)


def __getattr__(name: str):
    """Imports what is called as `i3d_jax.NAME` when it is asked for: `import i3d_jax` alone imports no JAX."""
    if name == "fvd":
        return importlib.import_module("i3d_jax.fvd")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _begin_command() -> None:
    """Ends a command in one sentence where a signal comes, or the system leaves no room, while libraries are imported.

    Does nothing where this package is imported by other programs.
    """
    # So it is while `python -m` looks for the command's module in this package.
    if sys.argv[:1] != ["-m"]:
        return
    from i3d_jax.system import limits, signals
    from i3d_jax.system.errors import UserError

    signals.end_imports()
    try:
        limits.refuse_too_little()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _warn_of_namesake() -> None:
    """Warns where the distribution i3d-jax, another project with a package of our name, is installed too."""
    try:
        other = metadata.distribution("i3d-jax")
    except metadata.PackageNotFoundError:
        return
    warnings.warn(
        f"the distribution i3d-jax {other.version} is another project, and its package is called i3d_jax too: Python "
        "may find either, so remove it (pip uninstall i3d-jax) and install this project again",
        stacklevel=3,
    )


def load(directory, *, precision: str = "highest"):
    """Reads a checkpoint, a workdir's newest one, or a Hub folder, for use on videos.

    Args:
      directory: its path.
      precision: "highest" computes float32 as float32 on every device; "default" as the device is quickest.

    Returns:
      `i3d_jax.inference.loaded.LoadedNetwork`, with `predict`, `timeline`, `features`, `labels` and `preprocessing`.

    Raises:
      UserError: there is no whole checkpoint, or the network sees no videos.
    """
    # Imported here: `import i3d_jax` alone imports neither JAX nor TensorFlow.
    from i3d_jax.inference.loaded import LoadedNetwork

    return LoadedNetwork(directory, precision=precision)


_begin_command()
_warn_of_namesake()
