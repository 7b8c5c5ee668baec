"""The release's five checkpoints (google-deepmind/kinetics-i3d): how each is told from everything else.

A TensorFlow checkpoint's index holds the CRC32C of every array, so an index whose SHA-256 is right proves its data
file; and the CRC32Cs of a network's arrays say which checkpoint they are, whatever file they were read from.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from i3d_jax.importers import naming, sonnet_i3d
from i3d_jax.system.errors import UserError, did_you_mean


class Labels(NamedTuple):
    """A file of the release's that names the classes.

    Attributes:
      file: its name.
      sha256: of the file.
    """

    file: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Release:
    """A checkpoint of the release.

    Attributes:
      index: the SHA-256 of `model.ckpt.index`.
      arrays: the SHA-256 of what the index says of the network's arrays, as `fingerprint` makes it.
      labels: the file that names its classes.
    """

    index: str
    arrays: str
    labels: Labels


KINETICS_400 = Labels("label_map.txt", "e9f2806fe9109b851a80a74841244f6f8c9d10917fa0229cd82bab67f2f8e28f")
KINETICS_600 = Labels("label_map_600.txt", "8dfca4202520ea8291ce0242ef33b006d0a0772b409663c090a2876bc1978dcf")
# Of the release's commit 0667e889.
RELEASES = {
    "rgb_imagenet": Release(
        "f4bfd6f4af485f276c68333d3eca3697b691bb647f0167a03fe021147ca7f8eb",
        "dfc8f0a8599430dfc4d246bc6fdf4f89180ab470d451bfe2c4ad1d0bf2b91ef6",
        KINETICS_400,
    ),
    "flow_imagenet": Release(
        "71594ac5f63cb0eb58512a13b56097dc0368d09e5959dffcc6e7a45b19832366",
        "1dafd234387815524aa74de7747dc793baee49ef04328dc3fdc1994e1c9f7315",
        KINETICS_400,
    ),
    "rgb_scratch": Release(
        "4fcd08b3e140f0267730e462295054c6a38f6cfd9991c310ee3d37bbdfd7030c",
        "ffa3b9294cec78499e0d7e84754d8d2f8c37db91ad32cc847f8c02a92f5afe97",
        KINETICS_400,
    ),
    "flow_scratch": Release(
        "81fccedbe8352f8509b05ca9f2959f5aac13552dc680c808acd4f39be82620e6",
        "4363ee97a3cf47e51d1c0b23a4e04c317c846d6ef1dd4aab577be8ebd71ec188",
        KINETICS_400,
    ),
    "rgb_scratch_kin600": Release(
        "366815af85b76e46222db13761f087584b3dc9c56abf67b822949846302e432a",
        "983b5d02112ddb8b67906e466a64b3ea21a164fb59d085c0b157a47a8f9533d1",
        KINETICS_600,
    ),
}
# The release's names, without the prefix and the optimizer's slots that some of its checkpoints have.
_NAMES = naming.Naming(lambda unit: f"{unit}/", sonnet_i3d.LEAVES)


def named(name: str) -> Release:
    """Returns a checkpoint of the release by its name; a `UserError` lists the names."""
    if name not in RELEASES:
        raise UserError(
            f"--pretrained is one of {', '.join(RELEASES)}, found {name!r}{did_you_mean(name, RELEASES, cutoff=0.5)}"
        )
    return RELEASES[name]


def fingerprint(variables: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a line "NAME CRC32C" for each array of an `i3d`, sorted.

    The names are the release's without prefixes (`Conv3d_1a_7x7/conv_3d/w`), the sums those of its index files: of the
    float32 values in order, as eight hexadecimal digits.
    """
    lines = (
        f"{name} {google_crc32c.value(np.ascontiguousarray(array, '<f4').tobytes()):08x}\n"
        for name, array in naming.scatter(variables, _NAMES).items()
    )
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def release_of(variables: Mapping[str, Any]) -> str | None:
    """Returns which checkpoint of the release the variables of an `i3d` are, to the last bit; None where of none."""
    if naming.gains(variables):
        return None
    found = fingerprint(variables)
    return next((name for name, release in RELEASES.items() if release.arrays == found), None)
