"""TensorBoard events of a run."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from i3d_jax.records.shards import HEADER_BYTES, footer, framed, header, places, scan_lengths
from i3d_jax.system.files import append, make_folder, written_whole


class TensorBoard:
    """Writes every value as the scalar `SPLIT/NAME`.

    The file is open only while a value is written: no thread and no handle is left of a run that has failed, as there
    would be with TensorBoard's own `EventFileWriter`.
    """

    def __init__(self, directory: Path, *, after_step: int):
        """Begins a file in `directory`, which is made; TensorBoard reads its files in the order of their names.

        What a run that went before wrote of steps after `after_step`, which will be taken again, is dropped.
        """
        make_folder(directory)
        self._directory = directory
        self._before: set[tuple[int, str]] = set()
        self._keep(lambda event: event.step <= after_step)
        name = f"events.out.tfevents.{time.time():020.9f}.{socket.gethostname()}.{os.getpid()}"
        self._path = directory / name
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends the values of a step; those that an earlier evaluation of the same has left go."""
        if (step, split) in self._before:
            self._keep(lambda event: (event.step, _split(event)) != (step, split))
        scalars = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in values.items()]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        self._before.add((step, split))

    def _keep(self, wanted: Callable[[Event], bool]) -> None:
        """Writes the files of events again without what is not wanted, and notes what they hold."""
        self._before = set()
        for path in sorted(self._directory.glob("events.out.tfevents.*")):
            content, lengths = path.read_bytes(), scan_lengths(path)
            kept = []
            for _, _, offset, length in places(path, lengths):
                framed_event = content[offset : offset + framed([length])]
                record = framed_event[HEADER_BYTES : HEADER_BYTES + length]
                # The last one of a killed run may be cut short.
                if framed_event != header(length) + record + footer(record):
                    continue
                event = Event.FromString(record)
                if wanted(event):
                    kept.append(framed_event)
                    self._before.add((event.step, _split(event)))
            if len(kept) < len(lengths):
                with written_whole(path) as file:
                    file.writelines(kept)

    def _append(self, event: Event) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        append(self._path, record.getvalue())


def _split(event: Event) -> str:
    """The split of an event's values; nothing of one without values."""
    return event.summary.value[0].tag.rpartition("/")[0] if event.summary.value else ""
