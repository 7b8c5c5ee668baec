"""Where shards are made: by processes of this machine, or by Apache Beam, which is imported only then."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

from i3d_jax.ingest import local
from i3d_jax.ingest.plan import Shard
from i3d_jax.ingest.shard import Job
from i3d_jax.system.errors import UserError, install_hint
from i3d_jax.video.backend_choice import Choice


def shard_maker(
    runner: str, *, flags: Sequence[str], processes: int | None, flow: Choice | None
) -> Callable[[Sequence[Shard], Job], None]:
    """Returns the function that makes a dataset's missing shards.

    Args:
      runner: "local" or one of Beam's (`beam.RUNNERS`).
      flags: Beam's own.
      processes: of this machine that read videos; None for as many as suit it.
      flow: who computes the flow; None without flow.

    Raises:
      UserError: there is no such runner, Beam is not installed, or flags are given without it.
    """
    cores = os.cpu_count() or 1
    count = (processes or cores) if flow is None else flow.processes(processes, cores)
    if runner == "local":
        if flags:
            raise UserError(f"what stands after -- is for a --runner of Beam's, found {flags[0]!r} with --runner local")
        # JAX never starts in this process: a crash then costs one video, and a TPU stays free for the one that uses it.
        isolated = flow is not None and flow.implementation == "i3d_jax"
        return functools.partial(local.make_shards, processes=count, isolated=isolated)
    try:
        from i3d_jax.ingest import beam
    except ModuleNotFoundError as error:
        raise UserError(
            f"--runner {runner} needs Apache Beam, and {error.name} is not installed; {install_hint('beam')}"
        ) from error
    beam.refuse_unusable(runner, flags)
    if processes and runner.lower() != "direct":
        raise UserError(
            f"--processes is of this machine, for --runner local or direct; how many workers {runner} has is for its "
            "own flags after --"
        )
    return functools.partial(beam.make_shards, runner=runner, flags=flags, processes=count)
