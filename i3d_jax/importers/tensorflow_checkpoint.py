"""Reads TensorFlow checkpoints: PREFIX.index beside PREFIX.data-00000-of-00001, or the older format's single file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from i3d_jax.data import cpu_tensorflow
from i3d_jax.importers.weights import Weights
from i3d_jax.system.errors import UserError, install_hint
from i3d_jax.system.files import entries, is_file, is_folder, opened, refuse_unreadable

# The magic number at the end of a table of LevelDB's, in which TensorFlow writes both of its formats.
_END_OF_TABLE = bytes.fromhex("57fb808b247547db")
# Where a SavedModel keeps its checkpoint.
_SAVED_MODEL = Path("variables", "variables")
# What training leaves in a checkpoint and no network needs: (pattern of names, reason).
TRAINING_VARIABLES = (
    (r"/(Momentum|RMSProp|RMSProp_1|Adam|Adam_1|Adagrad)$|^beta[12]_power$", "slots of the optimizer"),
    (r"/ExponentialMovingAverage$", "moving averages of the parameters"),
    (r"^global_step$", "the training step"),
)


class DamagedError(UserError):
    """A checkpoint that is cut short, or whose bytes are not those that were written."""


def read(path: Path) -> Weights:
    """Reads all arrays of a checkpoint; TensorFlow compares each with the CRC32C in the index.

    Args:
      path: its prefix (`model.ckpt`), one of its files (`model.ckpt.index`), a folder that holds just one checkpoint
        or whose file `checkpoint` names one, or the folder of a SavedModel (a TF-Hub module), which has it in
        `variables`.

    Raises:
      UserError: there is no checkpoint or more than one, or a file of it is absent.
      DamagedError: a file of it is cut short or damaged; the first array that is not whole is named.
    """
    prefix = _prefix(path)
    files = _data_files(prefix)
    for file in files:
        refuse_unreadable(file)
    _refuse_other_file(prefix)
    tf = _tensorflow()
    arrays, name = {}, None
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        for name in sorted(reader.get_variable_to_shape_map()):
            arrays[name] = _as_float32(reader.get_tensor(name))
    # A file that ends too early is an IndexError; OpError is TensorFlow's name for the rest.
    except (tf.errors.OpError, IndexError, ValueError) as error:
        where = f"the array {name} is not whole" if name else "the list of its arrays is not whole"
        raise DamagedError(f"the TensorFlow checkpoint {prefix} is cut short or damaged: {where}") from error
    return Weights(source=prefix, files=files, arrays=arrays)


def _refuse_other_file(prefix: Path) -> None:
    """Raises a `UserError` for what does not end as a table of TensorFlow's, the file that says where the arrays are.

    TensorFlow would print warnings of its own besides.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    table = index if is_file(index) else prefix
    with opened(table) as file:
        end = file.read()[-8:]
    if end != _END_OF_TABLE:
        reason = f"{table.name} does not end as TensorFlow ends it"
        raise DamagedError(f"the TensorFlow checkpoint {prefix} is cut short or damaged: {reason}")


def _tensorflow():
    try:
        return cpu_tensorflow.load()
    except ModuleNotFoundError as error:
        raise UserError(f"TensorFlow checkpoints need the package {error.name}; {install_hint('data')}") from None


def _as_float32(array) -> np.ndarray:
    # bfloat16 is of no kind that NumPy knows.
    array = np.asarray(array)
    return array.astype(np.float32, copy=False) if array.dtype.kind in "fV" else array


def _prefix(path: Path) -> Path:
    """The prefix that a path stands for."""
    if not is_folder(path):
        return path.with_name(re.sub(r"\.(index|data-\d+-of-\d+)$", "", path.name))
    if is_file((path / _SAVED_MODEL).with_suffix(".index")):
        return path / _SAVED_MODEL
    names = {entry.name.removesuffix(".index") for entry in entries(path) if entry.name.endswith((".index", ".ckpt"))}
    if len(names) == 1:
        return path / names.pop()
    if names and (latest := _tensorflow().train.latest_checkpoint(str(path))):
        return Path(latest)
    found = f"{len(names)} ({', '.join(sorted(names)[:4])})" if names else "none"
    raise UserError(f"the folder {path} should hold one TensorFlow checkpoint, found {found}")


def _data_files(prefix: Path) -> list[Path]:
    """The files that hold the arrays; all of them are there."""
    index = prefix.with_name(f"{prefix.name}.index")
    if not is_file(index):
        if is_file(prefix):
            # The format before 2016, in which TF-Slim's ImageNet networks are published, is one file.
            return [prefix]
        raise UserError(f"there is no TensorFlow checkpoint {prefix}: neither it nor {index.name} exists")
    pattern = re.compile(re.escape(prefix.name) + r"\.data-\d+-of-\d+")
    files = [entry for entry in entries(prefix.parent) if pattern.fullmatch(entry.name)]
    expected = int(files[0].name.rpartition("-")[2]) if files else 1
    if len(files) != expected:
        raise UserError(
            f"the TensorFlow checkpoint {prefix} lacks a data file: expected {expected} named "
            f"{prefix.name}.data-…, found {len(files)}"
        )
    return files
