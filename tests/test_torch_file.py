"""PyTorch files of others: where in a file a network stands, what is before its names, and what is no state dict."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from i3d_jax.importers import torch_file, torch_i3d
from i3d_jax.system.errors import UserError

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
safetensors = pytest.importorskip("safetensors.torch", reason='safetensors is not installed: pip install -e ".[torch]"')

TESTS = Path(__file__).parent
# What the two ports call the first kernel and the last bias.
NAMES = {
    "Conv3d_1a_7x7.conv3d.weight": "logits.conv3d.bias",
    "conv3d_1a_7x7.conv3d.weight": "conv3d_0c_1x1.conv3d.bias",
}


def network(prefix="", stem="Conv3d_1a_7x7.conv3d.weight", first=1.0):
    """Two arrays of a network, with a prefix before their names."""
    return {prefix + stem: torch.tensor([first, 2]), prefix + NAMES[stem]: torch.tensor([3.0])}


def read(path, content):
    torch.save(content, path)
    return torch_file.read(path, stems=list(NAMES))


@pytest.mark.parametrize("stem", NAMES)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module.basenet.", "a.b_c.", "net/", "i3d_"])
def test_any_prefix_that_all_names_have_is_taken_off(tmp_path, stem, prefix):
    arrays = read(tmp_path / "a.pt", network(prefix, stem)).arrays
    assert {name: array.tolist() for name, array in arrays.items()} == {stem: [1, 2], NAMES[stem]: [3]}
    safetensors.save_file(network(prefix, stem), tmp_path / "a.safetensors")
    assert torch_file.read(tmp_path / "a.safetensors", stems=list(NAMES)).arrays.keys() == arrays.keys()


LIGHTNING = {
    "epoch": 3,
    "global_step": 7,
    "pytorch-lightning_version": "2.4.0",
    "state_dict": network("model."),
    "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}],
    "callbacks": {"ModelCheckpoint": {"best_k_models": {"a.ckpt": torch.tensor(0.5)}, "best_model_path": "a.ckpt"}},
    "hparams": {"class_weights": torch.ones(2)},
}


@pytest.mark.parametrize(
    ("content", "beside"),
    [
        (LIGHTNING, set(LIGHTNING) - {"state_dict"}),
        ({"optimizer": {"state": {}}, "net": network("module.")}, {"optimizer"}),
        ({"ema": network(first=9.0), "model": network()}, {"ema"}),
        ({"run": {"step": 2, "weights": {"backbone": network("_orig_mod."), "loss": {"scale": torch.ones(1)}}}, 5: "x"},
         {"5", "run.step", "run.weights.loss"}),
    ],
)  # fmt: skip
def test_a_network_is_found_wherever_a_training_script_keeps_it(tmp_path, content, beside):
    weights = read(tmp_path / "a.pt", content)
    assert weights.arrays["Conv3d_1a_7x7.conv3d.weight"].tolist() == [1, 2]
    assert len(weights.arrays) == 2
    assert weights.beside == dict.fromkeys(beside, "beside the state dict")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"rgb": network(), "flow": network()}, "holds more than one such network, under rgb, flow: save the one"),
        (network("a.") | network("b."), "holds more than one such network, under a.…, b.…: save the one"),
        (
            network("model.") | {"criterion.weight": torch.ones(2)},
            "names that begin with 'model.' and, beside it, criterion.weight: save the state dict of the network alone",
        ),
        ({"net": {}, "lr": 1}, "should hold a state dict of arrays, found dict at 'net'"),
        ({"other.weight": torch.ones(1)}, "it has no Conv3d_1a_7x7.conv3d.weight, but other.weight"),
        ({"net": {"other.weight": torch.ones(1)}}, "it has no Conv3d_1a_7x7.conv3d.weight, but other.weight"),
        (
            network() | {"Conv3d_1a_7x7.bn.bias": torch.ones(2).to_sparse()},
            "Conv3d_1a_7x7.bn.bias should be a plain array of real numbers, found torch.float32, torch.sparse_coo",
        ),
        (network() | {"a": torch.ones(2, dtype=torch.complex64)}, "a should be a plain array .* torch.complex64"),
        (
            network() | {"a": torch.ones(2, device="meta")},
            "a should be a plain array .* on meta",
        ),
    ],
)
def test_what_is_not_one_network_is_named(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=words):
        torch_i3d.read(tmp_path / "a.pt", stream=None)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensor: torch.nn.Parameter(tensor),
        lambda tensor: torch.nn.Parameter(tensor, requires_grad=False),
        lambda tensor: tensor.half().requires_grad_(),
        lambda tensor: torch.nn.Parameter(tensor.bfloat16()),
        lambda tensor: torch.stack([tensor, -tensor], 1).requires_grad_()[:, 0].clone().detach().requires_grad_(),
    ],
)
def test_values_that_ask_for_gradients(tmp_path, wrap):
    state = {name: wrap(tensor) for name, tensor in network("module.").items()}
    array = read(tmp_path / "a.pt", state).arrays["Conv3d_1a_7x7.conv3d.weight"]
    assert (array.dtype, array.tolist()) == (np.float32, [1, 2])


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv3d_1a_7x7 = torch.nn.ModuleDict({"conv3d": torch.nn.Linear(2, 1, bias=False)})

    def forward(self, x):
        return self.Conv3d_1a_7x7["conv3d"](x)


def package(path, net):
    with torch.package.PackageExporter(path) as exporter:
        exporter.extern("**")
        exporter.save_pickle("model", "model.pkl", net.state_dict())


def apart(program, *arguments):
    """Runs a program of PyTorch's in a process of its own, which can import this file.

    torch.export imports Triton, which crashes where TensorFlow was imported before.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    subprocess.run([sys.executable, "-c", f"import sys, torch\n{program}", *arguments], env=environment, check=True)


def export(path, net):
    made = "torch.export.export(test_torch_file.Net().eval(), (torch.ones(1, 2),))"
    apart(f"import test_torch_file\ntorch.export.save({made}, sys.argv[1])", path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path, net: torch.jit.script(net).save(path), "a TorchScript program"),
        (lambda path, net: torch.jit.trace(net, torch.ones(1, 2)).save(path), "a TorchScript program"),
        (lambda path, net: torch.jit.script(net)._save_for_lite_interpreter(path), "a TorchScript program"),
        (export, "of torch.export"),
        (package, "a package of torch.package"),
    ],
    ids=["script", "trace", "mobile", "export", "package"],
)
def test_a_program_is_called_one(tmp_path, write, words):
    path = tmp_path / "net.pt"
    write(str(path), Net().eval())
    with pytest.raises(UserError, match=f"net.pt is a.* {re.escape(words.partition(' ')[2])}.* not read; ") as error:
        torch_file.read(path, stems=list(NAMES))
    # What it advises writes a file that is read.
    if advice := re.search(r"torch\.save\(torch\.\w+\.load\(FILE\)\.state_dict(?:\(\))?, NEW\)", str(error.value)):
        apart(f"FILE, NEW = sys.argv[1:]\n{advice[0]}", path, tmp_path / "state.pt")
        found = torch_file.read(tmp_path / "state.pt", stems=list(NAMES))
        assert list(found.arrays) == ["Conv3d_1a_7x7.conv3d.weight"]


def test_an_archive_that_would_fill_the_memory_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(65 << 20))
    with pytest.raises(UserError, match=r"bomb.pt is no archive of arrays: it would unpack to 68157440 bytes"):
        torch_file.read(tmp_path / "bomb.pt", stems=list(NAMES))


def test_an_archive_whose_names_are_damaged_is_no_whole_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("archive/dat\u00e9/0", b"array")
    content = (tmp_path / "net.pt").read_bytes()
    assert content.count(b"\xc3\xa9") == 2
    (tmp_path / "net.pt").write_bytes(content.replace(b"\xc3\xa9", b"\xff\xff"))
    with pytest.raises(UserError, match=r"net.pt is no whole PyTorch file: it is damaged or cut short"):
        torch_file.read(tmp_path / "net.pt", stems=list(NAMES))
