"""Four virtual CPU devices and quick compilation for every test, and the real clips where they are at hand."""

import os

import quick_compilation

# Read once, when JAX first looks for devices: it has to stand here before any import of JAX.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick_compilation.flags(devices=4)}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Of the persistent cache below: small programs, too, are met again in every file.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import gc
import tempfile
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """What one test has compiled the others find, those of xdist's other workers and of processes that tests start.

    The folder belongs to one run of pytest: nothing is found that the code of today has not compiled.
    """
    folder = tmp_path_factory.getbasetemp()
    # A worker's own folder lies in that of the whole run.
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "compiled"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # What was compiled while tests were collected has made JAX choose already.
    compilation_cache.reset_cache()


# What the commands keep in the user's cache folder stays out of the real one.
CACHE_FOLDER = tempfile.TemporaryDirectory(prefix="i3d_jax-cache-")
os.environ["XDG_CACHE_HOME"] = CACHE_FOLDER.name


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """No file keeps in memory what another one has run; kept to the end, that was 6 GB in each of two processes."""
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
