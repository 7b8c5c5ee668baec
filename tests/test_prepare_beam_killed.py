"""A worker of Beam's is killed amid the work: the job ends by itself or with one sentence, and the bytes are the same.

The workers of clusters are here processes of this machine that the command does not start: those of Beam's worker pool,
behind a portable job server, and those of Dask. Nobody replaces the former, as `direct`'s.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.flow_videos import arguments, files, run, write_videos
from helpers.ports import free_port

from i3d_jax import prepare
from i3d_jax.ingest import beam
from i3d_jax.system.errors import UserError

ROOT = Path(__file__).parents[1]
OPTIONS = ("--shards", "8", "--flow", "tvl1", "--flow_backend", "opencv")
# 12 videos and two that are skipped.
VIDEOS, SHARDS = 12, 16
# The workers' signs in a tenth of the usual time, so that their absence is told as soon.
PROGRAM = """
import sys
from i3d_jax import prepare
from i3d_jax.ingest import alive, beam
from i3d_jax.system.errors import run

alive.SECONDS, beam.SILENT_SECONDS, beam.DIRECT_SILENT_SECONDS = 0.5, 8.0, 30.0
run(prepare.main)
"""
SILENT = re.compile(r"error: no worker of Beam's has shown itself for [\d.]+ s: .*; start again to go on")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), VIDEOS)


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    return files(run(videos, tmp_path_factory.mktemp("whole") / "dataset", *OPTIONS))


@pytest.fixture
def started(tmp_path):
    """Starts a process, whose output stands in a file NAME, and ends it with its group after the test."""
    processes = []
    # The worker pool calls it by this name.
    own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    own["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])

    def start(name, *command):
        with open(tmp_path / name, "w") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    cwd=ROOT,
                    env={**os.environ, **own},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        return processes[-1]

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def comes(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def children(parent, words):
    """The processes that one has started and whose command line has these words, by number."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            own = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if own == parent and words in line:
                found.append(int(path.name))
    return found


def shards(directory):
    """The shards that are finished, by their indexes."""
    return {path.stem for path in directory.glob("index/*.json")}


def lines(path):
    return path.read_text().splitlines()


def command(videos, directory, *more):
    return ("-c", PROGRAM, *arguments(videos, directory, *OPTIONS, *more))


@pytest.mark.long
@pytest.mark.parametrize("runner", ["PortableRunner", "direct"])
def test_a_worker_that_nobody_replaces(videos, whole, started, tmp_path, capsys, runner):
    """The other makes its own share; then the command ends, and started again makes the rest."""
    if runner == "direct":
        more = ("--runner", "direct", "--processes", "2")
    else:
        port = free_port()
        server = started("server", "-m", "helpers.job_server", "2", tmp_path / "port")
        pool = started("pool", "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}")
        comes(lambda: (tmp_path / "port").exists() and "Started" in (tmp_path / "pool").read_text())
        flags = (f"--job_endpoint=localhost:{(tmp_path / 'port').read_text()}", "--environment_type=EXTERNAL")
        more = ("--runner", runner, "--", *flags, f"--environment_config=localhost:{port}")
    directory = tmp_path / "dataset"
    process = started("first", *command(videos, directory, *more))
    comes(lambda: shards(directory))
    if runner == "direct":
        # Each below a shell.
        parents = children(process.pid, "sdk_worker_main")
        workers = [number for parent in parents for number in children(parent, "sdk_worker_main")] or parents
    else:
        workers = children(pool.pid, "SdkHarness")
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    assert process.wait(timeout=120) == 1
    (said,) = (line for line in lines(tmp_path / "first") if line.startswith("error: "))
    assert SILENT.fullmatch(said)
    # Half of the shards are the other's.
    made = shards(directory)
    assert SHARDS // 2 <= len(made) < SHARDS
    left = files(directory)
    assert "dataset.json" not in left
    for name, content in left.items():
        assert name in ("unfinished.json", ".alive") or ".tmp-" in name or content == whole[name]
    prepare.main(arguments(videos, directory, *OPTIONS, *more))
    assert files(directory) == whole
    (counted,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("Beam counted: "))
    counts = dict(re.findall(r"(videos \w+) (\d+)", counted))
    # Of the 14 those that stand in no shard of before.
    indexes = {name: content for name, content in whole.items() if name.startswith("index/") and ".json" in name}
    missing = [content for name, content in indexes.items() if Path(name).stem not in made]
    skipped = sum(name in content for content in missing for name in (b"damaged.mkv", b"still.mkv"))
    assert int(counts["videos skipped"]) == skipped
    written = sum(len(re.findall(rb'"\d+\.mkv"', content)) for content in missing)
    assert int(counts["videos written"]) == written
    if runner != "direct":
        assert server.poll() is None
        assert pool.poll() is None


def test_dask_gives_the_work_of_a_dead_worker_to_another(videos, whole, started, tmp_path):
    pytest.importorskip("distributed")
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"

    def part(name):
        return ("-c", f"from distributed.cli.{name} import main; main()", "--host", "127.0.0.1", "--no-dashboard")

    started("scheduler", *part("dask_scheduler"), "--port", str(port))
    own = ("--nthreads", "1", "--no-nanny", "--local-directory", tmp_path / "of_dask")
    workers = [started(f"worker{number}", *part("dask_worker"), address, *own) for number in range(2)]
    comes(lambda: (tmp_path / "scheduler").read_text().count("Register worker") == 2)
    directory = tmp_path / "dataset"
    flags = (f"--dask_client_address={address}", "--dask_partition_size=2")
    process = started("command", *command(videos, directory, "--runner", "DaskRunner", "--", *flags))
    comes(lambda: shards(directory))
    workers[0].kill()
    assert len(shards(directory)) < SHARDS
    assert process.wait(timeout=120) == 0, (tmp_path / "command").read_text()
    assert files(directory) == whole
    assert "Beam counted: nothing, as DaskRunner has no counters" in lines(tmp_path / "command")


def test_a_job_server_that_is_not_there(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "ANSWER_SECONDS", 0.5)
    message = r"a job server was expected at --job_endpoint=localhost:1, found none in 0\.5 s"
    with pytest.raises(UserError, match=message):
        run(videos, tmp_path / "dataset", *OPTIONS, "--runner", "PortableRunner", "--", "--job_endpoint=localhost:1")
    assert not (tmp_path / "dataset").exists()
