"""Networks for other programs: each run by its own reader, in a process that has none of this package."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import moving_pictures
from helpers.small_checkpoints import LABELS, save_stream
from helpers.small_networks import random_variables

from i3d_jax import checkpoint, export
from i3d_jax.data import cpu_tensorflow
from i3d_jax.importers import exports
from i3d_jax.importers.exported import Original, sample_clips
from i3d_jax.models import create
from i3d_jax.models.purpose import for_translation
from i3d_jax.system.errors import UserError
from i3d_jax.training.step import evaluation_step
from i3d_jax.video.tvl1_backends import description as flow_description
from i3d_jax.video.windows import read_windows

pytest.importorskip("safetensors.numpy")

HUB_FILES = {"README.md", "config.json", "digests.json", "model.safetensors"}
SAVED_MODEL_FILES = {"README.md", "assets", "config.json", "fingerprint.pb", "saved_model.pb", "variables"}
# By target: its files, what its reader must not need, what it says of clips of another length.
PROGRAMS = {
    "stablehlo": (HUB_FILES | {"network.stablehlo"}, ["i3d_jax", "tensorflow"], r"9.*10|10.*9"),
    "saved_model": (SAVED_MODEL_FILES, ["i3d_jax", "jax", "jaxlib"], "tensor<[?]x9x.* -> tensor<1x10x"),
    "onnx": ({"README.md", "config.json", "network.onnx"}, ["i3d_jax", "jax", "jaxlib"], "Got: 10 Expected: 9"),
}
EMPTY = "np.zeros((1, 9, 32, 32, 3), np.uint8)"


def run(checkpoint, target, output, *more):
    export.main(["--checkpoint", str(checkpoint), "--to", target, "--output", str(output), *more])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "checkpoint"
    save_stream(folder, stream="rgb")
    return folder


@pytest.fixture(scope="module", params=PROGRAMS)
def exported(request, original, tmp_path_factory):
    """(target, folder) of each program."""
    if request.param == "onnx":
        pytest.importorskip("jax2onnx")
        pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("exported") / request.param
    run(original, request.param, folder)
    return request.param, folder


def test_its_reader_runs_it_as_its_card_says(original, exported, tmp_path):
    target, folder = exported
    files, absent, _ = PROGRAMS[target]
    assert {path.name for path in folder.iterdir()} == files
    [program] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert EMPTY in program
    clips = np.random.default_rng(5).integers(0, 256, (3, 9, 32, 32, 3), np.uint8)
    np.save(tmp_path / "clips.npy", clips)
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        "try: importlib.import_module('i3d_jax')\n"
        "except ImportError: pass\n"
        "else: raise SystemExit('this package was found')\n"
        + program.replace(EMPTY, f"np.load({str(tmp_path / 'clips.npy')!r})")
        + f"\nnp.save({str(tmp_path / 'logits.npy')!r}, logits)\n"
    )
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    model, variables, _ = checkpoint.load(original)
    expected, _ = jax.jit(evaluation_step(model))(variables, {"rgb": clips[:, None]})
    found = np.load(tmp_path / "logits.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert done.stdout.splitlines()[-1] == LABELS[int(expected[0].argmax())]


def test_clips_of_another_length_are_refused_by_its_reader(exported):
    target, folder = exported
    with pytest.raises(Exception, match=r"\d") as caught:
        exports.TARGETS[target].load(folder)({"rgb": np.zeros((1, 10, 32, 32, 3), np.uint8)})
    # The reader's own words.
    assert re.search(PROGRAMS[target][2], str(caught.value.__cause__ or caught.value))


@pytest.mark.parametrize("off", [float("nan"), 2e-5])
@pytest.mark.parametrize("target", ["hub", "stablehlo"])
def test_one_that_differs_is_not_kept(original, target, off, tmp_path, monkeypatch):
    kept = exports.TARGETS[target]

    def load(folder):
        def logits(clips):
            found = kept.load(folder)(clips).copy()
            found[1, 2] += off * np.abs(found).max()
            return found

        return logits

    monkeypatch.setitem(exports.TARGETS, target, dataclasses.replace(kept, load=load))
    with pytest.raises(UserError, match=r"the logits of what was written differ from those of .*: nothing was kept"):
        run(original, target, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["hub", "saved_model"])
def test_weights_that_are_no_numbers(original, target, tmp_path):
    _, variables, _ = checkpoint.load(original)
    variables["params"]["Conv3d_1a_7x7"]["conv_3d"]["kernel"][0, 0, 0, 0, 0] = np.nan
    (tmp_path / "kept").mkdir()
    checkpoint.save(tmp_path / "nan", checkpoint.Description.read(original), variables)
    with pytest.raises(UserError, match=r"the logits of .*nan are not finite: nothing was kept"):
        run(tmp_path / "nan", target, tmp_path / "kept" / "out")
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize(
    ("target", "missing", "words"),
    [
        ("hub", "safetensors", r"a Hub folder needs the package safetensors; .*pip install -e .*hub"),
        ("stablehlo", "safetensors", r"a Hub folder needs the package safetensors; .*pip install -e .*hub"),
        ("saved_model", "tensorflow", r"a SavedModel needs the package tensorflow; .*pip install -e .*data"),
        ("onnx", "jax2onnx", r"ONNX needs the package jax2onnx; .*onnx.* and then: pip install --no-deps jax2onnx=="),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(original, target, missing, words, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    cpu_tensorflow.load.cache_clear()
    with pytest.raises(UserError, match=words):
        run(original, target, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_target_is_told_which_there_are(original, tmp_path):
    with pytest.raises(UserError, match=r"'tflite'.*hub.*stablehlo.*saved_model.*onnx"):
        run(original, "tflite", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frames": None}, "'preprocessing' of .* lacks frames: a clip has no known size"),
        ({"crop": "32"}, "'preprocessing' of .* has the crop '32', a whole number of 1 or more was expected"),
        ({"frames": 0}, "has the frames 0, a whole number"),
    ],
)
def test_a_clip_has_a_size(original, change, words, tmp_path):
    model, variables, _ = checkpoint.load(original)
    told = checkpoint.Description.read(original)
    fields = {**told.preprocessing, **change}
    preprocessing = {name: value for name, value in fields.items() if value is not None}
    description = dataclasses.replace(told, preprocessing=preprocessing)
    with pytest.raises(UserError, match=words):
        _ = Original(source=original, model=model, description=description, variables=variables).clip_shapes


def test_a_network_of_images(original, tmp_path):
    model = create("inception_v1", 3, width_multiplier=0.0625, last_block="Mixed_3c")
    variables = random_variables(model)
    options = {"width_multiplier": 0.0625, "last_block": "Mixed_3c"}
    told = checkpoint.Description(
        model="inception_v1", options=options, num_classes=3, labels=LABELS, preprocessing={"crop": 32}
    )
    checkpoint.save(tmp_path / "images", told, variables)
    run(tmp_path / "images", "stablehlo", tmp_path / "out")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    found = exports.TARGETS["stablehlo"].load(tmp_path / "out")({"rgb": images})
    expected = jax.jit(model.apply)(variables, {"rgb": images / np.float32(127.5) - 1})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(UserError, match="a network of single images: --video goes with one that sees videos"):
        run(tmp_path / "images", "hub", tmp_path / "again", "--video", "clip.mp4")


def test_what_is_translated_is_of_images_and_in_one_piece(original):
    """As jax2onnx takes it: no convolutions of videos, no choice of a platform, no loop over slabs of a long clip."""
    model, variables, _ = checkpoint.load(original)
    clip = {"rgb": jax.ShapeDtypeStruct((1, 250, 224, 224, 3), np.float32)}
    usual = str(jax.make_jaxpr(lambda clip: model.apply(variables, clip))(clip))
    with for_translation():
        translated = str(jax.make_jaxpr(lambda clip: model.apply(variables, clip))(clip))
    axes = [
        {len(found.split(",")) for found in re.findall(r"lhs_spec=\(([\d, ]+)\)", text)} for text in (usual, translated)
    ]
    assert axes == [{4, 5}, {4}]
    for operation in ("platform_index", "scan[", "reduce_window_max"):
        assert operation in usual
        assert operation not in translated


# ---- the clips of the comparison


def test_a_video_is_compared_as_the_evaluation_sees_it(original, tmp_path, capsys):
    video = tmp_path / "clip.mkv"
    moving_pictures.write_lossless(video, moving_pictures.sliding(14, right=1, down=0))
    network = Original.read(original)
    clips = sample_clips(network, video)["rgb"]
    assert clips.shape == (3, 9, 32, 32, 3)
    expected = read_windows(video, network.description.preprocessing, streams=("rgb",), where="")["rgb"]
    np.testing.assert_array_equal(clips[2], expected[0])
    run(original, "hub", tmp_path / "out", "--video", str(video))
    said = capsys.readouterr()
    assert f"on noise, a drawn clip and {video}, its logits differ by 0 of the largest" in said.out
    begun = ("writing the network of", "running it by this package, and the network beside it")
    assert all(line.startswith(start) for line, start in zip(said.err.splitlines(), begun, strict=True)), said.err
    with pytest.raises(UserError, match=r"there is no video .*none\.mp4"):
        run(original, "hub", tmp_path / "again", "--video", str(tmp_path / "none.mp4"))


def test_what_is_drawn_moves(tmp_path):
    """RGB changes from frame to frame; flow leads to the right, where the object is, and hardly up or down."""
    save_stream(tmp_path / "rgb", stream="rgb")
    noise, drawn = sample_clips(Original.read(tmp_path / "rgb"), None)["rgb"].astype(int)
    assert (np.abs(np.diff(drawn, axis=0)).max((1, 2, 3)) > 20).all()
    assert np.abs(np.diff(noise, axis=2)).mean() > 4 * np.abs(np.diff(drawn, axis=2)).mean()
    save_stream(tmp_path / "flow", stream="flow", flow=flow_description("i3d_jax"))
    network = Original.read(tmp_path / "flow")
    larger = dataclasses.replace(network.description, preprocessing={**network.description.preprocessing, "crop": 96})
    _, fields = sample_clips(dataclasses.replace(network, description=larger), None)["flow"].astype(int) - 128
    assert fields.shape == (9, 96, 96, 2)
    u, v = np.moveaxis(fields, -1, 0)
    assert u.max() > 2
    assert u.sum() > 4 * np.abs(v.sum())
