"""Reads and writes PyTorch state dicts and safetensors files. Nothing in a file is ever executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from i3d_jax.importers.weights import Weights
from i3d_jax.system.errors import UserError, install_hint
from i3d_jax.system.files import is_file, parse_json, refuse_unreadable, written_whole
from i3d_jax.system.terminal import json_text

SAFETENSORS_SUFFIX = ".safetensors"
# Training scripts put the state dict under one of these keys, beside the optimizer's.
_WRAPPERS = ("state_dict", "model", "model_state_dict")
# Of a file of `torch.save`: an archive, or, before PyTorch 1.6, a pickle.
_BEGINNINGS = (b"PK", b"\x80")
# Marks a safetensors file that we have written.
_PROGRAM = "i3d_jax"
# `torch.nn.DataParallel` puts this before every name.
_PARALLEL_PREFIX = "module."


def read(path: Path) -> Weights:
    """Reads a file of `torch.save` (a state dict, alone or under a training script's key) or a safetensors file.

    Raises:
      UserError: the file does not exist, is damaged, or holds anything but arrays (a pickled program, say).
    """
    if not is_file(path):
        raise UserError(f"there is no PyTorch file {path}")
    refuse_unreadable(path)
    labels, beside = None, {}
    if path.suffix == SAFETENSORS_SUFFIX:
        tensors, labels = _read_safetensors(path)
    else:
        tensors, beside = _read_pickle(path)
    if all(name.startswith(_PARALLEL_PREFIX) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    arrays = {name: _as_numpy(tensor) for name, tensor in tensors.items()}
    return Weights(source=path, files=[path], arrays=arrays, beside=beside, labels=labels)


def _torch():
    try:
        import torch  # isort: skip
        import safetensors.torch
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise UserError(f"PyTorch files need the package {missing}; {install_hint('torch')}") from None
    return torch, safetensors


def _read_safetensors(path: Path):
    """Returns the tensors by name and the labels, None where the file has none."""
    _, safetensors = _torch()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is no whole safetensors file: {error}") from None
    # Another program's metadata may use the word for something else.
    if metadata.get("program") != _PROGRAM:
        return tensors, None
    where = f"the labels in {path}"
    labels = parse_json(metadata.get("labels", ""), where)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{where} were expected to be a list of names, found something else")
    return tensors, labels


def _read_pickle(path: Path):
    """Returns the tensors of a state dict by name, and what stands beside it with the reason why it is not read."""
    torch, _ = _torch()
    with open(path, "rb") as file:
        if not file.read(2).startswith(_BEGINNINGS):
            raise UserError(f"{path} is no whole PyTorch file: torch.save begins its files otherwise")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than arrays: reading it could run a program, so it was not read; save the state dict "
            "alone, by torch.save(model.state_dict(), FILE)"
        ) from None
    # The unpickler meets the bytes of a damaged file with exceptions of many kinds.
    except Exception as error:
        raise UserError(f"{path} is no whole PyTorch file: {' '.join(str(error).split())[:120]}") from None
    beside = {}
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            beside = {str(name): "beside the state dict" for name in content if name != key}
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} should hold a state dict, found {type(content).__name__}")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, torch.Tensor)):
            raise UserError(f"{path} should hold a state dict of arrays, found {type(value).__name__} at {name!r}")
    return content, beside


def _as_numpy(tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy()


def write_state_dict(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a state dict that `torch.load` reads; whole or not at all."""
    torch, _ = _torch()
    with written_whole(path) as file:
        torch.save(_as_tensors(arrays), file)


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], *, labels: Sequence[str], stream: str) -> None:
    """Writes arrays as a safetensors file, whole or not at all; labels (as JSON) and stream are its metadata."""
    _, safetensors = _torch()
    metadata = {
        "format": "pt",
        "program": _PROGRAM,
        "labels": json_text(list(labels)),
        "stream": stream,
    }
    with written_whole(path) as file:
        file.write(safetensors.torch.save(_as_tensors(arrays), metadata))


def _as_tensors(arrays: Mapping[str, np.ndarray]):
    """Copies arrays to tensors whose elements lie in order, as safetensors demands."""
    torch, _ = _torch()
    return {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}
