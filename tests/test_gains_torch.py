"""Gains of batch normalisation that come from PyTorch: the same function here, in evaluation and in training."""

from __future__ import annotations

import copy
import functools

import flax.traverse_util
import jax
import numpy as np
import pytest
from helpers.foreign_checkpoints import flat

from i3d_jax import models
from i3d_jax.importers import naming, torch_i3d

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')

from benchmarks import torch_models  # noqa: E402

CLASSES = 5


@pytest.fixture(scope="module")
def twin():
    """The first port with random weights; a third of its gains are below 0."""
    network, random = torch_models.InceptionI3d(CLASSES), np.random.default_rng(3)
    for name, leaf in network.state_dict().items():
        if name.endswith("bn.weight"):
            value = random.uniform(0.4, 2, leaf.shape) * random.choice([1, 1, -1], leaf.shape)
        elif name.endswith("running_var"):
            value = random.uniform(0.5, 1.5, leaf.shape)
        elif leaf.ndim > 1:
            value = random.normal(size=leaf.shape, scale=np.sqrt(2 / np.prod(leaf.shape[1:])))
        else:
            value = random.normal(size=leaf.shape, scale=0.2)
        leaf.copy_(torch.from_numpy(np.asarray(value)))
    return network


@pytest.fixture(scope="module")
def imported(twin, tmp_path_factory):
    path = tmp_path_factory.mktemp("twin") / "i3d.pt"
    torch.save(twin.state_dict(), path)
    found = torch_i3d.read(path, stream=None)
    return models.create(found.model, found.num_classes, **found.options, dropout_rate=0.0), found.variables


def clips(size, batch=2):
    return np.random.default_rng(4).uniform(-1, 1, (batch, 9, *size, 3)).astype(np.float32)


def as_theirs(videos):
    """Ours, [B, T, H, W, C], as PyTorch has them."""
    return np.moveaxis(np.asarray(videos), -1, 1)


def test_the_file_again(twin, imported):
    model, variables = imported
    assert model.batch_norm_gain
    written, expected = torch_i3d.state_dict(variables), twin.state_dict()
    assert written.keys() == expected.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, expected[name].numpy(), err_msg=name)


def test_endpoints_and_logits_in_evaluation(twin, imported):
    model, variables = imported
    seen = {}
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output.clone()}))
        for name, layer in twin.named_children()
    ]
    videos = clips((33, 64), batch=1)
    with torch.inference_mode():
        seen["Logits"] = twin.eval()(torch.from_numpy(as_theirs(videos).copy()))
    for hook in hooks:
        hook.remove()
    logits, endpoints = jax.jit(model.apply)(variables, {"rgb": videos})
    assert logits.shape == (1, CLASSES)
    assert set(twin.trunk) <= set(endpoints)
    for name in (*twin.trunk, "Logits"):
        ours, theirs = as_theirs(endpoints[name]), seen[name].numpy()
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), name


def test_logits_and_running_means_in_training(twin, imported):
    model, variables = imported
    videos, before = clips((64, 64)), copy.deepcopy(twin.state_dict())
    with torch.no_grad():
        expected = twin.train()(torch.from_numpy(as_theirs(videos).copy())).numpy()
    statistics = {
        name: leaf.numpy().copy() for name, leaf in twin.state_dict().items() if name.endswith("running_mean")
    }
    twin.load_state_dict(before)
    training = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    (logits, _), new = jax.jit(training)(variables, {"rgb": videos})
    assert np.abs(logits - expected).max() <= 1e-3 * np.abs(expected).max()
    found = naming.scatter(new, torch_i3d.LETTERED)
    for name, mean in statistics.items():
        assert np.abs(found[name] - mean).max() <= 1e-5 * np.abs(mean).max(), name


def test_gradients_in_training(twin, imported):
    """Up to a block that leaves hundreds of values a channel: of few, one ReLU that rounding flips moves the mean."""
    model, variables = imported
    videos, last = clips((64, 64)), "Mixed_3c"
    layers = twin.trunk[: twin.trunk.index(last) + 1]
    outputs = torch.from_numpy(as_theirs(videos).copy())
    for name in layers:
        outputs = twin.train().get_submodule(name)(outputs)
    upstream = np.random.default_rng(5).normal(size=outputs.shape).astype(np.float32)
    twin.zero_grad()
    outputs.backward(torch.from_numpy(upstream))

    shallow = model.clone(last_block=last)
    drawn = flat(jax.eval_shape(shallow.init, jax.random.key(0), {"rgb": videos}))
    # Its classifier sees other channels than the file's, and plays no part.
    mine = {path: np.zeros(leaf.shape) if "Logits" in path else flat(variables)[path] for path, leaf in drawn.items()}
    mine = flax.traverse_util.unflatten_dict(mine, sep="/")

    @jax.jit
    def gradients(params):
        def weighted(params):
            state = {**mine, "params": params}
            (_, endpoints), _ = shallow.apply(state, {"rgb": videos}, train=True, mutable=["batch_stats"])
            return (endpoints[last] * np.moveaxis(upstream, 1, -1)).sum()

        return jax.grad(weighted)(params)

    found = naming.scatter({"params": gradients(mine["params"])}, torch_i3d.LETTERED)
    expected = {name: leaf.grad.numpy() for name, leaf in twin.named_parameters() if leaf.grad is not None}
    assert found.keys() - expected.keys() == {"logits.conv3d.weight", "logits.conv3d.bias"}
    assert sum(name.endswith("bn.weight") for name in expected) == 3 + 2 * 6
    for name, theirs in expected.items():
        assert np.linalg.norm(found[name] - theirs) <= 1e-2 * np.linalg.norm(theirs), name
