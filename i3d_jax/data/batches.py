"""From chosen clips to batches of pixels: the tf.data part of the pipeline."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from i3d_jax.data import cpu_tensorflow, jpeg
from i3d_jax.data.reader import Place, SplitReader

_PREFETCHED_BATCHES = 2


class EncodedClip(NamedTuple):
    """A clip that has been chosen and not yet decoded.

    Attributes:
      place: of the record that it comes from.
      name: of the video.
      label: the label's index.
      frames: numbers of the frames that the clip needs, each once, in the video's order.
      jpegs: their bytes.
      order: which of `jpegs` stands at each frame of the clip, int64 [frames] or [windows, frames].
      corner: the crop's first row and column.
      mirrored: whether left and right change places.
    """

    place: Place
    name: str
    label: int
    frames: list[int]
    jpegs: list[bytes]
    order: np.ndarray
    corner: tuple[int, int]
    mirrored: bool


class Batches(Iterator[dict[str, np.ndarray]]):
    """An iterator over batches; each is a dictionary of arrays that are not to be written to.

    "rgb": uint8 [rows, frames, crop, crop, 3] in training, [rows, windows, frames, crop, crop, 3] in evaluation
    "label": int32 [rows]
    "mask": bool [rows], False where a row holds no video
    "video": str [rows], the names
    """

    def __init__(
        self,
        reader: SplitReader,
        clip: Callable[[int], EncodedClip | None],
        clip_shape: tuple[int, ...],
        *,
        batch_rows: int,
        rows: int | None,
    ):
        """Makes batches of the clips of rows 0, 1, …; nothing is read before the first batch is asked for.

        Args:
          reader: keeps the account of damaged records.
          clip: gives the clip of a row, from any thread; None where the row is to be masked.
          clip_shape: of the pixels of a clip.
          batch_rows: of a batch.
          rows: of all batches, a multiple of `batch_rows`; None for no end.
        """
        self._reader = reader
        self._clip = clip
        self._loader = _Loader(clip, clip_shape)
        self._batch_rows = batch_rows
        self._end = np.iinfo(np.int64).max if rows is None else rows
        self._row = 0
        # The only reference to tf.data's iterator, once it has started. Its threads call Python: were they still at
        # work when Python ends, the two would wait for each other for ever, so that it is dropped before.
        self._iterators: list[Iterator[tuple[np.ndarray, ...]]] = []
        weakref.finalize(self, self._iterators.clear)

    @property
    def damaged(self) -> tuple[str, ...]:
        """What is wrong with each damaged record met so far; batches are made ahead, so some may be of later ones."""
        return tuple(self._reader.damaged.values())

    def __next__(self) -> dict[str, np.ndarray]:
        tf = cpu_tensorflow.load()
        while True:
            if not self._iterators:
                self._iterators.append(self._start())
            try:
                rgb, label, mask, video = self._next()
            except tf.errors.OpError as error:
                if self._loader.failure is not None:
                    raise self._loader.failure from None
                self._exclude_undecodable(error)
                self._iterators.clear()
                continue
            self._row += self._batch_rows
            names = np.array([name.decode() for name in video], dtype=str)
            return {"rgb": rgb, "label": label, "mask": mask, "video": names}

    def _next(self) -> tuple[np.ndarray, ...]:
        try:
            return next(self._iterators[0])
        except BaseException as error:
            # The frames of the traceback hold the iterator, and whoever keeps the error would keep it alive.
            error.__traceback__ = error.__context__ = None
            raise error

    def _start(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Starts tf.data at the next row."""
        rows = cpu_tensorflow.load().data.Dataset.range(self._row, self._end)
        decoded = rows.map(self._loader.load, num_parallel_calls=os.cpu_count(), deterministic=True)
        batches = decoded.batch(self._batch_rows, drop_remainder=True).prefetch(_PREFETCHED_BATCHES)
        return batches.as_numpy_iterator()

    def _exclude_undecodable(self, error: Exception) -> None:
        """Excludes the frames of the next batch that do not decode, so that it can be made without them.

        TensorFlow says neither which clip it was nor gives the rest of the batch, hence the second look. Where all of
        them decode, it was something else: the error is raised again.
        """
        found = False
        for row in range(self._row, self._row + self._batch_rows):
            clip = self._clip(row)
            if clip is None:
                continue
            bad = [frame for frame, encoded in zip(clip.frames, clip.jpegs, strict=True) if not jpeg.decodes(encoded)]
            if bad:
                found = True
                self._reader.exclude_frames(clip.place, bad)
        if not found:
            raise error


class _Loader:
    """Turns row numbers into pixels; apart from `Batches`, which tf.data would otherwise keep alive for ever.

    Attributes:
      failure: what a clip's choice raised, as TensorFlow turns it into text on its way.
    """

    def __init__(self, clip: Callable[[int], EncodedClip | None], clip_shape: tuple[int, ...]):
        self._clip = clip
        self._shape = clip_shape
        self.failure: Exception | None = None

    def load(self, row):
        """Takes a scalar int64 tensor, gives tensors: rgb uint8 `clip_shape`, label int32, mask bool, video string."""
        tf = cpu_tensorflow.load()
        types = (tf.string, tf.int64, tf.int64, tf.bool, tf.int32, tf.bool, tf.string)
        jpegs, order, corner, mirrored, label, mask, video = tf.numpy_function(self._encoded, [row], types)
        for tensor, shape in ((jpegs, [None]), (order, self._shape[:-3]), (corner, [2])):
            tensor.set_shape(shape)
        for scalar in (mirrored, label, mask, video):
            scalar.set_shape([])
        rgb = tf.cond(
            mask,
            lambda: self._decode(jpegs, order, corner, mirrored),
            lambda: tf.zeros(self._shape, tf.uint8),
        )
        return rgb, label, mask, video

    def _encoded(self, row: np.int64) -> tuple[Any, ...]:
        try:
            clip = self._clip(int(row))
        except Exception as error:
            self.failure = error
            raise
        if clip is None:
            order, corner = np.zeros(self._shape[:-3], np.int64), np.zeros(2, np.int64)
            return np.array([], object), order, corner, False, np.int32(0), False, b""
        jpegs, corner = np.array(clip.jpegs, object), np.array(clip.corner, np.int64)
        return jpegs, clip.order, corner, clip.mirrored, np.int32(clip.label), True, clip.name.encode()

    def _decode(self, jpegs, order, corner, mirrored):
        """Decodes the frames, cuts the same crop from each, mirrors all or none, and puts them in order."""
        tf = cpu_tensorflow.load()
        crop_shape = self._shape[-3:]
        begin = tf.concat([corner, [0]], axis=0)

        def decode(frame):
            cropped = tf.slice(jpeg.decode(frame), begin, crop_shape)
            return tf.cond(mirrored, lambda: tf.reverse(cropped, [1]), lambda: cropped)

        frames = tf.map_fn(decode, jpegs, fn_output_signature=tf.TensorSpec(crop_shape, tf.uint8))
        # Most clips use each frame once and in order; only the others pay for another copy.
        return tf.cond(
            tf.size(jpegs) == tf.size(order),
            lambda: tf.reshape(frames, self._shape),
            lambda: tf.gather(frames, order),
        )
