"""Writes an i3d of ours as the first PyTorch port of I3D names it, for that port to load."""

from __future__ import annotations

from pathlib import Path

from i3d_jax import checkpoint
from i3d_jax.importers import torch_file, torch_i3d
from i3d_jax.system.errors import UserError

TARGETS = ("torch_i3d", "safetensors")
# What the ports do, and cannot do otherwise.
_PORTS = {"width_multiplier": 1.0, "temporal_padding": "zeros", "stem_padding": "same", "last_block": "Mixed_5c"}


def write(source: Path, output: Path, *, target: str, stream: str | None) -> list[str]:
    """Writes a checkpoint's network as a PyTorch file, whole or not at all.

    Args:
      source: a checkpoint directory, or a workdir (its newest checkpoint).
      output: the file, which does not exist.
      target: "torch_i3d", a state dict of `torch.save`, or "safetensors", which holds the labels and the stream too.
      stream: "rgb" or "flow" if the caller expects one.

    Returns:
      Lines for the user: what was written.

    Raises:
      UserError: the checkpoint cannot be read, is of another architecture or stream, or computes what the ports cannot;
        or the name of the file would mislead its readers.
    """
    if (target == "safetensors") != (output.suffix == torch_file.SAFETENSORS_SUFFIX):
        raise UserError(
            f"the name of {output} should tell its format: {torch_file.SAFETENSORS_SUFFIX} for --to safetensors, "
            "another, such as .pt, for --to torch_i3d"
        )
    model, variables, metadata = checkpoint.load(source)
    if metadata["model"] != "i3d":
        raise UserError(f"the PyTorch ports are of 'i3d', {source} holds {metadata['model']!r}")
    if stream not in (None, model.stream):
        raise UserError(f"{source} holds the {model.stream} stream, --stream {stream} was asked for")
    for option, expected in _PORTS.items():
        if (found := getattr(model, option)) != expected:
            raise UserError(
                f"{source} has {option} {found!r}, the PyTorch ports {expected!r}: there it would not compute the same"
            )
    arrays = torch_i3d.state_dict(variables)
    if target == "safetensors":
        torch_file.write_safetensors(output, arrays, labels=metadata["labels"], stream=model.stream)
    else:
        torch_file.write_state_dict(output, arrays)
    return [f"wrote {output}: {len(arrays)} arrays of the {model.stream} stream, {model.num_classes} classes"]
