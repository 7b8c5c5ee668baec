"""Four virtual CPU devices and quick compilation for every test, and the real clips where they are at hand."""

# Some of what follows has to happen before other modules are imported.
# ruff: noqa: E402
import os

import pytest

# A helper's assertion says what it compared, as those of test modules do.
pytest.register_assert_rewrite("helpers")

from helpers import bytecode

# Before the imports that take longest.
bytecode.keep()

from helpers import emulators, quick_compilation

# Read once, when JAX first looks for devices: it has to stand here before any import of JAX.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick_compilation.flags(devices=4)}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Of the persistent cache below: small programs, too, are met again in every file.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import gc
from pathlib import Path

import jax
import jaxtyping
from jax.experimental.compilation_cache import compilation_cache

# The modules whose functions are called with the arrays of their signatures alone, or a test fails.
CHECKED = (
    "i3d_jax.clips",
    "i3d_jax.flow",
    "i3d_jax.models",
    "i3d_jax.training.metrics",
    "i3d_jax.training.step",
    "i3d_jax.training.transfer",
)
# A number without a fraction is a float, as it is for type checkers.
jaxtyping.install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

# The files that take longest: begun first, none of them keeps one process busy after the others have ended.
LONGEST = (
    "test_study_runs.py",
    "test_bucket_runs.py",
    "test_models.py",
    "test_published_weights.py",
    "test_distributed.py",
    "test_main.py",
    "test_prepare_beam_killed.py",
    "test_installation.py",
    "test_killed.py",
    "test_tutorial.py",
    "test_faults.py",
    "test_tvl1.py",
    "test_layers.py",
    "test_against_pytorch.py",
    "test_convert_torch.py",
)


# Traced networks are millions of objects and hardly any garbage; each file's is collected at its end (`programs`).
gc.set_threshold(100_000, 50, 100)


def pytest_configure(config):
    # pytest-xdist would begin with the files that have most tests, which are short ones.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """The folder for what is compiled, of this run of pytest, its workers and the processes that tests start.

    It is empty at first: nothing is found that the code of today has not compiled.
    """
    folder = tmp_path_factory.getbasetemp()
    # A worker's own folder lies in that of the whole run.
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    # What the commands keep in the user's cache folder stays out of the real one.
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    return folder / "compiled"


@pytest.fixture(autouse=True)
def _told_of_progress(monkeypatch):
    """A flag --quiet of one test is not the next one's."""
    monkeypatch.setattr("i3d_jax.system.terminal._quiet", False)


@pytest.fixture(scope="module", autouse=True)
def programs(cache_folder):
    """No file keeps in memory what another one has run; kept to the end, that was 6 GB in each of two processes."""
    jax.config.update("jax_compilation_cache_dir", str(cache_folder))
    # JAX has chosen its folder already if anything was compiled before.
    compilation_cache.reset_cache()
    yield
    jax.clear_caches()
    gc.collect()
    # What is left are modules and the like, for good: no later collection needs to go through them again.
    gc.freeze()


@pytest.fixture(scope="module")
def google_emulator():
    """Google's storage on this machine, with one bucket for the tests of a file; yields its address."""
    with emulators.google() as address:
        yield address


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """The real clips that stand beside a developer's checkout; tests that need them skip where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "videos"
    if not folder.is_dir():
        pytest.skip("the real clips are not on this machine")
    return folder


@pytest.fixture(scope="session")
def cases() -> Path:
    """Strange public files that stand beside a developer's checkout; tests of them skip where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip("the strange files are not on this machine")
    return folder
