"""Makes shards on this machine, in one process or several."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence

from tqdm import tqdm

from i3d_jax.ingest.plan import Shard
from i3d_jax.ingest.process import Prepared, Skipped
from i3d_jax.ingest.shard import Job, crashed, make_shard, size_in_bytes
from i3d_jax.system.workers import ONE_THREAD, in_order


def make_shards(
    shards: Sequence[Shard],
    job: Job,
    *,
    processes: int,
    isolated: bool = False,
    progress: bool = True,
    environment: Mapping[str, str] = ONE_THREAD,
) -> None:
    """Makes shards one after the other, their videos read in as many processes as there are.

    Args:
      shards: to be made.
      job: what they have in common.
      processes: that read videos, 1 or more.
      isolated: whether a single process is another one too; otherwise it is this one, and a decoder that crashes ends
        the run.
      progress: whether a progress bar is shown on standard error.
      environment: variables that other processes than this one have besides its own.
    """
    clips = [clip for shard in shards for clip in shard.clips]
    results = in_order(
        job.read,
        clips,
        processes=processes,
        crashed=crashed,
        isolated=isolated,
        weigh=size_in_bytes,
        environment=environment,
    )
    with contextlib.closing(results), contextlib.closing(_shown(results, len(clips), progress)) as shown:
        for shard in shards:
            make_shard(shard, job.directory, shown)


def _shown(
    results: Iterable[Prepared | Skipped], total: int, progress: bool
) -> Generator[Prepared | Skipped, None, None]:
    """Passes results on and shows them on a progress bar."""
    skipped = 0
    with tqdm(total=total, unit=" videos", disable=not progress) as bar:
        for result in results:
            skipped += isinstance(result, Skipped)
            bar.set_postfix(skipped=skipped, refresh=False)
            bar.update()
            yield result
