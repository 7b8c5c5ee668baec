"""The command as users meet it: golden logits from foreign files, inflation, export and back, mistakes."""

from __future__ import annotations

import datetime
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.conversions import KINETICS, inflated, reproduces_the_golden_file, run, write_release
from helpers.foreign_checkpoints import (
    PREFIXES,
    flat,
    random_arrays,
    slim_shapes,
    sonnet_shapes,
    write_tensorflow,
    zeros,
)

from i3d_jax import checkpoint, models
from i3d_jax.importers import boring_video
from i3d_jax.system.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The release's folder with the golden weights: data/label_map.txt, data/checkpoints/rgb_imagenet/model.ckpt.*."""
    return write_release(tmp_path_factory.mktemp("release") / "data", PREFIXES)


@pytest.fixture(scope="module")
def rgb(release):
    """The release's RGB checkpoint as one of ours."""
    output = release.parent / "rgb"
    run(source=release / "checkpoints" / "rgb_imagenet", format="sonnet_i3d", output=output)
    return output


def test_the_release_gives_the_golden_logits(release, rgb):
    reproduces_the_golden_file(rgb, "rgb")
    metadata = json.loads((rgb / "model.json").read_text())
    assert (metadata["model"], metadata["options"], metadata["labels"]) == ("i3d", {"stream": "rgb"}, KINETICS)
    assert metadata["preprocessing"] == {
        "frame_rate": 25.0,
        "short_side": 256,
        "interpolation": "bilinear",
        "jpeg_quality": 95,
        "crop": 224,
        "frames": 250,
        "windows": 1,
    }
    provenance = metadata["provenance"]
    data = release / "checkpoints" / "rgb_imagenet" / "model.ckpt.data-00000-of-00001"
    assert provenance["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert (provenance["file"], provenance["format"]) == (str(data), "sonnet_i3d")
    assert datetime.datetime.fromisoformat(provenance["date"]).utcoffset() == datetime.timedelta(0)


def test_the_release_gives_the_golden_logits_of_flow(release, tmp_path, capsys):
    prefix = release / "checkpoints" / "flow_imagenet" / "model.ckpt"
    run(source=prefix, format="sonnet_i3d", stream="flow", output=tmp_path / "flow")
    reproduces_the_golden_file(tmp_path / "flow", "flow")
    metadata = json.loads((tmp_path / "flow" / "model.json").read_text())
    assert metadata["preprocessing"]["flow"] == {"algorithm": "tvl1", "bound": 20.0}
    assert "model.ckpt as sonnet_i3d: 230 variables, 12,668,032 parameters, 400 classes" in capsys.readouterr().out


# --- export -----------------------------------------------------------------------------------------------------------


def test_what_the_ports_cannot_compute_is_not_exported(tmp_path):
    model = models.create("i3d", 3, width_multiplier=0.125)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), models.template(model))
    description = checkpoint.Description(
        model="i3d", options={"width_multiplier": 0.125}, num_classes=3, labels=["a", "b", "c"], preprocessing={}
    )
    checkpoint.save(tmp_path / "narrow", description, variables)
    export = {"source": tmp_path / "narrow", "format": "native", "to": "torch_i3d"}
    with pytest.raises(UserError, match=r"has width_multiplier 0.125, the PyTorch ports 1.0"):
        run(**export, output=tmp_path / "i3d.pt")
    with pytest.raises(UserError, match="holds the rgb stream, --stream flow was asked for"):
        run(**export, stream="flow", output=tmp_path / "i3d.pt")
    with pytest.raises(UserError, match=r"should tell its format: \.safetensors for"):
        run(**export, output=tmp_path / "i3d.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["narrow"]


# --- image networks ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slim")
    return write_tensorflow(folder / "inception_v1.ckpt", random_arrays(slim_shapes()))


def test_an_image_network(slim, tmp_path, capsys):
    run(source=slim, format="slim_inception_v1", output=tmp_path / "images")
    model, _, metadata = checkpoint.load(tmp_path / "images")
    assert (metadata["model"], model.num_classes, model.stem_padding) == ("inception_v1", 1000, "same")
    assert metadata["labels"][:2] == ["class 0", "class 1"]
    assert metadata["preprocessing"] == {"interpolation": "bilinear", "crop": 224}
    assert "labels: none given" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"the PyTorch ports are of 'i3d', .* holds 'inception_v1'"):
        run(source=tmp_path / "images", format="native", to="torch_i3d", output=tmp_path / "i3d.pt")


def test_an_inflated_image_network(slim, tmp_path, capsys):
    options = {"source": slim, "format": "slim_inception_v1", "output": tmp_path / "rgb"}
    model, variables, metadata, deviation = inflated(capsys, **options)
    assert deviation <= 1e-5
    assert (model.stream, model.stem_padding, model.temporal_padding) == ("rgb", "same", "zeros")
    assert metadata["provenance"]["inflated"] == "average"
    assert metadata["preprocessing"]["frame_rate"] == 25.0
    name = "InceptionV1/Mixed_3c/Branch_1/Conv2d_0b_3x3/weights"
    kernel = random_arrays(slim_shapes())[name]
    found = flat(variables)["params/Mixed_3c/Branch_1/Conv3d_0b_3x3/conv_3d/kernel"]
    np.testing.assert_allclose(found, np.stack([kernel / 3] * 3), rtol=1e-6)


def test_a_deviation_by_hand():
    image = {"Conv2d_1a_7x7": np.float32([[[[4, -8]]]]), "MaxPool_2a_3x3": np.float32([[[[1, 2]]]])}
    video = {name: np.repeat(value[:, None], 3, axis=1) for name, value in image.items()}
    video = {"Conv3d_1a_7x7": video["Conv2d_1a_7x7"], "MaxPool3d_2a_3x3": video["MaxPool_2a_3x3"], "other": None}
    assert boring_video.greatest_deviation(image, video)[::2] == (0, 2)
    video["Conv3d_1a_7x7"][0, 2, 0, 0, 0] = 3
    assert boring_video.greatest_deviation(image, video) == (1 / 8, "Conv3d_1a_7x7", 2)
    # A number that is none counts as the worst, wherever it stands.
    video["MaxPool3d_2a_3x3"][0, 1, 0, 0, 1] = np.nan
    assert boring_video.greatest_deviation(image, video) == (np.inf, "MaxPool3d_2a_3x3", 2)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "native"}, "--format native needs --to torch_i3d or safetensors"),
        ({"format": "torch_i3d", "to": "torch_i3d"}, "--to goes with --format native"),
        ({"format": "sonnet_i3d", "inflate": True}, "--inflate goes with the image networks"),
        ({"format": "slim_inception_v1", "temporal_profile": "centre"}, "--temporal_profile goes with --inflate"),
        ({"format": "torch_googlenet", "background": "keep"}, "--background goes with --format slim_inception_v1"),
        ({"format": "torch_googlenet", "stream": "flow"}, "--stream goes with --inflate"),
        ({"format": "native", "to": "torch_i3d", "labels": "x"}, "--labels goes with an import"),
        (
            {"format": "native", "to": "torch_i3d", "output": "no/folder/i3d.pt"},
            "the folder no/folder of --output does",
        ),
        ({"format": "native", "to": "torch_i3d", "output": __file__}, "exists: the weights are written to a new file"),
        ({"format": "torch_i3d", "output": ROOT / "tests"}, "exists and is no empty folder"),
        ({"format": "torch_i3d", "output": __file__}, "exists and is no empty folder"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, words):
    # The source does not exist: the mistake is found before it is looked for.
    with pytest.raises(UserError, match=words):
        run(**{"source": tmp_path / "absent", "output": tmp_path / "output", **options})


def test_a_mistake_leaves_nothing_behind(tmp_path):
    source = write_tensorflow(tmp_path / "a" / "b" / "c" / "d" / "model.ckpt", zeros(sonnet_shapes("rgb", 5)))
    options = {"source": source, "format": "sonnet_i3d", "output": tmp_path / "output"}
    with pytest.raises(UserError, match=r"names of the 5 classes .* were not found"):
        run(**options)
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"labels.txt names 2 classes, the checkpoint has 5"):
        run(**options, labels=tmp_path / "labels.txt")
    assert not (tmp_path / "output").exists()


def test_a_mistake_is_one_sentence_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "i3d_jax.convert", "--source", tmp_path / "absent", "--format", "torch_i3d"]
    done = subprocess.run([*command, "--output", tmp_path / "x"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    told = f"reading {tmp_path / 'absent'} …\nerror: there is no PyTorch file {tmp_path / 'absent'}\n"
    assert done.stderr == told
