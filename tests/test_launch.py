"""The scripts of launch/, offline: `gcloud`, `srun` and `python` are stand-ins that start real processes here."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.ports import free_port

from i3d_jax import prepare

TESTS = Path(__file__).resolve().parent
LAUNCH = TESTS.parent / "launch"
HELPERS = TESTS / "helpers"
STAND_INS = HELPERS / "stand_ins"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
CONFIG = ["--config", "experiments/kinetics.py", "--config.optimizer.boundaries=(1, 2)"]


@pytest.fixture
def environment(tmp_path):
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHON"},
        "PATH": f"{STAND_INS}:{os.environ['PATH']}",
        "PYTHONPATH": str(TESTS.parent),
        "XLA_FLAGS": "",
        "REAL_PYTHON": sys.executable,
        "JOINED": str(HELPERS / "joined.py"),
        "JAX_COORDINATOR_PORT": str(free_port()),
        "CLOUD": str(tmp_path / "cloud"),
    }


def call(script, *arguments, **options):
    command = [str(LAUNCH / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def met(lines) -> dict[int, int]:
    """Reads until both of two processes have said that they have met, with all arguments; returns pids by number."""
    pids = {}
    for line in lines:
        if found := re.match(r"process (\d) of 2, pid (\d+), sum (\d), arguments (.*)", line):
            number, pid, total, arguments = found.groups()
            assert total == "3"
            assert arguments == repr(CONFIG)
            pids[int(number)] = int(pid)
        if len(pids) == 2:
            return pids
    raise AssertionError("the processes did not meet")


def stopped(text: str) -> int:
    """The step after which both processes say that they stopped."""
    # Lines of two processes may run into one another.
    steps = re.findall(r"stopped by SIGTERM after step (\d+)", text)
    assert len(steps) == 2
    assert steps[0] == steps[1]
    return int(steps[0])


def test_shellcheck_has_nothing_to_say():
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    stand_ins = [path for path in STAND_INS.rglob("*") if path.is_file()]
    assert len(SCRIPTS) == 5
    done = subprocess.run([program, *SCRIPTS, *stand_ins], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_says_how_it_is_used(script):
    done = call(script.name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
    assert f"launch/{script.name}" in done.stdout
    assert max(map(len, script.read_text().splitlines())) <= 120


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("local.sh", ["--x", "a b"], [r"python -m i3d_jax.main --x a\ b "]),
        (
            "local.sh",
            ["--processes", "2", "study", "--x"],
            [
                f"CUDA_VISIBLE_DEVICES={number} python -m i3d_jax.study --x --coordinator localhost:12321 "
                f"--num_processes 2 --process_id {number} "
                for number in (0, 1)
            ],
        ),
        ("slurm.sh", ["study", "--x"], ["srun --wait=90 python -m i3d_jax.study --distributed --x "]),
        (
            "prepare_flink.sh",
            ["--master", "h:1", "--parallelism", "2", "--x"],
            [
                "python -m i3d_jax.prepare --x --runner FlinkRunner -- --flink_master=h:1 --parallelism=2 "
                "--environment_type=EXTERNAL --environment_config=localhost:50000 "
            ],
        ),
    ],
)
def test_a_dry_run_prints_the_commands(script, arguments, expected):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    done = call(script, "--dry_run", *arguments, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_without_arguments_the_help_is_a_complaint(script):
    done = call(script.name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == call(script.name, "--help").stdout


def test_local_starts_processes_that_meet_and_stop_together(environment):
    command = [LAUNCH / "local.sh", "--processes", "2", "--port", environment["JAX_COORDINATOR_PORT"], *CONFIG]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        met(process.stdout)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stopped(errors) > 1


# A Python of which process 0 is as it is told, and the other fails.
FAILS = """#!/bin/sh
case "$*" in *"--process_id 1") sleep 1; echo "other fails"; exit 3; esac
{}
"""


@pytest.mark.parametrize("other", ["kill -STOP $$", "trap '' TERM\nwhile :; do sleep 0.1; done", "exec sleep 1000"])
def test_local_ends_the_others_when_one_fails(environment, tmp_path, other):
    (tmp_path / "python").write_text(FAILS.format(other))
    (tmp_path / "python").chmod(0o755)
    script = (LAUNCH / "local.sh").read_text()
    for long, short in (("PATIENCE=90", "PATIENCE=1"), ("FAREWELL=10", "FAREWELL=1")):
        assert long in script
        script = script.replace(long, short)
    (tmp_path / "local.sh").write_text(script)
    command = ["bash", tmp_path / "local.sh", "--processes", "2", *CONFIG]
    done = subprocess.run(
        command,
        env={**environment, "PYTHON": str(tmp_path / "python")},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: a process ended with code 3, and 1 did not within 1 s: they are ended\n")


STUDY = ["study", "--table", "accuracy"]
STARTED = [(CONFIG, f"-m i3d_jax.main {' '.join(CONFIG)}"), (STUDY, "-m i3d_jax.study --table accuracy")]


@pytest.mark.parametrize(("arguments", "started"), STARTED)
def test_local_with_one_process_is_that_process(environment, tmp_path, arguments, started):
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\nexit 7\n')
    (tmp_path / "python").chmod(0o755)
    done = call("local.sh", *arguments, env={**environment, "PYTHON": str(tmp_path / "python")})
    assert (done.returncode, done.stdout) == (7, f"{started}\n")


def test_a_study_is_started_as_a_run_is(environment, tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment["PYTHON"] = str(tmp_path / "python")
    port = environment["JAX_COORDINATOR_PORT"]
    local = call("local.sh", "--processes", "2", "--port", port, *STUDY, env=environment).stdout.splitlines()
    cluster = f"--coordinator localhost:{port} --num_processes 2 --process_id"
    assert sorted(local) == [f"-m i3d_jax.study --table accuracy {cluster} {number}" for number in (0, 1)]
    slurm = call("slurm.sh", *STUDY, env={**environment, "SLURM_JOB_ID": "41"}).stdout.splitlines()
    assert slurm == ["-m i3d_jax.study --distributed --table accuracy"] * 2
    pod = call("tpu_pod.sh", "run", *PLACE, "--dry_run", "--", *STUDY, env=environment).stdout
    assert "-m i3d_jax.study --distributed --table accuracy & echo" in pod


def test_slurm_requeues_when_one_of_its_processes_is_told_to_stop(environment):
    environment["SLURM_JOB_ID"] = "41"
    with subprocess.Popen(
        [LAUNCH / "slurm.sh", *CONFIG], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        os.kill(met(process.stdout)[1], signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stopped(errors) > 1
    assert output.splitlines() == ["scontrol requeue 41"]


@pytest.mark.parametrize(("code", "cancelled"), [(2, False), (143, True)])
def test_slurm_does_not_requeue_what_failed_or_was_cancelled(environment, tmp_path, code, cancelled):
    """SLURM tells the shell of a job that it cancels, or preempts and requeues itself."""
    (tmp_path / "python").write_text(f"#!/bin/sh\necho started\nread -r line\nexit {code}\n")
    (tmp_path / "python").chmod(0o755)
    environment |= {"SLURM_JOB_ID": "41", "PYTHON": str(tmp_path / "python")}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([LAUNCH / "slurm.sh", *CONFIG], env=environment, **streams) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["started\n"] * 2
        if cancelled:
            process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (code, "")


PLACE = ["--name", "pod", "--zone", "zone-a", "--project", "project-1"]


@pytest.mark.parametrize("place", ["share", "bucket"])
def test_a_tpu_from_the_request_to_the_deletion(environment, tmp_path, place):
    cloud = tmp_path / "cloud"
    for worker in (0, 1):
        (cloud / f"worker-{worker}").mkdir(parents=True)
    shutil.copytree(STAND_INS / "on_workers", cloud / "on_workers")
    for program, text in (("here/sleep", ""), ("on_workers/gcloud", 'echo "$*" >> "$CLOUD/asked-by-workers"\n')):
        (cloud / program).parent.mkdir(exist_ok=True)
        (cloud / program).write_text(f"#!/bin/sh\n{text}")
        (cloud / program).chmod(0o755)
    environment["PATH"] = f"{cloud / 'here'}:{environment['PATH']}"
    where = {"share": ["--share", "10.0.0.2:/share"], "bucket": ["--bucket", "gs://b"]}[place]
    options = [*PLACE, "--type", "v5litepod-16", "--spot", *where, "--", *CONFIG]
    done = call("tpu_pod.sh", "all", *options, env=environment)
    assert done.returncode == 0, done.stderr
    assert (cloud / "state").read_text() == "ACTIVE\n"
    assert re.findall(r"pod: (\w+)", done.stderr) == ["PROVISIONING", "ACTIVE"]
    assert done.stdout.count("sudo mount -t nfs 10.0.0.2:/share") == (2 if place == "share" else 0)
    assert done.stdout.count("installed i3d_jax[all,tpu] of i3d_jax/setup.py as i3d_jax/constraints.txt has it") == 2
    asked = (cloud / "asked").read_text()
    assert "create pod --zone zone-a --project project-1 --node-id pod --accelerator-type v5litepod-16" in asked

    folders = [cloud / "share" if place == "share" else cloud / f"worker-{worker}" for worker in (0, 1)]
    logs = [folder / "logs" / f"pod-worker-{worker}.log" for worker, folder in enumerate(folders)]
    deadline = time.monotonic() + 120
    while not all(log.is_file() and "arguments" in log.read_text() for log in logs) and time.monotonic() < deadline:
        time.sleep(0.1)
    pids = met(line for log in logs for line in log.read_text().splitlines())
    assert {number: int((cloud / f"worker-{number}" / "i3d_jax.pid").read_text()) for number in (0, 1)} == pids
    assert call("tpu_pod.sh", "log", *PLACE, env=environment).stdout == logs[0].read_text()

    assert call("tpu_pod.sh", "stop", *PLACE, env=environment).returncode == 0
    deadline = time.monotonic() + 120
    while not all("stopped" in log.read_text() for log in logs) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert stopped("".join(log.read_text() for log in logs)) > 1

    if place == "bucket":
        assert call("tpu_pod.sh", "keep", *PLACE, "--bucket", "gs://b", env=environment).returncode == 0
        copies = [f"storage rsync --recursive {folder}/logs gs://b/logs" for folder in folders]
        told = (cloud / "asked-by-workers").read_text().splitlines()
        assert sorted(told) == sorted(["storage ls gs://b"] * 2 + copies)
    assert call("tpu_pod.sh", "delete", *PLACE, env=environment).returncode == 0
    assert not (cloud / "state").exists()


def test_nothing_is_started_where_its_log_cannot_be(environment, tmp_path):
    cloud = tmp_path / "cloud"
    shutil.copytree(STAND_INS / "on_workers", cloud / "on_workers")
    for worker in (0, 1):
        (cloud / f"worker-{worker}" / "i3d_jax").mkdir(parents=True)
    done = call("tpu_pod.sh", "run", *PLACE, "--", *CONFIG, env=environment)
    assert done.returncode == 1
    assert done.stderr.count("No such file or directory") == 2
    assert not list(cloud.rglob("i3d_jax.pid"))


def test_tpu_commands_are_printed_and_not_run(environment):
    """`resume` is made of all the others that change something."""
    options = [*PLACE, "--share", "h:/s", "--dry_run", "--", *CONFIG]
    done = call("tpu_pod.sh", "resume", *options, env={**environment, "CLOUD": "/nowhere"})
    assert (done.returncode, done.stderr) == (0, "")
    place = "--zone zone-a --project project-1"
    expected = [
        f"gcloud compute tpus queued-resources delete pod {place} --force --quiet",
        f"gcloud compute tpus queued-resources create pod {place} --node-id pod --accelerator-type v5litepod-8 "
        "--runtime-version v2-alpha-tpuv5-lite",
        f"gcloud compute tpus tpu-vm ssh pod {place} --worker=all '--command=sudo apt-get -qq install",
        "tar -czf /",
        "gcloud compute tpus tpu-vm scp /",
        f"gcloud compute tpus tpu-vm ssh pod {place} --worker=all '--command=mkdir -p i3d_jax && tar",
        f"gcloud compute tpus tpu-vm ssh pod {place} --worker=all '--command=cd i3d_jax && {{ PYTHONUNBUFFERED=1 nohup",
        f"gcloud compute tpus tpu-vm ssh pod {place} --worker=0 '--command=tail -n 100 -F",
    ]
    lines = done.stdout.splitlines()
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("command", "copies"),
    [
        ("fetch", "gs://b/datasets /mnt/share/datasets"),
        ("keep", "/mnt/share/runs gs://b/runs"),
    ],
)
def test_a_bucket_is_copied_from_and_to(command, copies):
    done = call("tpu_pod.sh", command, *PLACE, "--bucket", "gs://b", "--share", "h:/s", "--dry_run")
    assert done.stdout.endswith(f"--worker=0 '--command=gcloud storage rsync --recursive {copies}' \n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tpu_pod.sh", "creat", *PLACE], "there is no command creat; --help lists them"),
        (["tpu_pod.sh", "create", "--name", "x"], "--name, --zone and --project are needed"),
        (["tpu_pod.sh", "create", "--zones", "x"], "there is no option --zones"),
        (["tpu_pod.sh", "create", "--name"], "--name needs a value"),
        (["tpu_pod.sh", "run", *PLACE], "run needs the arguments of i3d_jax.main, after --"),
        (["tpu_pod.sh", "install", *PLACE], "install needs --bucket gs://NAME or --share HOST:/PATH"),
        (["tpu_pod.sh", "fetch", *PLACE, "--bucket", "gs://b"], "fetch copies to a share: it needs --share HOST:/PATH"),
        (
            ["tpu_pod.sh", "all", *PLACE, "--bucket", "gs://b", "--", *CONFIG, "--workdir", "/mnt/share/runs/x"],
            "nothing is at /mnt/share without --share HOST:/PATH, found /mnt/share/runs/x",
        ),
        (["tpu_pod.sh", "keep", *PLACE], "keep needs --bucket gs://NAME"),
        (["tpu_pod.sh", "all", *PLACE, "--", *CONFIG], "all needs --bucket gs://NAME or --share HOST:/PATH"),
        (["tpu_pod.sh", "resume", *PLACE, "--share", "h:/s"], "resume needs the arguments of i3d_jax.main, after --"),
        (["local.sh", "--processes", "x"], "--processes must be a number of 1 or more, found 'x'"),
        (["local.sh", "--processes"], "--processes needs a number"),
        (
            ["local.sh", "--processes", "2", "--port", "http", *CONFIG],
            "--port must be a number of 1 or more, found 'ht",
        ),
        (["prepare_flink.sh", "--master"], "--master needs a value"),
        (["prepare_dataflow.sh", "--workers"], "--workers needs a value"),
        (["local.sh", "--processes", "0", *CONFIG], "--processes must be a number of 1 or more, found '0'"),
        (["local.sh", "--processes", "abc", *CONFIG], "--processes must be a number of 1 or more, found 'abc'"),
        (["prepare_flink.sh", "--master", "h:1"], "--master and --parallelism are needed"),
        (["prepare_dataflow.sh", "--project", "p"], "--project, --region, --bucket and --image are needed"),
    ],
)
def test_mistakes_are_one_sentence(arguments, words):
    done = call(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {words}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "own", "flags"),
    [
        (
            "prepare_flink.sh",
            ["--master", "h:8081", "--parallelism", "64"],
            ["--flink_master=h:8081", "--parallelism=64", "--environment_type=EXTERNAL"],
        ),
        (
            "prepare_dataflow.sh",
            ["--project", "p", "--region", "r", "--bucket", "gs://b", "--image", "i", "--workers", "3"],
            ["--project=p", "--region=r", "--temp_location=gs://b/temporary", "--sdk_container_image=i"],
        ),
    ],
)
def test_prepare_gets_its_own_arguments_and_beam_its_flags(script, own, flags, tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    prepared = ["--annotations", "a b.csv", "--videos", "v", "--output", "o"]
    done = call(script, *own, *prepared, env={**os.environ, "PYTHON": str(tmp_path / "python")})
    module, *arguments = done.stdout.splitlines()[1:]
    options, beam_flags = prepare._options(arguments)
    assert module == "i3d_jax.prepare"
    assert (options.annotations, options.videos, options.output) == (["a b.csv"], "v", "o")
    assert options.runner == {"prepare_flink.sh": "FlinkRunner", "prepare_dataflow.sh": "DataflowRunner"}[script]
    assert set(flags) <= set(beam_flags)


def test_the_image_of_dataflow_holds_this_checkout():
    """Beam asks for the same version on its workers as where the pipeline is started; what is copied is there."""
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    [image] = [line.removeprefix("FROM ") for line in lines if line.startswith("FROM ")]
    pinned = re.search(r"^apache-beam==([0-9.]+)", (LAUNCH.parent / "constraints.txt").read_text(), re.MULTILINE)
    assert image == f"apache/beam_python3.12_sdk:{pinned[1]}"
    for line in lines:
        if line.startswith("COPY "):
            *sources, _ = line.split()[1:]
            assert all((LAUNCH.parent / source).exists() for source in sources)
