"""The model card of an export, README.md: what the network is, and how another program uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from i3d_jax.importers.exported import Original
from i3d_jax.system.files import written_whole
from i3d_jax.system.terminal import json_text

CARD = "README.md"


def write(folder: Path, original: Original, use: str) -> None:
    """Writes the card into a folder.

    Args:
      folder: is there.
      original: the network.
      use: Markdown of how another program uses what is in the folder.
    """
    with written_whole(folder / CARD) as file:
        file.write(_card(original, use).encode())


def empty_clips(original: Original) -> str:
    """Returns the Python of one empty clip by stream: what a reader replaces by pixels, 0 to 255, as they are."""
    shapes = original.clip_shapes.items()
    return "{" + ", ".join(f'"{stream}": np.zeros({(1, *shape)}, np.uint8)' for stream, shape in shapes) + "}"


def _card(original: Original, use: str) -> str:
    """Returns the card, Markdown with the Hub's fields before it."""
    description = original.description
    parameters = sum(array.size for name, array in original.arrays.items() if name.startswith("params/"))

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

{use}"""
