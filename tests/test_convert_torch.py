"""The command with PyTorch's files: both ports' golden logits, export and back, an inflated GoogLeNet."""

from __future__ import annotations

import chex
import jax
import numpy as np
import pytest
from helpers.conversions import KINETICS, inflated, reproduces_the_golden_file, run, write_release
from helpers.foreign_checkpoints import (
    PREFIXES,
    flat,
    golden_arrays,
    googlenet_shapes,
    random_arrays,
    torch_state,
    write_torch,
)

from i3d_jax import checkpoint

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
pytest.importorskip("safetensors", reason='safetensors is not installed: pip install -e ".[torch]"')


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The release's folder with the golden weights of RGB."""
    return write_release(tmp_path_factory.mktemp("release") / "data", ["rgb"])


@pytest.fixture(scope="module")
def rgb(release):
    """The release's RGB checkpoint as one of ours."""
    output = release.parent / "rgb"
    run(source=release / "checkpoints" / "rgb_imagenet", format="sonnet_i3d", output=output)
    return output


def gains(channels):
    """Gains that are neither 1 nor all positive."""
    return np.where(np.arange(channels) % 3, 1.75, -0.5).astype(np.float32)


@pytest.mark.parametrize(("stream", "port"), [("rgb", 0), ("flow", 1)])
def test_both_pytorch_ports_give_the_golden_logits(tmp_path, stream, port):
    state = torch_state(golden_arrays(stream), prefix=PREFIXES[stream], port=port, gain=gains)
    source = write_torch(tmp_path / "i3d.pt", state)
    (tmp_path / "labels.txt").write_text("\n".join(KINETICS))
    run(source=source, format="torch_i3d", labels=tmp_path / "labels.txt", output=tmp_path / "found")
    reproduces_the_golden_file(tmp_path / "found", stream)


@pytest.mark.parametrize(("target", "name"), [("torch_i3d", "i3d.pt"), ("safetensors", "i3d.safetensors")])
def test_export_and_back_is_bit_equal(rgb, release, tmp_path, target, name):
    run(source=rgb, format="native", to=target, stream="rgb", output=tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    labels = {} if target == "safetensors" else {"labels": release / "label_map.txt"}
    run(source=tmp_path / name, format="torch_i3d", output=tmp_path / "back", **labels)
    _, variables, metadata = checkpoint.load(tmp_path / "back")
    chex.assert_trees_all_equal(variables, checkpoint.load(rgb)[1])
    assert metadata["labels"] == KINETICS


def test_an_exported_state_dict_runs_in_pytorch(rgb, tmp_path):
    from benchmarks.torch_models import InceptionI3d

    run(source=rgb, format="native", to="torch_i3d", output=tmp_path / "i3d.pt")
    twin = InceptionI3d().eval()
    twin.load_state_dict(torch.load(tmp_path / "i3d.pt", weights_only=True))
    model, variables, _ = checkpoint.load(rgb)
    clip = np.random.default_rng(0).uniform(-1, 1, (1, 9, 33, 40, 3)).astype(np.float32)
    expected = jax.jit(model.apply)(variables, {"rgb": clip})[1]["Mixed_5c"]
    with torch.inference_mode():
        found = twin.features(torch.from_numpy(clip).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    assert np.abs(found.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


def test_an_inflated_googlenet_for_flow(tmp_path, capsys):
    arrays = random_arrays(googlenet_shapes(4))
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    model, variables, metadata, deviation = inflated(
        capsys,
        source=write_torch(tmp_path / "googlenet.pth", arrays),
        format="torch_googlenet",
        labels=tmp_path / "labels.txt",
        stream="flow",
        temporal_profile="centre",
        output=tmp_path / "flow",
    )
    assert deviation <= 1e-5
    assert (model.stream, model.stem_padding, metadata["labels"]) == ("flow", "symmetric", ["a", "b", "c", "d"])
    assert metadata["provenance"]["inflated"] == "centre"
    stem = flat(variables)["params/Conv3d_1a_7x7/conv_3d/kernel"]
    assert stem.shape == (7, 7, 7, 2, 64)
    assert not stem[[0, 1, 2, 4, 5, 6]].any()
