"""Makes shards on this machine, in one process or several."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence

from i3d_jax.ingest.plan import Shard
from i3d_jax.ingest.process import Prepared, Skipped
from i3d_jax.ingest.shard import Job, crashed, make_shard, size_in_bytes
from i3d_jax.system.progress import Bar
from i3d_jax.system.workers import ONE_THREAD, in_order


def make_shards(
    shards: Sequence[Shard],
    job: Job,
    *,
    processes: int,
    isolated: bool = False,
    environment: Mapping[str, str] = ONE_THREAD,
) -> None:
    """Makes shards one after the other, their videos read in as many processes as there are, and shows how far it is.

    Args:
      shards: to be made.
      job: what they have in common.
      processes: that read videos, 1 or more.
      isolated: whether a single process is another one too; otherwise it is this one, and a decoder that crashes ends
        the run.
      environment: variables that other processes than this one have besides its own.
    """
    clips = [clip for shard in shards for clip in shard.clips]
    rate_of = "frames" if job.preprocessing.flow is None else "fields"
    with Bar("preparing", total=len(clips), unit="videos", rate_of=rate_of) as bar:
        results = in_order(
            job.read,
            clips,
            processes=processes,
            crashed=crashed,
            isolated=isolated,
            weigh=size_in_bytes,
            watch=lambda done, frames, fields: bar.to(done, frames=frames, fields=fields),
            environment=environment,
        )
        with contextlib.closing(results), contextlib.closing(_counted(results, bar)) as counted:
            for shard in shards:
                make_shard(shard, job.directory, counted)


def _counted(results: Iterable[Prepared | Skipped], bar: Bar) -> Generator[Prepared | Skipped, None, None]:
    """Passes results on and counts those that are skipped."""
    skipped = 0
    for result in results:
        skipped += isinstance(result, Skipped)
        bar.count(skipped=skipped)
        yield result
