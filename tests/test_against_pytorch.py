"""Every architecture against its PyTorch twin, which was written from the paper and not from our code."""

from __future__ import annotations

import flax.traverse_util
import jax
import numpy as np
import pytest

from i3d_jax import models

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')

from benchmarks import torch_models  # noqa: E402

CLASSES = 7
BRANCHES = {
    "Branch_0": ("b0",),
    "Branch_1": ("b1a", "b1b"),
    "Branch_2": ("b2a", "b2b"),
    "Branch_3": ("b3b",),
}
SCOPES = {
    "RGB": "rgb",
    "Flow": "flow",
    "InceptionV1": "convnet",
    "Fusion": "fusion",
    "LSTM": "lstm",
    "Logits": "logits",
}
# Of units, of fully connected layers, and of the LSTM.
LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "input_kernel": "input_gates.weight",
    "hidden_kernel": "hidden_gates.weight",
    "input_var": "input_variance",
    "hidden_var": "hidden_variance",
}
# The places of C3D's layers in the twin's lists.
C3D = {f"conv{name}": f"convolutions.{place}" for name, place in zip(("1a", "2a"), (0, 2), strict=True)}
C3D |= {"conv3a": "convolutions.4", "conv3b": "convolutions.5", "conv4a": "convolutions.7", "conv4b": "convolutions.8"}
C3D |= {"conv5a": "convolutions.10", "conv5b": "convolutions.11"}
C3D_CONNECTED = {"fc6": ("fully_connected.0", "fully_connected.1"), "fc7": ("fully_connected.3", "fully_connected.4")}


def twin_name(path) -> str:
    """The twin's name of one of our variables."""
    _, *scopes, leaf = path
    if scopes[0] in C3D_CONNECTED:
        return f"{C3D_CONNECTED[scopes[0]][scopes[1] == 'batch_norm']}.{LEAVES[leaf]}"
    names = []
    for scope in scopes:
        if scope in BRANCHES:
            units = BRANCHES[scope]
        elif scope.startswith("Conv") and names and names[-1].startswith("Mixed"):
            # The second unit of a branch is its 3x3.
            names.append(units[-1] if scope.endswith("3x3") or len(units) == 1 else units[0])
        elif scope == "batch_norm":
            names.append("bn")
        elif scope in ("conv_2d", "conv_3d"):
            names.append(scope.replace("_", ""))
        elif scope.endswith("0c_1x1"):
            names.append(scope[:6].lower())
        else:
            names.append(SCOPES.get(scope, C3D.get(scope, scope)))
    leaves = {**LEAVES, "bias": "offset"} if names[0] == "lstm" else LEAVES
    return ".".join([*names, leaves.get(leaf, leaf)])


def in_twins_layout(path, value: np.ndarray) -> np.ndarray:
    """Channels last, as ours are, to PyTorch's order: outputs, inputs, taps."""
    if value.ndim < 2 or path[0] == "batch_stats":
        return value
    if "fc6" in path:
        # PyTorch flattens the grid [512, 1, 4, 4], ours is [1, 4, 4, 512].
        value = value.reshape(1, 4, 4, 512, -1).transpose(3, 0, 1, 2, 4).reshape(8192, -1)
    return np.moveaxis(value, (-1, -2), (0, 1))


def networks(name: str, **options):
    """Our network with random variables, and its twin with the same."""
    model = models.create(name, CLASSES, **options)
    random = np.random.default_rng(11)
    flat, state = {}, {}
    for path, leaf in flax.traverse_util.flatten_dict(models.template(model)).items():
        if path[-1].endswith("kernel"):
            value = random.normal(size=leaf.shape, scale=np.sqrt(2 / np.prod(leaf.shape[:-1])))
        elif path[-1].endswith("var"):
            value = random.uniform(0.5, 1.5, leaf.shape)
        else:
            value = random.normal(size=leaf.shape, scale=0.2)
        flat[path] = value.astype(np.float32)
        state[twin_name(path)] = torch.from_numpy(np.ascontiguousarray(in_twins_layout(path, flat[path])))
    twin = torch_models.TWINS[name](CLASSES).eval()
    missing, unknown = twin.load_state_dict(state, strict=False)
    assert not unknown
    # The gains of PyTorch's batch normalisation are ones from the start; ours has none.
    assert all(name.endswith(("bn.weight", "num_batches_tracked", "1.weight", "4.weight")) for name in missing), missing
    return model, flax.traverse_util.unflatten_dict(flat), twin


@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [
        ("inception_v1", 1, (64, 96)),
        ("inception_v1", 1, (193, 77)),
        ("conv_lstm", 3, (64, 64)),
        ("c3d", 16, (112, 112)),
        ("two_stream", 2, (64, 64)),
        ("fused", 5, (64, 64)),
        ("two_stream_i3d", 10, (33, 64)),
    ],
)
def test_logits_are_the_twins(name, frames, size):
    model, variables, twin = networks(name)
    random = np.random.default_rng(12)
    shapes = model.input_shapes(frames, 0)
    inputs = {
        stream: random.uniform(-1, 1, (2, *shape[:-3], *size, shape[-1])).astype(np.float32)
        for stream, shape in shapes.items()
    }
    logits, _ = jax.jit(model.apply)(variables, inputs)
    with torch.inference_mode():
        expected = twin(*(torch.from_numpy(np.moveaxis(value, -1, 1).copy()) for value in inputs.values())).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_symmetric_stem_is_pytorchs_padding():
    """Without the twin's SAME padding, a convolution that pads by itself, 3 on every side, at an even size."""
    model, variables, twin = networks("inception_v1", stem_padding="symmetric")
    stem = twin.get_submodule("Conv2d_1a_7x7")
    stem.pad = torch.nn.Identity()
    stem.conv2d.padding = (3, 3)
    image = np.random.default_rng(13).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    logits, _ = jax.jit(model.apply)(variables, {"rgb": image})
    with torch.inference_mode():
        expected = twin(torch.from_numpy(np.moveaxis(image, -1, 1).copy())).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(logits - jax.jit(model.clone(stem_padding="same").apply)(variables, {"rgb": image})[0]).max() > 1e-3


def test_the_first_loss_of_the_lstm_is_the_twins():
    """In training: the batch's statistics, and the loss at every step."""
    model, variables, twin = networks("conv_lstm", dropout_rate=0.0)
    random, labels = np.random.default_rng(14), np.array([3, 0, 6])
    clips = random.uniform(-1, 1, (3, 4, 32, 32, 3)).astype(np.float32)

    def losses(variables, inputs):
        (logits, endpoints), _ = model.apply(variables, inputs, train=True, mutable=["batch_stats"])
        return model.clip_losses(logits, endpoints, labels)

    twin.train()
    with torch.no_grad():
        expected = twin.clip_losses(torch.from_numpy(labels), torch.from_numpy(np.moveaxis(clips, -1, 1).copy()))
    np.testing.assert_allclose(jax.jit(losses)(variables, {"rgb": clips}), expected, rtol=1e-3)
