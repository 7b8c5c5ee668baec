"""Hub folders: a network of ours as `config.json` and `model.safetensors`, which other programs read without ours.

    FOLDER/config.json         what `model.json` of a checkpoint holds: model, labels, preprocessing, provenance
    FOLDER/model.safetensors   the variables, float32, by names such as "params/Logits/Conv3d_0c_1x1/conv_3d/kernel"
    FOLDER/README.md           the model card; it is written, and never read

On the Hugging Face Hub a repository is such a folder. Nothing in one is ever executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from i3d_jax import checkpoint, models
from i3d_jax.importers.weights import Weights
from i3d_jax.system.errors import UserError, install_hint
from i3d_jax.system.files import instead, is_file, is_folder, make_folder, refuse_unreadable, written_whole
from i3d_jax.system.terminal import json_text

CONFIG, ARRAYS, CARD = "config.json", "model.safetensors", "README.md"
SCHEME = "hf://"
_REPOSITORY = re.compile(r"hf://(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w][\w./-]*))?", re.ASCII)
_FLOAT32 = "F32"


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
    except ModuleNotFoundError:
        raise UserError(f"{SCHEME} needs the package huggingface_hub; {install_hint('hub')}") from None
    try:
        folder = huggingface_hub.snapshot_download(
            found["name"], revision=found["revision"], allow_patterns=[CONFIG, ARRAYS]
        )
    # Its own kinds and those of the libraries below it: of the network, of names, of answers.
    except Exception as error:
        raise UserError(f"{source} cannot be fetched: {checkpoint.one_line(error)}") from error
    return Path(folder)


def read(folder: Path) -> tuple[checkpoint.Description, dict[str, Any], Weights]:
    """Reads a Hub folder that anybody may have written.

    Args:
      folder: with `config.json` and `model.safetensors`.

    Returns:
      (what the network is, its variables {"params", "batch_stats"} as NumPy float32, the file that holds them).

    Raises:
      UserError: a file is missing or damaged, the configuration is none of ours, or the arrays are not those of its
        network by name, shape and kind.
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
            f"{path} is no whole safetensors file, it is damaged or cut short: {checkpoint.one_line(error)}"
        ) from error


def write(folder: Path, description: checkpoint.Description, variables: Mapping[str, Any]) -> None:
    """Writes a network into a new folder, with its model card.

    Args:
      folder: is made; of what stands there, files of the same names are replaced.
      description: what the network is.
      variables: {"params", "batch_stats"}, float32.
    """
    _safetensors()
    from safetensors.numpy import save

    make_folder(folder)
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.named(variables)}
    description.write(folder, CONFIG)
    with written_whole(folder / ARRAYS) as file:
        file.write(save(arrays))
    with written_whole(folder / CARD) as file:
        file.write(card(description, arrays).encode())


def card(description: checkpoint.Description, arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the model card, Markdown with the Hub's fields before it.

    Args:
      description: what the network is.
      arrays: by their names in the file.
    """
    name = next(iter(sorted(arrays)))
    parameters = sum(array.size for key, array in arrays.items() if key.startswith("params/"))

    def shown(value: Any) -> str:
        # Four blanks: a name that looks like Markdown or HTML stays text.
        return "\n".join(f"    {line}" for line in json_text(value, indent=2).splitlines())

    return f"""\
---
library_name: i3d_jax
pipeline_tag: video-classification
tags: [jax, flax, action-recognition]
---

# {description.model}

A network of i3d_jax for video action recognition: {parameters:,} parameters, \
{description.num_classes} classes. Its options:

{shown(dict(description.options))}

## Preprocessing

How pixels are prepared before the network sees them; then uint8 becomes float32 in [-1, 1], x / 127.5 - 1.

{shown(dict(description.preprocessing))}

## Labels

In the order of the scores:

{shown(list(description.labels))}

## Where the weights come from

{shown(dict(description.provenance))}

## Use

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
print(arrays["{name}"].shape)
```

Names are those of Flax's variables with slashes between; kernels have the axes [time, height, width, in, out].
"""


def _safetensors():
    try:
        import safetensors
    except ModuleNotFoundError:
        raise UserError(f"a Hub folder needs the package safetensors; {install_hint('hub')}") from None
    return safetensors
