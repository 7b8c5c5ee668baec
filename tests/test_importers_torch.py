"""PyTorch files: both ports of I3D, torchvision's GoogLeNet, and what is wrong with a file."""

from __future__ import annotations

import os
import pickle

import jax
import numpy as np
import pytest
from helpers.foreign_checkpoints import (
    PREFIXES,
    flat,
    googlenet_shapes,
    has_its_models_shapes,
    random_arrays,
    sonnet_shapes,
    torch_state,
    write_torch,
)

from i3d_jax import models
from i3d_jax.importers import torch_file, torch_googlenet, torch_i3d
from i3d_jax.system.errors import UserError

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
pytest.importorskip("safetensors", reason='safetensors is not installed: pip install -e ".[torch]"')


# As the two ports call the first kernel.
STEMS = ("Conv3d_1a_7x7.conv3d.weight", "conv3d_1a_7x7.conv3d.weight")


def ones(channels):
    return np.ones(channels, np.float32)


@pytest.fixture(scope="module")
def i3d_state():
    arrays = random_arrays(sonnet_shapes("rgb", 5))
    return torch_state(arrays, prefix=PREFIXES["rgb"], port=0, gain=ones), arrays


@pytest.mark.parametrize(("wrapper", "prefix"), [(None, ""), ("state_dict", "module.basenet."), ("model", "")])
def test_a_state_dict_as_training_scripts_keep_it(tmp_path, i3d_state, wrapper, prefix):
    state, arrays = i3d_state
    imported = torch_i3d.read(write_torch(tmp_path / "i3d.pt", state, wrapper, prefix), stream=None)
    # Gains of 1 are none.
    assert imported.options == {"stream": "rgb"}
    assert has_its_models_shapes(imported)
    np.testing.assert_array_equal(
        flat(imported.variables)["params/Mixed_4d/Branch_1/Conv3d_0b_3x3/conv_3d/kernel"],
        arrays["RGB/inception_i3d/Mixed_4d/Branch_1/Conv3d_0b_3x3/conv_3d/w"],
    )
    left_out = ["left out 57, counters of training batches: Conv3d_1a_7x7.bn.num_batches_tracked and so on"]
    left_out += ["left out 1, beside the state dict: epoch"] if wrapper else []
    assert imported.report(file_format="a format")[1:] == left_out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("Mixed_3b.b1a.bn.weight"), "lacks Mixed_3b.b1a.bn.weight$"),
        (lambda state: state.update({"head.weight": np.zeros(3)}), "no place for: head.weight$"),
        (
            lambda state: state.update({"logits.conv3d.weight": np.zeros((5, 512, 1, 1, 1))}),
            r"logits.conv3d.weight is \[5, 512, 1, 1, 1\], expected \[5, 1024, 1, 1, 1\]$",
        ),
        (lambda state: state.pop("logits.conv3d.bias"), "it has no logits.conv3d.bias"),
        (
            lambda state: state.update({"logits.conv3d.bias": np.zeros(5, np.int64)}),
            "logits.conv3d.bias holds int64 numbers, expected floating-point ones$",
        ),
        (
            lambda state: state.update({"Conv3d_1a_7x7.conv3d.weight": np.zeros((64, 4, 7, 7, 7))}),
            r"Conv3d_1a_7x7.conv3d.weight is \[64, 4, 7, 7, 7\], expected five axes with 3",
        ),
    ],
)
def test_what_does_not_fit_in_a_state_dict(tmp_path, i3d_state, change, words):
    state = dict(i3d_state[0])
    change(state)
    with pytest.raises(UserError, match=words):
        torch_i3d.read(write_torch(tmp_path / "i3d.pt", state), stream=None)


class Program:
    """What an attacker would pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    path, made = tmp_path / "evil.pt", tmp_path / "made"
    for write in (
        lambda content: torch.save(content, path),
        lambda content: path.write_bytes(pickle.dumps(content, protocol=2)),
    ):
        write({"state_dict": Program(made)})
        with pytest.raises(UserError, match="could run a program, so it was not read"):
            torch_file.read(path, stems=STEMS)
    assert not made.exists()


def test_damaged_and_wrong_pytorch_files(tmp_path):
    path = write_torch(tmp_path / "i3d.pt", {"a": np.zeros(9999, np.float32)})
    whole = path.read_bytes()
    for content in (whole[:500], whole[:-100], b"", b"hello world"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no whole PyTorch file"):
            torch_file.read(path, stems=STEMS)
    torch.save(torch.zeros(3), path)
    with pytest.raises(UserError, match="should hold a state dict, found Tensor"):
        torch_file.read(path, stems=STEMS)
    torch.save({"a": torch.zeros(3), "epoch": 7}, path)
    with pytest.raises(UserError, match="found int at 'epoch'"):
        torch_file.read(path, stems=STEMS)
    with pytest.raises(UserError, match="there is no PyTorch file"):
        torch_file.read(tmp_path / "absent.pt", stems=STEMS)
    safetensors = tmp_path / "i3d.safetensors"
    safetensors.write_bytes(b"hello")
    with pytest.raises(UserError, match="no whole safetensors file"):
        torch_file.read(safetensors, stems=STEMS)


def test_half_precision_becomes_float32(tmp_path):
    path = tmp_path / "half.pt"
    torch.save({"a": torch.tensor([1.5], dtype=torch.bfloat16), "n": torch.tensor(3)}, path)
    arrays = torch_file.read(path, stems=STEMS).arrays
    assert arrays["a"].dtype == np.float32
    assert arrays["a"] == [1.5]
    assert arrays["n"] == 3


def googlenet(state, images):
    """torchvision's GoogLeNet in evaluation, written out: float [B, 3, H, W] in [-1, 1] to scores [B, classes]."""
    from torch.nn import functional

    state = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}

    def unit(x, name, stride=1):
        kernel = state[f"{name}.conv.weight"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        leaves = [state[f"{name}.bn.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        return functional.relu(functional.batch_norm(x, *leaves, eps=0.001))

    def block(x, name):
        name = f"inception{name}"
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1, ceil_mode=True)
        branches = [unit(x, f"{name}.branch1"), unit(unit(x, f"{name}.branch2.0"), f"{name}.branch2.1")]
        branches += [unit(unit(x, f"{name}.branch3.0"), f"{name}.branch3.1"), unit(pooled, f"{name}.branch4.1")]
        return torch.cat(branches, 1)

    x = functional.max_pool2d(unit(torch.from_numpy(images), "conv1", stride=2), 3, 2, ceil_mode=True)
    x = functional.max_pool2d(unit(unit(x, "conv2"), "conv3"), 3, 2, ceil_mode=True)
    x = functional.max_pool2d(block(block(x, "3a"), "3b"), 3, 2, ceil_mode=True)
    for name in ("4a", "4b", "4c", "4d", "4e"):
        x = block(x, name)
    x = block(block(functional.max_pool2d(x, 2, 2, ceil_mode=True), "5a"), "5b")
    return (x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]).numpy()


def googlenet_state(num_classes):
    """Random weights; gains are far from 1, some of them negative."""
    state = random_arrays(googlenet_shapes(num_classes))
    random = np.random.default_rng(1)
    for name, array in state.items():
        if name.endswith("bn.running_var"):
            state[name] = random.uniform(0.5, 1.5, array.shape).astype(np.float32)
        elif name.endswith("bn.weight"):
            state[name] = (random.uniform(0.5, 2, array.shape) * random.choice([1, 1, -1], array.shape)).astype("f4")
        elif name.endswith("num_batches_tracked"):
            state[name] = np.int64(4)
    return state


def test_googlenet_scores_as_in_pytorch(tmp_path):
    state = googlenet_state(7)
    imported = torch_googlenet.read(write_torch(tmp_path / "googlenet.pth", state))
    assert [line.split(":")[0] for line in imported.report(file_format="a format")[1:]] == [
        "left out 20, auxiliary classifiers, which only training uses",
        "left out 57, counters of training batches",
    ]
    model = models.create(imported.model, imported.num_classes, **imported.options)
    random = np.random.default_rng(2)
    # A height and a width of the two kinds at which PyTorch's pools pad as ours.
    images = random.uniform(-1, 1, (1, 224, 95, 3)).astype(np.float32)
    found, _ = jax.jit(model.apply)(imported.variables, {"rgb": images})
    expected = googlenet(state, images.transpose(0, 3, 1, 2))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
