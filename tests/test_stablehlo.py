"""A network as a program of StableHLO: run by plain JAX in a process that cannot import this package."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.small_checkpoints import save_stream

from i3d_jax import checkpoint, export
from i3d_jax.importers import stablehlo
from i3d_jax.system.errors import UserError
from i3d_jax.training.step import evaluation_step

pytest.importorskip("safetensors.numpy")

CONSUMER = """
import json, sys
sys.modules["i3d_jax"] = None
import jax, numpy
from jax import export
from safetensors.numpy import load_file
folder, clips, output = sys.argv[1:]
network = export.deserialize(bytearray(open(folder + "/network.stablehlo", "rb").read()))
logits = network.call(load_file(folder + "/model.safetensors"), {"rgb": numpy.load(clips)})
numpy.save(output, logits)
print(json.load(open(folder + "/config.json"))["labels"][int(logits[0].argmax())])
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stablehlo") / "checkpoint"
    save_stream(folder, stream="rgb")
    return folder


def test_plain_jax_runs_it(original, tmp_path, capsys):
    export.main(["--checkpoint", str(original), "--to", "stablehlo", "--output", str(tmp_path / "out")])
    assert "the program was run, and its logits differ by" in capsys.readouterr().out
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["README.md", "config.json", "model.safetensors", "network.stablehlo"]
    model, variables, metadata = checkpoint.load(original)
    for number in (1, 3):
        clips = np.random.default_rng(number).integers(0, 256, (number, 9, 32, 32, 3), np.uint8)
        np.save(tmp_path / "clips.npy", clips)
        command = [sys.executable, "-c", CONSUMER, *map(str, (tmp_path / "out", tmp_path / "clips.npy"))]
        done = subprocess.run([*command, str(tmp_path / "logits.npy")], capture_output=True, text=True, check=True)
        expected, _ = jax.jit(evaluation_step(model))(variables, {"rgb": clips[:, None]})
        found = np.load(tmp_path / "logits.npy")
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
        assert done.stdout.strip() == metadata["labels"][int(expected[0].argmax())]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["preprocessing"]["frames"] == 9


def test_one_that_differs_is_not_kept(original, tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "difference", lambda *given: float("nan"))
    with pytest.raises(UserError, match="the logits of the program differ from those of"):
        export.main(["--checkpoint", str(original), "--to", "stablehlo", "--output", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []
