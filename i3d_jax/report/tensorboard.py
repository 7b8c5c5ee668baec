"""TensorBoard events of a run."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from i3d_jax.system.files import make_folder


class TensorBoard:
    """Writes every value as the scalar `SPLIT/NAME`.

    The file is open only while a value is written: no thread and no handle is left of a run that has failed, as there
    would be with TensorBoard's own `EventFileWriter`.
    """

    def __init__(self, directory: Path):
        """Begins a file in `directory`, which is made; TensorBoard reads its files in the order of their names."""
        make_folder(directory)
        name = f"events.out.tfevents.{time.time():020.9f}.{socket.gethostname()}.{os.getpid()}"
        self._path = directory / name
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends the values of a step."""
        scalars = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in values.items()]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def _append(self, event: Event) -> None:
        with open(self._path, "ab") as file:
            RecordWriter(file).write(event.SerializeToString())
