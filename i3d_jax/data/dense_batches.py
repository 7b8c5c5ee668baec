"""Batches of the pieces of whole videos, of any length, for `evaluation.dense`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from i3d_jax import clips
from i3d_jax.data.batches import Batches, EncodedClip
from i3d_jax.data.dataset import Dataset
from i3d_jax.data.pipeline import BatchOptions, decoding_of, encoded_clip, frame_size, open_reader
from i3d_jax.data.preprocessing import crop_places
from i3d_jax.data.reader import EncodedVideo, SplitReader
from i3d_jax.evaluation.dense import Pieces, frame_numbers
from i3d_jax.models.i3d import MINIMUM_FRAMES
from i3d_jax.system import hosts


class Piece(NamedTuple):
    """A piece of a video.

    Attributes:
      record: the number of the video in the split.
      start, first: as `Pieces.places` has them.
      frames: of the video.
    """

    record: int
    start: int
    first: int
    frames: int


class DenseBatches(Iterator[dict[str, np.ndarray]]):
    """An iterator over batches of pieces, the videos' in their order, as `evaluation.dense.predict` takes them.

    Beside what `Batches` gives, with one window a row, stand int32 "start" and "frames" and int64 "record" [rows].
    Every host takes each H-th video of H, and gets as many batches as the others.
    """

    def __init__(self, batches: Batches, table: _Table, rows: int):
        """Goes through the pieces of a table, `rows` at a time."""
        self._batches = batches
        self._table = table
        self._rows = rows
        self._row = 0

    @property
    def damaged(self) -> tuple[str, ...]:
        """What is wrong with each damaged record met so far."""
        return self._batches.damaged

    def __next__(self) -> dict[str, np.ndarray]:
        if not any(hosts.gather(self._table.piece(self._row) is not None)):
            raise StopIteration
        batch = next(self._batches)
        found = [self._table.piece(row) for row in range(self._row, self._row + self._rows)]
        self._row += self._rows
        # Of a row that holds none, whatever a network can take.
        pieces = [piece or Piece(-1, 0, 0, MINIMUM_FRAMES) for piece in found]
        return {
            **batch,
            "start": np.array([piece.start for piece in pieces], np.int32),
            "frames": np.array([piece.frames for piece in pieces], np.int32),
            "record": np.array([piece.record for piece in pieces], np.int64),
        }


def dense_batches(dataset: Dataset, split: str, options: BatchOptions, cut: Pieces) -> DenseBatches:
    """Returns the batches that hold every frame of every video of a split, its centre crop, in pieces.

    Videos of fewer than nine frames are looped.

    Args:
      dataset: the opened dataset.
      split: its split to read.
      options: what a batch is: `batch_size` pieces, all hosts together; of its sampling the frames play no part.
      cut: how videos are cut.

    Raises:
      UserError: as `pipeline.evaluation_batches`.
    """
    reader = open_reader(dataset, split, options)
    table = _Table(reader, options, cut)
    batches = Batches(
        reader,
        table.clip,
        {stream: (1, cut.frames) for stream in options.streams},
        decoding_of(dataset, options),
        batch_rows=options.rows,
        rows=None,
        parallel_reads=options.parallel_reads,
    )
    return DenseBatches(batches, table, options.rows)


class _Table:
    """This host's pieces by their row. How many a video has is known when it is read, so that the table grows."""

    def __init__(self, reader: SplitReader, options: BatchOptions, cut: Pieces):
        self._reader = reader
        self._options = options
        self._cut = cut
        self._unread = iter(range(options.host, len(reader.places), options.hosts))
        self._found: list[Piece] = []
        self._lock = threading.Lock()

    def piece(self, row: int) -> Piece | None:
        """Returns the piece of a row, from any thread; None behind the last."""
        with self._lock:
            while row >= len(self._found):
                record = next(self._unread, None)
                if record is None:
                    return None
                frames = self._reader.read(self._reader.places[record], lambda video: len(self._numbers(video)))
                if frames is not None:
                    places = self._cut.places(frames)
                    self._found += [Piece(record, start, first, frames) for start, first in places]
            return self._found[row]

    def clip(self, row: int) -> EncodedClip | None:
        """Returns the clip of a row, as `Batches` asks for it."""
        piece = self.piece(row)
        if piece is None:
            return None

        def choose(video: EncodedVideo) -> EncodedClip:
            crops = crop_places(*frame_size(video, self._options), self._options.crop, 1)
            numbers = self._numbers(video)[frame_numbers(self._cut, piece.first, piece.frames)]
            return encoded_clip(video, dict.fromkeys(self._options.streams, numbers[None]), tuple(crops))

        return self._reader.read(self._reader.places[piece.record], choose)

    def _numbers(self, video: EncodedVideo) -> np.ndarray:
        options = self._options
        return clips.whole(video.num_frames, options.sampling, streams=options.streams, least=MINIMUM_FRAMES)
