"""A network as a file of ONNX, by jax2onnx, which ONNX Runtime and others run.

    FOLDER/network.onnx             the program with its arrays; its metadata has what config.json says
    FOLDER/config.json, README.md   labels and preprocessing as in a Hub folder, and the model card

It takes for each stream uint8 [B, T, H, W, C], as `importers.stablehlo`'s program does, and gives `logits`, float32
[B, classes]. jax2onnx knows convolutions of images alone: those of videos go as they do on CPUs (`models.lowering`).
"""

from __future__ import annotations

import logging
import types
from pathlib import Path

import jax
import numpy as np

from i3d_jax.importers import card, hub
from i3d_jax.importers.exported import Original, Program
from i3d_jax.models.purpose import for_translation
from i3d_jax.system.errors import UserError, install_hint, one_line
from i3d_jax.system.files import make_folder, written_whole

PROGRAM = "network.onnx"
# Of ONNX, which ONNX Runtime reads since 1.20.
OPSET = 21
# jax2onnx 0.17.1 asks for an Orbax that is older than ours, and needs none here.
_INSTALL = "{hint} and then: pip install --no-deps jax2onnx==0.17.1"
# What a file may hold (protobuf).
_MOST_BYTES = 2**31 - 1
_USE = """\
By [ONNX Runtime](https://onnxruntime.ai), on any number of clips of this size:

```python
import json
import numpy as np
import onnxruntime

network = onnxruntime.InferenceSession("network.onnx", providers=["CPUExecutionProvider"])
labels = json.loads(network.get_modelmeta().custom_metadata_map["config"])["labels"]
clips = {clips}
[logits] = network.run(["logits"], clips)
print(labels[logits[0].argmax()])
```
"""


def write(folder: Path, original: Original) -> None:
    """Writes the folder.

    Args:
      folder: is made.
      original: the network.

    Raises:
      UserError: a package is not installed, jax2onnx does not take the network, it is too large for a file of ONNX, or
        as `Original.clip_shapes`.
    """
    jax2onnx = _packages()
    shapes = original.clip_shapes
    make_folder(folder)
    program = original.program()
    # Without a dtype of its own, an input would be float32.
    inputs = [types.SimpleNamespace(shape=("clips", *shape), dtype=np.dtype(np.uint8)) for shape in shapes.values()]
    arrays = jax.tree.map(np.asarray, original.arrays)
    try:
        with original.exactly(), for_translation():
            made = jax2onnx.to_onnx(
                lambda *clips: program(arrays, dict(zip(shapes, clips, strict=True))),
                inputs,
                model_name=original.description.model,
                opset=OPSET,
                input_names=list(shapes),
                output_names=["logits"],
            )
    # It tells of an operation that it does not know in exceptions of many kinds.
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"jax2onnx does not take the network of {original.source}, {original.description.model}: {one_line(error)}"
        ) from error
    original.description.write(folder, hub.CONFIG)
    config = made.metadata_props.add()
    config.key, config.value = "config", (folder / hub.CONFIG).read_text(encoding="utf-8")
    if made.ByteSize() > _MOST_BYTES:
        raise UserError(
            f"the network of {original.source} takes {made.ByteSize():,} bytes, and a file of ONNX holds "
            f"{_MOST_BYTES:,} at most"
        )
    with written_whole(folder / PROGRAM) as file:
        file.write(made.SerializeToString())
    card.write(folder, original, _USE.format(clips=card.empty_clips(original)))


def load(folder: Path) -> Program:
    """Reads the file in a folder, for ONNX Runtime to run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Errors: it warns of each array that its own optimisation leaves unused.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / PROGRAM, options, providers=["CPUExecutionProvider"])
    return lambda clips: session.run(["logits"], dict(clips))[0]


def _packages():
    try:
        import jax2onnx
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        hint = _INSTALL.format(hint=install_hint("onnx"))
        raise UserError(f"an export to ONNX needs the package {error.name}; {hint}") from None
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)
    return jax2onnx
