"""A network as a SavedModel, which plain TensorFlow runs, and what serves TensorFlow's models.

    FOLDER/saved_model.pb, variables/   the program and its arrays; `tf.saved_model.load` reads them
    FOLDER/config.json, README.md       labels and preprocessing as in a Hub folder, and the model card

Its signature `serving_default` takes for each stream uint8 [B, T, H, W, C], as `importers.stablehlo`'s program does,
and gives {"logits": float32 [B, classes]}. The program is that one, in TensorFlow's operation XlaCallModule, as
`jax2tf` makes it; but in the oldest form of StableHLO that has all of it, for TensorFlow 2.21 reads no newer one than
1.13, and JAX 0.12 writes 1.18.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.extend.mlir.dialects import stablehlo as dialect

from i3d_jax.data import cpu_tensorflow
from i3d_jax.importers import card, hub, stablehlo
from i3d_jax.importers.exported import Original, Program
from i3d_jax.system.errors import UserError, install_hint, one_line
from i3d_jax.system.files import make_folder

SIGNATURE = "serving_default"
_USE = """\
By [TensorFlow](https://www.tensorflow.org), on any number of clips of this size:

```python
import json
import numpy as np
import tensorflow as tf

network = tf.saved_model.load(".").signatures["serving_default"]
with open("config.json", encoding="utf-8") as file:
    labels = json.load(file)["labels"]
clips = {clips}
logits = network(**{{stream: tf.constant(own) for stream, own in clips.items()}})["logits"].numpy()
print(labels[logits[0].argmax()])
```
"""


def write(folder: Path, original: Original) -> None:
    """Writes a SavedModel.

    Args:
      folder: is made.
      original: the network.

    Raises:
      UserError: TensorFlow is not installed, or as `stablehlo.exported`.
    """
    tf = _tensorflow()
    from tensorflow.compiler.tf2xla.python import xla

    make_folder(folder)
    exported = stablehlo.exported(original)
    module = dialect.serialize_portable_artifact_str(str(exported.mlir_module()), dialect.get_minimum_version())

    def program(clips):
        given = jax.tree.leaves(((variables, clips), {}))
        [logits] = xla.call_module(
            [given[number] for number in exported.module_kept_var_idx],
            version=exported.calling_convention_version,
            module=module,
            Tout=[tf.float32],
            Sout=[[None, original.description.num_classes]],
            platforms=[platform.upper() for platform in exported.platforms],
            function_list=(),
            has_token_input_output=False,
            disabled_checks=(),
        )
        return {"logits": logits}

    variables = {name: tf.Variable(array, trainable=False) for name, array in original.arrays.items()}
    specs = {
        stream: tf.TensorSpec((None, *shape), tf.uint8, name=stream) for stream, shape in original.clip_shapes.items()
    }
    network = tf.Module()
    network.arrays = list(variables.values())
    network.program = tf.function(program, input_signature=[specs], autograph=False)
    tf.saved_model.save(network, str(folder), signatures={SIGNATURE: network.program})
    original.description.write(folder, hub.CONFIG)
    card.write(folder, original, _USE.format(clips=card.empty_clips(original)))


def load(folder: Path) -> Program:
    """Reads the SavedModel, for TensorFlow to run; a `UserError` says where it does not."""
    tf = _tensorflow()
    loaded = tf.saved_model.load(str(folder))

    def run(clips: Mapping[str, np.ndarray]) -> np.ndarray:
        try:
            given = {stream: tf.constant(own) for stream, own in clips.items()}
            return loaded.signatures[SIGNATURE](**given)["logits"].numpy()
        except tf.errors.OpError as error:
            raise UserError(
                f"TensorFlow {tf.__version__} does not run what JAX {jax.__version__} has written, where TensorFlow "
                f"2.21 with JAX 0.10 and 0.12 is known to: {one_line(error)}"
            ) from error

    return run


def _tensorflow():
    try:
        return cpu_tensorflow.load()
    except ModuleNotFoundError as error:
        raise UserError(f"a SavedModel needs the package {error.name}; {install_hint('data')}") from None
