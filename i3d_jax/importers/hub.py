"""Hub folders: a network of ours as `config.json` and `model.safetensors`, which other programs read without ours.

    FOLDER/config.json         what `model.json` of a checkpoint holds: model, labels, preprocessing, provenance
    FOLDER/model.safetensors   the variables, float32, by names such as "params/Logits/Conv3d_0c_1x1/conv_3d/kernel"
    FOLDER/digests.json        a digest of every array, as beside a checkpoint; without it damage goes unseen
    FOLDER/README.md           the model card; it is written, and never read

On the Hugging Face Hub a repository is such a folder. Nothing in one is ever executed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from i3d_jax import checkpoint, models
from i3d_jax.importers import card
from i3d_jax.importers.exported import Original, Program
from i3d_jax.importers.weights import Weights
from i3d_jax.system import terminal
from i3d_jax.system.errors import UserError, install_hint, one_line
from i3d_jax.system.files import instead, is_file, is_folder, make_folder, refuse_unreadable, written_whole

CONFIG, ARRAYS = "config.json", "model.safetensors"
SCHEME = "hf://"
_REPOSITORY = re.compile(r"hf://(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w][\w./-]*))?", re.ASCII)
_FLOAT32 = "F32"
_USE = """\
As a checkpoint of i3d_jax:

    python -m i3d_jax.convert --source FOLDER --format hub --output CHECKPOINT

Without it, by [safetensors](https://github.com/huggingface/safetensors) alone:

```python
import json
from safetensors.numpy import load_file

with open("config.json", encoding="utf-8") as file:
    config = json.load(file)
arrays = load_file("model.safetensors")
print(config["labels"])
print(arrays["{array}"].shape)
```
"""
_NAMES = """
Names are those of Flax's variables with slashes between; kernels have the axes [time, height, width, in, out].
"""


def fetched(source: str) -> Path:
    """Brings a repository of the Hugging Face Hub into the cache of `huggingface_hub`, and returns its folder there.

    Args:
      source: "hf://OWNER/NAME", or "hf://OWNER/NAME@REVISION" with a branch, a tag or a commit.

    Raises:
      UserError: the source is written otherwise, `huggingface_hub` is not installed, or there is no such repository or
        no way to it.
    """
    found = _REPOSITORY.fullmatch(source)
    if found is None:
        raise UserError(f"hf://OWNER/NAME or hf://OWNER/NAME@REVISION was expected as the source, found {source}")
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError:
        raise UserError(f"{SCHEME} needs the package huggingface_hub; {install_hint('hub')}") from None
    if terminal.is_quiet() or not terminal.is_watched():
        # Its bars would fill a log.
        disable_progress_bars()
    terminal.say(f"fetching {source}")
    try:
        folder = huggingface_hub.snapshot_download(
            found["name"], revision=found["revision"], allow_patterns=[CONFIG, ARRAYS, checkpoint.DIGESTS]
        )
    # Its own kinds and those of the libraries below it: of the network, of names, of answers.
    except Exception as error:
        raise UserError(f"{source} cannot be fetched: {one_line(error)}") from error
    return Path(folder)


def read(folder: Path) -> tuple[checkpoint.Description, dict[str, Any], Weights]:
    """Reads a Hub folder that anybody may have written.

    Args:
      folder: with `config.json` and `model.safetensors`.

    Returns:
      (what the network is, its variables {"params", "batch_stats"} as NumPy float32, the file that holds them).

    Raises:
      UserError: a file is missing or damaged, the configuration is none of ours, or the arrays are not those of its
        network by name, shape and kind, or not as `digests.json` says that they were written.
    """
    if not is_folder(folder):
        raise UserError(f"a Hub folder was expected at {folder}, found {instead(folder)}")
    for name in (CONFIG, ARRAYS):
        if not is_file(folder / name):
            raise UserError(f"{folder} is no Hub folder: it has no file {name}")
    description = checkpoint.Description.read(folder, CONFIG)
    try:
        template = models.template(description.create_model())
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error
    path = folder / ARRAYS
    refuse_unreadable(path)
    target = f"the model {description.model!r}"
    arrays = _read_arrays(path, template, target)
    variables = checkpoint.fit(arrays, template, source=str(path), target=target)
    # Other programs write none.
    if is_file(folder / checkpoint.DIGESTS):
        checkpoint.refuse_damaged(folder, {"variables": variables})
    return description, variables, Weights(source=path, files=[path], arrays=arrays)


def _read_arrays(path: Path, template: Any, target: str) -> dict[str, np.ndarray]:
    """Returns the arrays by name; their shapes are known to be the network's before any is read."""
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="np") as file:
            headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: jax.ShapeDtypeStruct(one.get_shape(), np.float32) for name, one in headers.items()}
            checkpoint.fit(shapes, template, source=str(path), target=target)
            for name, header in headers.items():
                if (kind := header.get_dtype()) != _FLOAT32:
                    raise UserError(f"{path}: {name} was expected to be of {_FLOAT32}, found {kind}")
            return {name: file.get_tensor(name) for name in headers}
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{path} is no whole safetensors file, it is damaged or cut short: {one_line(error)}"
        ) from error


def write(folder: Path, original: Original) -> None:
    """Writes a network into a new folder, with its model card.

    Args:
      folder: is made; of what stands there, files of the same names are replaced.
      original: the network; its variables are float32.
    """
    name = min(original.arrays)
    write_arrays(folder, original)
    card.write(folder, original, _USE.format(array=name) + _NAMES)


def write_arrays(folder: Path, original: Original) -> None:
    """Writes all of a Hub folder but its card."""
    _safetensors()
    from safetensors.numpy import save

    make_folder(folder)
    arrays = {name: np.ascontiguousarray(array) for name, array in original.arrays.items()}
    original.description.write(folder, CONFIG)
    with written_whole(folder / ARRAYS) as file:
        file.write(save(arrays))
    checkpoint.write_digests(folder, {"variables": original.variables})


def load(folder: Path) -> Program:
    """Reads the network in a folder, for this package to run."""
    description, variables, _ = read(folder)
    model = description.create_model()
    return Original(source=folder, model=model, description=description, variables=variables).logits


def refuse_other(folder: Path, original: Original) -> None:
    """Raises a `UserError` unless a folder holds the network to the last bit."""
    found, arrays, _ = read(folder)
    same = jax.tree.map(_same_bits, dict(original.variables), arrays)
    if found != original.description or not jax.tree.all(same):
        raise UserError(f"what was written differs from {original.source}: nothing was kept")


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Says whether two arrays are the same, NaN and the sign of zero included."""
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def _safetensors():
    try:
        import safetensors
    except ModuleNotFoundError:
        raise UserError(f"a Hub folder needs the package safetensors; {install_hint('hub')}") from None
    return safetensors
