"""torchvision's GoogLeNet, trained on ImageNet, into `inception_v1`.

It was converted from TF-Slim's weights, and differs from our network in this:

- Its batch normalisation has gains. Its epsilon is ours, 1e-3.
- Its stem pads 3 pixels on every side where TensorFlow's SAME pads 2 before and 3 after: `stem_padding="symmetric"`.
- Its max-pools pad after the last pixel only, which is SAME where they meet an even size, and its classifier follows
  the mean over all pixels, which is ours up to 7x7 of them. So the two agree at heights and widths up to 224 that are a
  multiple of 16 or one less, 224 among them, and not at others.
- With `transform_input=True`, as its published weights are loaded, it undoes the usual ImageNet normalisation: what
  reaches its stem is x / 127.5 - 1, exactly our input. Weights trained without it expect other pixels.
- Its auxiliary classifiers serve training only and are left out.
"""

from __future__ import annotations

from pathlib import Path

from i3d_jax.importers import torch_file
from i3d_jax.importers.imported import Imported, read_network
from i3d_jax.importers.naming import TORCH_DENSE, TORCH_KERNEL, Naming
from i3d_jax.importers.torch_naming import COUNTERS, torch_leaves, torch_unit

_BLOCKS = {
    "Conv2d_1a_7x7": "conv1",
    "Conv2d_2b_1x1": "conv2",
    "Conv2d_2c_3x3": "conv3",
    "Mixed_3b": "inception3a",
    "Mixed_3c": "inception3b",
    "Mixed_4b": "inception4a",
    "Mixed_4c": "inception4b",
    "Mixed_4d": "inception4c",
    "Mixed_4e": "inception4d",
    "Mixed_4f": "inception4e",
    "Mixed_5b": "inception5a",
    "Mixed_5c": "inception5b",
}
_BRANCHES = {
    ("Branch_0", "1x1"): "branch1",
    ("Branch_1", "1x1"): "branch2.0",
    ("Branch_1", "3x3"): "branch2.1",
    ("Branch_2", "1x1"): "branch3.0",
    ("Branch_2", "3x3"): "branch3.1",
    ("Branch_3", "1x1"): "branch4.1",
}
NAMING = Naming(
    lambda unit: torch_unit(unit, block=_BLOCKS.__getitem__, branches=_BRANCHES, classifier="fc"),
    torch_leaves(convolution="conv", batch_norm="bn", classifier=""),
    {"kernel": TORCH_KERNEL, "classifier/kernel": TORCH_DENSE},
)
STEM = "Conv2d_1a_7x7"
LEFT_OUT = ((r"^aux[12]\.", "auxiliary classifiers, which only training uses"), *COUNTERS)


def read(path: Path) -> Imported:
    """Reads a state dict or safetensors file of torchvision's names into an `inception_v1`.

    Raises:
      UserError: the file cannot be read or is not such a network.
    """
    weights = torch_file.read(path, stems=[NAMING.place(STEM, "kernel").name])
    return read_network(weights, "inception_v1", {"stem_padding": "symmetric"}, NAMING, LEFT_OUT)
