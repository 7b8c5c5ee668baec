"""Makes shards with Apache Beam, on this machine or on a cluster whose machines see the same folders.

What travels through the pipeline is a shard's plan, and a worker writes the whole shard by itself: nothing large is
shuffled or kept in memory, and records, their order and their bytes are those of the local run.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import apache_beam
import grpc
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions
from apache_beam.runners import create_runner
from apache_beam.runners.runner import PipelineResult, PipelineState

from i3d_jax.ingest import alive
from i3d_jax.ingest.plan import Shard
from i3d_jax.ingest.shard import Job, crashed, make_shard, size_in_bytes
from i3d_jax.system.errors import Failure, UserError, install_hint, is_full_disk
from i3d_jax.system.workers import Workers, leave_after

COUNTERS = "prepare"  # Their namespace.
GO_ON = "what is finished stays; start again to go on"
# Clusters replace workers, which takes minutes.
SILENT_SECONDS = 600.0
# Nobody replaces those of this machine; they take a while to start.
DIRECT_SILENT_SECONDS = 300.0
# Of a job server that is there.
ANSWER_SECONDS = 20.0
MOST_JOB_SECONDS = 365 * 24 * 3600
# They begin by looking for a program on the internet.
NOT_OFFERED = ("BundleBasedDirectRunner", "DirectRunner", "SwitchingDirectRunner", "TestDirectRunner")
# Beam does not list it.
DASK = "DaskRunner"
RUNNERS = ("direct", DASK, *(name for name in StandardOptions.KNOWN_RUNNER_NAMES if name not in NOT_OFFERED))


class _MakeShard(apache_beam.DoFn):
    """Writes a shard into the dataset folder; its videos are read in another process, which may crash."""

    def __init__(self, job: Job, launcher: int | None):
        self._job = job
        self._launcher = launcher
        self._sign = alive.Sign(job.directory)

    def setup(self) -> None:
        if self._launcher is not None:
            leave_after(self._launcher)
        _keep_beam_to_itself()
        # Kept from shard to shard: it starts once, and what JAX has compiled in it stays.
        self._workers = Workers(1)

    def teardown(self) -> None:
        self._workers.close()

    def process(self, shard: Shard) -> None:
        results = self._workers.in_order(self._job.read, shard.clips, crashed=crashed, weigh=size_in_bytes)
        with self._sign.shown(), contextlib.closing(results):
            index = make_shard(shard, self._job.directory, results)
        count("videos written", len(index.names))
        count("videos skipped", len(index.skipped))
        for _, reason in index.skipped:
            count(f"skipped: {kind_of(reason)}", 1)


def _keep_beam_to_itself() -> None:
    """Lets the processes of a worker of Beam's start without Beam: Python would import its main module in each."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None and main.__spec__.name.startswith("apache_beam."):
        main.__spec__ = main.__file__ = None


def count(name: str, number: int) -> None:
    """Adds to one of the counters that are printed at the end."""
    Metrics.counter(COUNTERS, name).inc(number)


def kind_of(reason: str) -> str:
    """Returns a reason without the numbers and details of its video, so that there are few kinds and a counter each.

    "decoding fails after 28 frames: it is damaged there" is "decoding fails after N frames".
    """
    return re.sub(r"\d+([.x]\d+)*", "N", reason.split(":")[0])


def make_shards(
    shards: Sequence[Shard], job: Job, *, runner: str, flags: Sequence[str] = (), processes: int = 1
) -> None:
    """Makes shards, each by one worker of a Beam runner, and prints Beam's counters on standard error.

    They are the videos written and skipped, and those skipped for each kind of reason.

    Args:
      shards: to be made.
      job: what they have in common; its folders are the same on all machines.
      runner: one of `RUNNERS`, in upper or lower case; "direct" is processes of this machine.
      flags: Beam's own, as on its command line.
      processes: of "direct"; other runners have flags for it.

    Raises:
      UserError: the runner cannot be used (`make_pipeline`).
      Failure: the pipeline has failed; the shards that it has finished stand.
    """
    pipeline = make_pipeline(runner, flags, processes)
    # On this machine Beam's workers would outlive it.
    launcher = os.getpid() if is_direct(runner) else None
    (
        pipeline
        | "missing shards" >> apache_beam.Create(shards)
        | "to all workers" >> apache_beam.Reshuffle()
        | "make shard" >> apache_beam.ParDo(_MakeShard(job, launcher))
    )
    run_to_its_end(pipeline, runner, job.directory)


def is_direct(runner: str) -> bool:
    """Says whether the workers are processes that this one starts."""
    return runner.lower() == "direct"


def run_to_its_end(pipeline: apache_beam.Pipeline, runner: str, folder: Path) -> None:
    """Runs a pipeline and prints Beam's counters on standard error, where the runner has any.

    Where no worker shows itself in the folder any more (`alive`), this process ends.

    Args:
      pipeline: of `make_pipeline`.
      runner: that it is of.
      folder: that the workers write into.

    Raises:
      Failure: the pipeline has failed.
    """
    started: list[PipelineResult] = []

    def cancel() -> None:
        for result in started:
            with contextlib.suppress(Exception):
                result.cancel()

    direct = is_direct(runner)
    seconds = DIRECT_SILENT_SECONDS if direct else SILENT_SECONDS
    try:
        with alive.watched(folder, most_seconds=seconds, from_now=direct, cancel=cancel):
            started.append(pipeline.run())
            state = started[0].wait_until_finish()
    except BaseException as error:
        # The workers of a cluster would go on.
        cancel()
        if not isinstance(error, Exception) or is_full_disk(error):
            raise
        # Where in a worker it was: one sentence does not say that.
        print(error, file=sys.stderr)
        raise Failure(f"--runner {runner}: the job failed: {_in_short(error)}; {GO_ON}") from error
    if state != PipelineState.DONE:
        raise Failure(f"--runner {runner}: the job ended as {state}; {GO_ON}")
    try:
        counted = "; ".join(f"{name} {count}" for name, count in _counters(started[0]))
    except NotImplementedError:
        counted = f"nothing, as {runner} has no counters"
    print(f"Beam counted: {counted}", file=sys.stderr)


def refuse_unusable(runner: str, flags: Sequence[str]) -> None:
    """Refuses a runner that there is not, that lacks a package, or that cannot do with these flags.

    Raises:
      UserError: says which runners there are, or what is wrong.
    """
    if runner.lower() not in {name.lower() for name in RUNNERS}:
        raise UserError(f"--runner must be local or one of Beam's ({', '.join(RUNNERS)}), found {runner!r}")
    make_pipeline(runner, flags, processes=1)


def make_pipeline(runner: str, flags: Sequence[str], processes: int) -> apache_beam.Pipeline:
    """Returns a pipeline of a runner, with Beam's own flags; a `UserError` says why it cannot be used."""
    if is_direct(runner):
        # Beam's own "DirectRunner" is another (`NOT_OFFERED`).
        name = "FnApiRunner"
        options = PipelineOptions(list(flags), direct_running_mode="multi_processing", direct_num_workers=processes)
    else:
        name = "apache_beam.runners.dask.dask_runner.DaskRunner" if runner.lower() == DASK.lower() else runner
        options = PipelineOptions(list(flags))
        portable = options.view_as(PortableOptions)
        _refuse_unreachable(runner, portable.job_endpoint)
        # With some job servers it ends the job itself, after five minutes.
        portable.job_server_timeout = MOST_JOB_SECONDS
    try:
        return apache_beam.Pipeline(runner=create_runner(name), options=options)
    except (ImportError, ValueError) as error:
        hint = f"; {install_hint('beam', 'dask')}" if runner.lower() == DASK.lower() else ""
        raise UserError(f"--runner {runner} cannot be used so: {' '.join(str(error).split())}{hint}") from error


def _refuse_unreachable(runner: str, address: str | None) -> None:
    if address in (None, "embed"):
        return
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_SECONDS)
        except grpc.FutureTimeoutError as error:
            raise UserError(
                f"--runner {runner}: a job server was expected at --job_endpoint={address}, found none in "
                f"{ANSWER_SECONDS:g} s"
            ) from error


def _in_short(error: Exception) -> str:
    """Returns what an error comes down to: of a worker's traceback, which Beam gives as text, the last line."""
    details = error.details() if isinstance(error, grpc.Call) else str(error)
    lines = [line.strip() for line in (details or "").splitlines() if line.strip()]
    return lines[-1][:300] if lines else repr(error)


def _counters(result: PipelineResult) -> Iterator[tuple[str, int]]:
    found = result.metrics().query(apache_beam.metrics.MetricsFilter().with_namespace(COUNTERS))["counters"]
    for counter in sorted(found, key=lambda counter: counter.key.metric.name):
        # Beam gives None for zero.
        yield counter.key.metric.name, counter.result or 0
