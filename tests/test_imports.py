"""The direction of imports: the core never reaches for files, TensorFlow or video libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "i3d_jax"

# Each part of the package imports only from its own group or an earlier one.
GROUPS = (
    (
        *("system.errors", "system.files", "system.archives", "system.limits", "system.lock", "system.terminal"),
        *("system.signals", "system.buckets", "system.bucket_requests", "system.lease", "system.copies"),
        *("models", "inflation", "flow", "clips", "shapes"),
    ),
    (
        *("system.workers", "system.hosts", "system.heartbeat", "system.cluster", "system.preemption"),
        *("training", "checkpoint", "evaluation"),
    ),
    ("system.progress", "records", "video", "data", "ingest", "drawn", "importers"),
    # Commands and what they share.
    (
        "system.command_line",
        "run",
        "inference",
        "main",
        "prepare",
        "convert",
        "export",
        "predict",
        "features",
        "fuse",
        "fvd",
        "study",
        "report",
    ),
)
# What the groups may import from outside, each with the groups before it.
STANDARD = sys.stdlib_module_names
OUTSIDE = (
    # The second, in system/bucket_requests.py, at the first path of a bucket.
    {"numpy", "jax", "flax", "jaxtyping"} | {"aiohttp", "fsspec", "gcsfs", "google", "s3fs"},
    {"optax", "orbax", "chex", "google_crc32c"},
    {"tensorflow", "tensorflow_datasets", "av", "cv2", "tqdm", "ml_collections"}
    | {"torch", "safetensors", "huggingface_hub", "apache_beam", "grpc", "h5py", "jax2onnx", "onnxruntime"},
    {"absl"} | {"tensorboard", "jinja2", "markupsafe", "vl_convert", "PIL", "scipy"},
)


def part(module: str) -> str:
    """The room of a module; of the system's, the module itself."""
    names = module.split(".")[1:]
    return ".".join(names[:2]) if names[0] == "system" else names[0]


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module in ("i3d_jax", "i3d_jax.system"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}
for package in ("i3d_jax", "i3d_jax.system"):
    MODULES.pop(package)


def group(name: str) -> int:
    found = [number for number, parts in enumerate(GROUPS) if name in parts]
    assert found, f"{name} stands in no group of tests/test_imports.py"
    return found[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_to_earlier_groups(module):
    own = group(part(module))
    allowed = set().union(*OUTSIDE[: own + 1])
    for name in imports(MODULES[module]):
        top = name.split(".")[0]
        if top == "i3d_jax":
            if name != "i3d_jax":
                assert group(part(name)) <= own, f"{module} imports {name}"
        else:
            assert top in STANDARD or top in allowed, f"{module} imports {name}"


ABSENT = ["tensorflow", "tensorflow_datasets", "tensorboard", "torch", "av", "cv2", "google_crc32c", "tqdm"]
ABSENT += ["apache_beam"]
CORE = ["models", "inflation", "flow", "training", "checkpoint", "evaluation", "clips", "shapes"]


def test_the_core_imports_without_tensorflow_and_video_libraries():
    names = [name for name in MODULES if part(name) in CORE] + ["i3d_jax.drawn.actions", "i3d_jax.data.preprocessing"]
    assert len(names) > 15
    program = (
        "import importlib, sys\n"
        f"for name in {ABSENT!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=120)


def test_flow_as_bytes_needs_no_jax():
    program = "import sys; sys.modules['jax'] = None; import i3d_jax.flow.codec, i3d_jax.records.example"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=120)


def test_a_configuration_is_seen_by_two_files_alone():
    """Behind `run.build` all are resolved parts."""
    found = {path.name for path in PACKAGE.rglob("*.py") if "ConfigDict" in path.read_text()}
    assert found == {"recipe.py", "resolve.py"}


def test_what_jax_keeps_for_itself_is_not_touched():
    assert not [path for path in PACKAGE.rglob("*.py") if "jax._src" in path.read_text()]


@pytest.mark.parametrize(
    "command", ["main", "prepare", "convert", "export", "predict", "features", "fuse", "fvd", "study", "report"]
)
def test_help_costs_no_tensorflow(command):
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['i3d_jax.{command}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('i3d_jax.{command}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "assert not {'tensorflow', 'torch', 'apache_beam'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "example" in done.stdout
