"""Readers and tables of names: every published layout is read, and what is wrong with a file is named."""

from __future__ import annotations

import hashlib
import sys
import types

import numpy as np
import pytest
from helpers.foreign_checkpoints import (
    PREFIXES,
    flat,
    has_its_models_shapes,
    kin600_shapes,
    random_arrays,
    slim_shapes,
    sonnet_shapes,
    write_tensorflow,
    zeros,
)

from i3d_jax.data import cpu_tensorflow
from i3d_jax.importers import (
    labels,
    slim_inception_v1,
    sonnet_i3d,
    tensorflow_checkpoint,
    torch_file,
)
from i3d_jax.system.errors import UserError

# --- the release's checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "stream", "num_classes", "parameters"),
    [
        pytest.param(sonnet_shapes("rgb"), "rgb", 400, "12,689,984", id="rgb_imagenet, rgb_scratch"),
        pytest.param(sonnet_shapes("flow"), "flow", 400, "12,668,032", id="flow_imagenet, flow_scratch"),
        pytest.param(kin600_shapes(), "rgb", 600, "12,894,984", id="rgb_scratch_kin600"),
    ],
)
def test_published_layouts(tmp_path, shapes, stream, num_classes, parameters):
    imported = sonnet_i3d.read(write_tensorflow(tmp_path / "model.ckpt", zeros(shapes)), stream=None)
    assert (imported.options, imported.num_classes) == ({"stream": stream}, num_classes)
    assert has_its_models_shapes(imported)
    lines = imported.report(file_format="a format")
    assert f"230 variables, {parameters} parameters, {num_classes} classes" in lines[0]
    slots = [name for name in shapes if name.endswith("/Momentum")]
    assert sorted(imported.left_out) == sorted(slots)
    assert [line.split(":")[0] for line in lines[1:]] == [f"left out {len(slots)}, slots of the optimizer"] * bool(
        slots
    )


def test_values_of_kin600_stand_in_their_places(tmp_path):
    arrays = random_arrays(kin600_shapes())
    write_tensorflow(tmp_path / "model.ckpt", arrays)
    found = flat(sonnet_i3d.read(tmp_path, stream="rgb").variables)
    odd = "Mixed_5b/Branch_2/Conv3d_0a_3x3"
    np.testing.assert_array_equal(found[f"params/{odd}/conv_3d/kernel"], arrays[f"{odd}/conv_3d/w"])
    np.testing.assert_array_equal(
        found[f"batch_stats/{odd}/batch_norm/var"], arrays[f"{odd}/batch_norm/moving_variance"][0, 0, 0, 0]
    )
    unit = "Mixed_3b/Branch_3/Conv3d_0b_1x1"
    np.testing.assert_array_equal(
        found[f"params/{unit}/batch_norm/bias"], arrays[f"{unit}/batch_norm/beta"][0, 0, 0, 0]
    )
    np.testing.assert_array_equal(
        found[f"batch_stats/{unit}/batch_norm/mean"], arrays[f"{unit}/batch_norm/moving_mean"][0, 0, 0, 0]
    )
    np.testing.assert_array_equal(found["params/Logits/Conv3d_0c_1x1/bias"], arrays["Logits/Conv3d_0c_1x1/conv_3d/b"])


@pytest.fixture(scope="module")
def flow_checkpoint(tmp_path_factory):
    return write_tensorflow(tmp_path_factory.mktemp("flow") / "model.ckpt", zeros(sonnet_shapes("flow", 5)))


@pytest.mark.parametrize("end", ["", ".index", ".data-00000-of-00001", "/.."])
def test_a_checkpoint_by_its_prefix_its_files_or_its_folder(flow_checkpoint, end):
    path = flow_checkpoint.parent if end == "/.." else flow_checkpoint.with_name(flow_checkpoint.name + end)
    imported = sonnet_i3d.read(path, stream="flow")
    assert imported.weights.files == [flow_checkpoint.with_name("model.ckpt.data-00000-of-00001")]
    assert imported.num_classes == 5


def test_the_flow_checkpoint_is_no_rgb_model(flow_checkpoint):
    with pytest.raises(UserError, match="holds the flow stream, --stream rgb was asked for"):
        sonnet_i3d.read(flow_checkpoint, stream="rgb")


UNIT = PREFIXES["flow"] + "Mixed_3c/Branch_0/Conv3d_0a_1x1/"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda shapes: shapes.pop(UNIT + "conv_3d/w"), f"lacks {UNIT}conv_3d/w$"),
        (lambda shapes: shapes.update({UNIT + "conv_3d/b": (128,)}), f"no place for: {UNIT}conv_3d/b$"),
        (
            lambda shapes: shapes.update({UNIT + "batch_norm/beta": (127,)}),
            rf"{UNIT}batch_norm/beta is \[127\], expected \[128\]$",
        ),
        (lambda shapes: shapes.update({PREFIXES["rgb"] + "x": ()}), "holds both streams"),
        (
            lambda shapes: shapes.pop(PREFIXES["flow"] + "Logits/Conv3d_0c_1x1/conv_3d/b"),
            "it has no Flow/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d/b",
        ),
        (
            lambda shapes: shapes.update({PREFIXES["flow"] + "Conv3d_1a_7x7/conv_3d/w": (7, 7, 7, 3, 64)}),
            r"Conv3d_1a_7x7/conv_3d/w is \[7, 7, 7, 3, 64\], expected \[7, 7, 7, 2, 64\]$",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, words):
    shapes = sonnet_shapes("flow", 5)
    change(shapes)
    with pytest.raises(UserError, match=words):
        sonnet_i3d.read(write_tensorflow(tmp_path / "model.ckpt", zeros(shapes)), stream=None)


@pytest.mark.parametrize(
    ("leaf", "number", "words"),
    [
        ("batch_norm/moving_variance", -0.1, "variances below 0"),
        ("batch_norm/beta", np.nan, "numbers that are not finite"),
        ("conv_3d/w", np.inf, "numbers that are not finite"),
    ],
)
def test_numbers_that_no_network_has_are_named(tmp_path, leaf, number, words):
    arrays = zeros(sonnet_shapes("flow", 5))
    arrays[UNIT + leaf] = arrays[UNIT + leaf].copy()
    arrays[UNIT + leaf][..., 3] = number
    with pytest.raises(UserError, match=f"network: {UNIT}{leaf} holds {words}$"):
        sonnet_i3d.read(write_tensorflow(tmp_path / "model.ckpt", arrays), stream=None)


# --- TensorFlow's files -----------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    arrays = {"a": np.arange(1000, dtype=np.float32), "b": np.float16([0.5]), "step": np.int64(7)}
    return write_tensorflow(tmp_path / "small" / "model.ckpt", arrays)


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


DATA = "model.ckpt.data-00000-of-00001"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / DATA).unlink(), r"lacks a data file: expected 1 named model.ckpt.data-…, found 0"),
        (lambda folder: cut(folder / DATA, 1000), "is cut short or damaged"),
        (lambda folder: cut(folder / DATA, 0), "is cut short or damaged"),
        (lambda folder: cut(folder / "model.ckpt.index", 20), "is cut short or damaged"),
        (lambda folder: (folder / "model.ckpt.index").unlink(), "neither it nor model.ckpt.index exists"),
    ],
)
def test_a_damaged_tensorflow_checkpoint(small, damage, words):
    damage(small.parent)
    with pytest.raises(UserError, match=words) as raised:
        tensorflow_checkpoint.read(small)
    assert "\n" not in str(raised.value)


def test_tensorflow_arrays_are_float32(small):
    arrays = tensorflow_checkpoint.read(small).arrays
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "a": "float32",
        "b": "float32",
        "step": "int64",
    }


def test_a_folder_of_two_checkpoints_follows_its_file_checkpoint(small):
    folder = small.parent
    write_tensorflow(folder / "later.ckpt", {"c": np.float32(1)})
    with pytest.raises(UserError, match=r"should hold one TensorFlow checkpoint, found 2 \(later.ckpt, model.ckpt\)"):
        tensorflow_checkpoint.read(folder)
    (folder / "checkpoint").write_text('model_checkpoint_path: "later.ckpt"\n')
    assert list(tensorflow_checkpoint.read(folder).arrays) == ["c"]
    with pytest.raises(UserError, match="found none"):
        tensorflow_checkpoint.read(folder.parent)


def test_the_single_file_of_older_tensorflow(tmp_path):
    tf = cpu_tensorflow.load()
    path = tmp_path / "inception_v1.ckpt"
    tf.raw_ops.Save(filename=str(path), tensor_names=["a"], data=[tf.constant([1.0, 2.0])])
    weights = tensorflow_checkpoint.read(tmp_path)
    np.testing.assert_array_equal(weights.arrays["a"], [1, 2])
    assert weights.files == [path]
    cut(path, 30)
    with pytest.raises(UserError, match="cut short or damaged"):
        tensorflow_checkpoint.read(path)


def test_without_tensorflow_its_files_are_refused_in_one_sentence(small, monkeypatch):
    def load():
        raise ModuleNotFoundError(name="tensorflow")

    monkeypatch.setattr(cpu_tensorflow, "load", load)
    with pytest.raises(UserError, match=r'need the package tensorflow; .*pip install -e "\.\[data\]"$'):
        tensorflow_checkpoint.read(small)


def test_sha256_is_that_of_the_data_file(small):
    provenance = tensorflow_checkpoint.read(small).provenance()
    data = small.with_name(DATA)
    assert provenance == {"file": str(data), "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}


# --- TF-Slim ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    arrays = random_arrays(slim_shapes())
    return write_tensorflow(tmp_path_factory.mktemp("slim") / "inception_v1.ckpt", arrays), arrays


@pytest.mark.parametrize(("background", "first"), [(None, 1), ("drop", 1), ("keep", 0)])
def test_slim_with_and_without_the_background(slim, background, first):
    path, arrays = slim
    imported = slim_inception_v1.read(path, background=background)
    assert (imported.model, imported.num_classes) == ("inception_v1", 1001 - first)
    assert has_its_models_shapes(imported)
    found = flat(imported.variables)
    scores = "InceptionV1/Logits/Conv2d_0c_1x1"
    np.testing.assert_array_equal(found["params/Logits/Conv2d_0c_1x1/bias"], arrays[f"{scores}/biases"][first:])
    kernel = found["params/Logits/Conv2d_0c_1x1/kernel"]
    np.testing.assert_array_equal(kernel, arrays[f"{scores}/weights"][..., first:])
    odd = "Mixed_5b/Branch_2/Conv2d_0a_3x3"
    np.testing.assert_array_equal(found[f"params/{odd}/conv_2d/kernel"], arrays[f"InceptionV1/{odd}/weights"])
    np.testing.assert_array_equal(
        found[f"batch_stats/{odd}/batch_norm/mean"], arrays[f"InceptionV1/{odd}/BatchNorm/moving_mean"]
    )
    assert sorted(line.split(":")[0] for line in imported.report(file_format="a format")[1:]) == [
        *["left out 1, the background, which no image shows"] * first,
        "left out 1, the training step",
        "left out 114, slots of the optimizer",
        "left out 57, moving averages of the parameters",
    ]


def test_few_classes_have_no_background(tmp_path):
    path = write_tensorflow(tmp_path / "model.ckpt", zeros(slim_shapes(5)))
    assert slim_inception_v1.read(path, background=None).num_classes == 5


def test_another_format_is_told_by_its_names(slim):
    with pytest.raises(UserError, match="not of the expected format: it has no Conv3d_1a_7x7/conv_3d/w"):
        sonnet_i3d.read(slim[0], stream=None)


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_found_in_the_releases_layout(tmp_path):
    checkpoint = tmp_path / "data" / "checkpoints" / "rgb_imagenet" / "model.ckpt.data-00000-of-00001"
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "data" / "label_map.txt").write_text("a\nb\nc d\n")
    (tmp_path / "data" / "label_map_600.txt").write_text("a\nb\nc d\né\n")
    assert labels.find_labels(checkpoint, 3) == (tmp_path / "data" / "label_map.txt", ["a", "b", "c d"])
    assert labels.find_labels(checkpoint, 4)[1] == ["a", "b", "c d", "é"]
    words = r"5 classes .* were not found: .* \(\S*map.txt names 3; \S*map_600.txt names 4\); give --labels FILE$"
    with pytest.raises(UserError, match=words):
        labels.find_labels(checkpoint, 5)
    (tmp_path / "data" / "label_map_mine.txt").write_text("x\ny\nz")
    with pytest.raises(UserError, match="differ: name one of them by --labels"):
        labels.find_labels(checkpoint, 3)
    (checkpoint.parent / "label_map.txt").write_text("nearest\nof\nall\n\n")
    assert labels.find_labels(checkpoint, 3)[1] == ["nearest", "of", "all"]


def test_a_label_file_of_another_length(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("a\n\nb\n")
    with pytest.raises(UserError, match=r"labels.txt: line 2 is empty"):
        labels.read_labels(path, 3)
    path.write_text("a\nb\n")
    with pytest.raises(UserError, match=r"labels.txt names 2 classes, the checkpoint has 3"):
        labels.read_labels(path, 3)
    with pytest.raises(UserError, match="cannot be read"):
        labels.read_labels(tmp_path / "absent.txt", 3)


@pytest.mark.parametrize("missing", [("torch", "safetensors"), ("safetensors",)])
def test_without_pytorch_its_files_are_refused_in_one_sentence(tmp_path, monkeypatch, missing):
    path = tmp_path / "i3d.pt"
    path.write_bytes(b"PK")
    for name in [name for name in sys.modules if name.split(".")[0] in ("torch", "safetensors")]:
        monkeypatch.delitem(sys.modules, name)
    # Where PyTorch is not installed, a module without content stands in for it: here it is only imported.
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        UserError, match=rf'PyTorch files need the package {missing[0]}; .*pip install -e "\.\[torch\]"$'
    ):
        torch_file.read(path, stems=["a"])
