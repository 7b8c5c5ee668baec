"""A network as a program that plain JAX runs without this package: StableHLO, by `jax.export`.

    FOLDER/network.stablehlo   the program: `jax.export.deserialize` reads it
    FOLDER/model.safetensors, config.json, digests.json, README.md   what a Hub folder holds (`importers.hub`)

The program takes (arrays, clips): the arrays of model.safetensors by name, and for each stream uint8 [B, T, H, W, C] of
any B, T and H x W as `preprocessing` in config.json says (`frames`, `crop`). It gives logits float32 [B, classes].
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from i3d_jax.importers import card, hub
from i3d_jax.importers.exported import Original, Program
from i3d_jax.system.files import written_whole

PROGRAM = "network.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
_USE = """\
By [JAX](https://docs.jax.dev) and [safetensors](https://github.com/huggingface/safetensors), on any number of clips \
of this size:

```python
import json
import jax.export
import numpy as np
from safetensors.numpy import load_file

with open("network.stablehlo", "rb") as file:
    network = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
with open("config.json", encoding="utf-8") as file:
    labels = json.load(file)["labels"]
arrays = load_file("model.safetensors")
clips = {clips}
logits = np.asarray(network(arrays, clips))
print(labels[logits[0].argmax()])
```

As a checkpoint of i3d_jax:

    python -m i3d_jax.convert --source FOLDER --format hub --output CHECKPOINT
"""


def exported(original: Original) -> jax.export.Exported:
    """Traces the network: (arrays by name, clips uint8 [B, ...] by stream of any B) to logits, for all platforms.

    Raises:
      UserError: as `Original.clip_shapes`, or the network takes no clips of this size.
    """
    arrays = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in original.arrays.items()}
    [batch] = jax.export.symbolic_shape("b")
    clips = {stream: jax.ShapeDtypeStruct((batch, *shape), jnp.uint8) for stream, shape in original.clip_shapes.items()}
    with original.exactly():
        return jax.export.export(jax.jit(original.program()), platforms=PLATFORMS)(arrays, clips)


def write(folder: Path, original: Original) -> None:
    """Writes a Hub folder with the program; raises as `exported`.

    Args:
      folder: is made.
      original: the network.
    """
    hub.write_arrays(folder, original)
    with written_whole(folder / PROGRAM) as file:
        file.write(exported(original).serialize())
    card.write(folder, original, _USE.format(clips=card.empty_clips(original)))


def load(folder: Path) -> Program:
    """Reads the program in a folder, for JAX to run."""
    _, _, weights = hub.read(folder)
    arrays = jax.device_put(weights.arrays)
    network = jax.jit(jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes())).call)
    return lambda clips: np.asarray(network(arrays, dict(clips)))
