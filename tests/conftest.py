"""Four virtual CPU devices and quick compilation for every test, and the real clips where they are at hand."""

import os

# Read once, when JAX first looks for devices: it has to stand here before any import of JAX. Most of a network's time
# in the tests goes into machine code for what runs once: made without optimising it, that is half.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gc
from pathlib import Path

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """No file runs what another one has compiled; kept to the end, that was 6 GB in each of two processes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """The real clips that stand beside a developer's checkout; tests that need them skip where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "videos"
    if not folder.is_dir():
        pytest.skip("the real clips are not on this machine")
    return folder
