"""Features by Apache Beam, on this machine or on a cluster whose machines see the same folders.

What travels through the pipeline is a few videos' paths; a worker has the networks and writes the files by itself, so
they are those of the local run.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import apache_beam

from i3d_jax.inference.extraction import Compute, Extraction, Opens, compute_here, sources_of_paths
from i3d_jax.inference.feature_files import Folder
from i3d_jax.inference.loaded import LoadedNetwork
from i3d_jax.ingest import alive
from i3d_jax.ingest.beam import count, is_direct, make_pipeline, run_to_its_end
from i3d_jax.system import files
from i3d_jax.system.workers import leave_after
from i3d_jax.training.compilation import keep_compiled

# Videos that a worker is given at a time: their windows share batches, and what is lost with a worker is little.
VIDEOS = 8


class _Extract(apache_beam.DoFn):
    """Computes the features of a few videos."""

    def __init__(self, extraction: Extraction, folder: Folder, launcher: int | None):
        self._extraction, self._folder, self._launcher = extraction, folder, launcher
        self._sign = alive.Sign(folder.path)

    def setup(self) -> None:
        if self._launcher is not None:
            leave_after(self._launcher)
        keep_compiled()

    def process(self, paths: Sequence[str]) -> None:
        with self._sign.shown():
            networks = _networks(self._extraction)
            failures = compute_here(
                self._extraction, networks, sources_of_paths(self._extraction, networks, paths), self._folder
            )
        count("videos done", len(paths) - failures)
        count("videos that could not be read", failures)


@functools.lru_cache(maxsize=1)
def _networks(extraction: Extraction) -> list[LoadedNetwork]:
    """Reads the networks once in a process."""
    return extraction.networks()


def computing(*, runner: str, flags: Sequence[str], processes: int) -> Compute:
    """Returns what computes features by a runner; the arguments are those of `ingest.beam.make_shards`."""

    def compute(
        extraction: Extraction, networks: Sequence[LoadedNetwork], missing: Mapping[str, Opens], folder: Folder
    ) -> int:
        del networks
        paths = [str(files.path(path).absolute()) for path, _ in missing.values()]
        there = dataclasses.replace(folder, path=folder.path.absolute())
        launcher = os.getpid() if is_direct(runner) else None
        pipeline = make_pipeline(runner, flags, processes)
        (
            pipeline
            | "missing" >> apache_beam.Create([paths[first : first + VIDEOS] for first in range(0, len(paths), VIDEOS)])
            | "to all workers" >> apache_beam.Reshuffle()
            | "features" >> apache_beam.ParDo(_Extract(extraction, there, launcher))
        )
        run_to_its_end(pipeline, runner, there.path)
        # Of workers that were killed, where the runner has replaced them.
        folder.remove_leftovers(missing)
        return sum(not folder.is_done(name) for name in missing)

    return compute
