"""Reads and writes PyTorch state dicts and safetensors files. Nothing in a file is ever executed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i3d_jax.importers.naming import some
from i3d_jax.importers.weights import Weights
from i3d_jax.system.archives import refuse_inflated
from i3d_jax.system.errors import UserError, install_hint
from i3d_jax.system.files import is_file, parse_json, refuse_unreadable, written_whole
from i3d_jax.system.terminal import json_text

SAFETENSORS_SUFFIX = ".safetensors"
# Of several state dicts in a file, such as an averaged one beside the network's own, the first of these is meant.
_USUAL_KEYS = ("state_dict", "model", "model_state_dict")
# Deeper in a file's dictionaries stands no network.
_MOST_KEYS = 4
# What PyTorch's other archives have and those of `torch.save` have not.
_PROGRAMS = {
    "constants.pkl": "a TorchScript program: reading it could run it, so it was not read; where you trust it, "
    "torch.save(torch.jit.load(FILE).state_dict(), NEW) writes its weights alone",
    "archive_format": "a program of torch.export, not weights alone: it was not read; "
    "torch.save(torch.export.load(FILE).state_dict, NEW) writes them",
    ".data/extern_modules": "a package of torch.package: reading it could run a program, so it was not read; "
    "save the state dict of the module in it alone, by torch.save(module.state_dict(), NEW)",
}
# Of a file of `torch.save`: an archive, or, before PyTorch 1.6, a pickle.
_BEGINNINGS = (b"PK", b"\x80")
# Marks a safetensors file that we have written.
_PROGRAM = "i3d_jax"


def read(path: Path, *, stems: Sequence[str]) -> Weights:
    """Reads a file of `torch.save` or a safetensors file: the state dict of a network, wherever it stands in the file.

    It may stand under keys of dictionaries, as training scripts keep it beside the optimizer's, and one prefix may
    stand before all of its names, as wrappers put it there ("module.", "_orig_mod.", "model."). Both are taken off.

    Args:
      path: the file.
      stems: one of the network's names, as each format in question calls it: by them its state dict and the prefix are
        found. Where there is none of them, the file's first state dict is returned as it is.

    Raises:
      UserError: the file does not exist, is damaged, holds a program or anything else but arrays, or holds such a
        network twice.
    """
    if not is_file(path):
        raise UserError(f"there is no PyTorch file {path}")
    refuse_unreadable(path)
    labels: Sequence[str] | None = None
    beside: dict[str, str] = {}
    if path.suffix == SAFETENSORS_SUFFIX:
        tensors, labels = _read_safetensors(path)
    else:
        tensors, beside = _state_dict(_read_pickle(path), stems, path)
    tensors = _without_prefix(tensors, stems, path)
    arrays = {name: _as_numpy(tensor, name, path) for name, tensor in tensors.items()}
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
        raise UserError(f"{path} is no whole safetensors file: it is damaged or cut short") from error
    # Another program's metadata may use the word for something else.
    if metadata.get("program") != _PROGRAM:
        return tensors, None
    where = f"the labels in {path}"
    labels = parse_json(metadata.get("labels", ""), where)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{where} were expected to be a list of names, found something else")
    return tensors, labels


def _read_pickle(path: Path) -> Any:
    """Returns what `torch.save` wrote."""
    torch, _ = _torch()
    with open(path, "rb") as file:
        if not file.read(2).startswith(_BEGINNINGS):
            raise UserError(f"{path} is no whole PyTorch file: torch.save begins its files otherwise")
    _refuse_program(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than arrays: reading it could run a program, so it was not read; save the state dict "
            "alone, by torch.save(model.state_dict(), FILE)"
        ) from None
    # The unpickler meets the bytes of a damaged file with exceptions of many kinds.
    except Exception as error:
        raise UserError(f"{path} is no whole PyTorch file: it is damaged or cut short") from error


def _refuse_program(path: Path) -> None:
    """Raises a `UserError` for an archive that PyTorch wrote otherwise than by `torch.save`, or that is a bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
            unpacked = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
        return
    # Damaged lists of names are met with exceptions of many kinds.
    except Exception as error:
        raise UserError(f"{path} is no whole PyTorch file: it is damaged or cut short") from error
    refuse_inflated(path, unpacked)
    for name, sentence in _PROGRAMS.items():
        if name in names:
            raise UserError(f"{path} is {sentence}")


def _state_dict(content: Any, stems: Sequence[str], path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Returns the tensors of a network by name, and what stands beside them with the reason why it is not read."""
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} should hold a state dict, found {type(content).__name__}")
    found = {keys: mapping for keys, mapping in _mappings(content) if _is_state_dict(mapping)}
    if not found:
        name, value = next((name, value) for name, value in content.items() if not _is_state_dict({name: value}))
        raise UserError(f"{path} should hold a state dict of arrays, found {type(value).__name__} at {name!r}")
    fitting = [keys for keys, mapping in found.items() if _prefixes(mapping, stems)] or sorted(found, key=len)[:1]
    usual = [keys for key in _USUAL_KEYS for keys in fitting if keys[-1:] == (key,)]
    if len(fitting) > 1 and not usual:
        raise UserError(_held_twice(path, [_dotted(keys) for keys in fitting]))
    chosen = (usual or fitting)[0]
    beside: dict[str, str] = {}
    for depth, key in enumerate(chosen):
        beside |= {_dotted((*chosen[:depth], name)): "beside the state dict" for name in content if name != key}
        content = content[key]
    return content, beside


def _mappings(content: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Mapping]]:
    """Yields a dictionary and those in it, each with the keys that lead there."""
    if isinstance(content, Mapping) and len(keys) <= _MOST_KEYS:
        yield keys, content
        for key, value in content.items():
            yield from _mappings(value, (*keys, key))


def _dotted(keys: Iterable[Any]) -> str:
    return ".".join(map(str, keys))


def _is_state_dict(mapping: Mapping[Any, Any]) -> bool:
    torch, _ = _torch()
    return bool(mapping) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in mapping.items()
    )


def _prefixes(names: Iterable[str], stems: Sequence[str]) -> list[str]:
    """Returns what stands before the stems, wherever one of them is the end of a name."""
    return sorted({name.removesuffix(stem) for name in names for stem in stems if name.endswith(stem)})


def _without_prefix(tensors: Mapping[str, Any], stems: Sequence[str], path: Path) -> Mapping[str, Any]:
    prefixes = _prefixes(tensors, stems)
    if len(prefixes) > 1:
        raise UserError(_held_twice(path, [f"{prefix}…" for prefix in prefixes]))
    if not prefixes:
        return tensors
    if others := [name for name in tensors if not name.startswith(prefixes[0])]:
        raise UserError(
            f"{path} holds the network under names that begin with {prefixes[0]!r} and, beside it, {some(others)}: "
            "save the state dict of the network alone, by torch.save(module.state_dict(), FILE)"
        )
    return {name.removeprefix(prefixes[0]): tensor for name, tensor in tensors.items()}


def _held_twice(path: Path, places: Sequence[str]) -> str:
    return f"{path} holds more than one such network, under {some(places)}: save the one that is meant alone"


def _as_numpy(tensor, name: str, path: Path) -> np.ndarray:
    torch, _ = _torch()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise UserError(f"{path}: {name} should be a plain array of real numbers, found {kind}")
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().contiguous().numpy()


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
