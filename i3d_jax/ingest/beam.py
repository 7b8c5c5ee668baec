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

import apache_beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners import create_runner
from apache_beam.runners.runner import PipelineResult, PipelineState

from i3d_jax.ingest.plan import Shard
from i3d_jax.ingest.shard import Job, crashed, make_shard, size_in_bytes
from i3d_jax.system.errors import UserError
from i3d_jax.system.workers import Workers, leave_after

COUNTERS = "prepare"  # Their namespace.
# They begin by looking for a program on the internet.
NOT_OFFERED = ("BundleBasedDirectRunner", "DirectRunner", "SwitchingDirectRunner", "TestDirectRunner")
RUNNERS = ("direct", *(name for name in StandardOptions.KNOWN_RUNNER_NAMES if name not in NOT_OFFERED))


class _MakeShard(apache_beam.DoFn):
    """Writes a shard into the dataset folder; its videos are read in another process, which may crash."""

    def __init__(self, job: Job, launcher: int | None):
        self._job = job
        self._launcher = launcher

    def setup(self) -> None:
        if self._launcher is not None:
            leave_after(self._launcher)
        # Kept from shard to shard: it starts once, and what JAX has compiled in it stays.
        self._workers = Workers(1)

    def teardown(self) -> None:
        self._workers.close()

    def process(self, shard: Shard) -> None:
        results = self._workers.in_order(self._job.read, shard.clips, crashed=crashed, weigh=size_in_bytes)
        with contextlib.closing(results):
            index = make_shard(shard, self._job.directory, results)
        count("videos written", len(index.names))
        count("videos skipped", len(index.skipped))
        for _, reason in index.skipped:
            count(f"skipped: {kind_of(reason)}", 1)


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
      UserError: the runner cannot be used (`refuse_unusable`).
      RuntimeError: the pipeline has failed; the shards that it has finished stand.
    """
    pipeline = make_pipeline(runner, flags, processes)
    # On this machine Beam's workers would outlive it.
    launcher = os.getpid() if runner.lower() == "direct" else None
    (
        pipeline
        | "missing shards" >> apache_beam.Create(shards)
        | "to all workers" >> apache_beam.Reshuffle()
        | "make shard" >> apache_beam.ParDo(_MakeShard(job, launcher))
    )
    run_to_its_end(pipeline)


def run_to_its_end(pipeline: apache_beam.Pipeline) -> dict[str, int]:
    """Runs a pipeline, prints Beam's counters on standard error and returns them; a `RuntimeError` if it fails."""
    result = pipeline.run()
    state = result.wait_until_finish()
    if state != PipelineState.DONE:
        raise RuntimeError(f"Beam's pipeline ended as {state}")
    counted = dict(_counters(result))
    print(f"Beam counted: {'; '.join(f'{name} {count}' for name, count in counted.items())}", file=sys.stderr)
    return counted


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
    if runner.lower() == "direct":
        # Beam's own "DirectRunner" is another (`NOT_OFFERED`).
        name = "FnApiRunner"
        options = PipelineOptions(list(flags), direct_running_mode="multi_processing", direct_num_workers=processes)
    else:
        name, options = runner, PipelineOptions(list(flags))
    try:
        return apache_beam.Pipeline(runner=create_runner(name), options=options)
    except (ImportError, ValueError) as error:
        raise UserError(f"--runner {runner} cannot be used so: {' '.join(str(error).split())}") from error


def _counters(result: PipelineResult) -> Iterator[tuple[str, int]]:
    found = result.metrics().query(apache_beam.metrics.MetricsFilter().with_namespace(COUNTERS))["counters"]
    for counter in sorted(found, key=lambda counter: counter.key.metric.name):
        yield counter.key.metric.name, counter.result
