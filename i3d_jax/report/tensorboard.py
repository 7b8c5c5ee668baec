"""TensorBoard events of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from i3d_jax.data import cpu_tensorflow


class TensorBoard:
    """Writes every value as the scalar `SPLIT/NAME`."""

    def __init__(self, directory: Path):
        # The writer imports TensorFlow where it is installed, for its files: as the data needs it, if not before.
        with contextlib.suppress(ImportError):
            cpu_tensorflow.load()
        self._writer = EventFileWriter(str(directory))

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends the values of a step, and sees to it that they are on the disk."""
        scalars = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in values.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        self._writer.flush()

    def close(self) -> None:
        """Ends the thread that writes, and closes the file."""
        self._writer.close()
