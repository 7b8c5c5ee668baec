"""From chosen clips to batches of pixels: the tf.data part of the pipeline."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from i3d_jax import clips
from i3d_jax.data import cpu_tensorflow
from i3d_jax.data.preprocessing import Crop, resized
from i3d_jax.data.reader import SplitReader
from i3d_jax.flow import codec
from i3d_jax.records import image
from i3d_jax.records.shards import RecordPlace

_PREFETCHED_BATCHES = 2
# In place of the label of a row whose clip could not be chosen.
_FAILED = -1


class EncodedStream(NamedTuple):
    """The frames or flow fields of a clip, not yet decoded.

    Attributes:
      numbers: of those that the clip needs, each once, in the order in which it first needs them.
      images: their bytes.
      order: which of `images` stands at each place of the clip, int64 [count] or [windows, count].
    """

    numbers: list[int]
    images: list[bytes]
    order: np.ndarray


class EncodedClip(NamedTuple):
    """A clip that has been chosen and not yet decoded.

    Attributes:
      place: of the record that it comes from.
      name: of the video.
      label: the label's index.
      streams: its frames and flow fields, by stream.
      crops: what is cut from every image, the same in all streams; where one is mirrored, u of the flow is negated.
    """

    place: RecordPlace
    name: str
    label: int
    streams: Mapping[str, EncodedStream]
    crops: tuple[Crop, ...]


class Decoding(NamedTuple):
    """How the images of a clip become pixels.

    Attributes:
      crop: side in pixels of the square that is cut from every image.
      network_short_side: of frames, to which they are resized before the crop; None: as they are stored.
      flow_rounding: how the flow is stored, one of `codec.ROUNDINGS`.
      crops: of every image; several where there are windows.
    """

    crop: int
    network_short_side: int | None
    flow_rounding: str
    crops: int = 1


class Batches(Iterator[dict[str, np.ndarray]]):
    """An iterator over batches; each is a dictionary of arrays that are not to be written to.

    "rgb": uint8 [rows, frames, crop, crop, 3] in training, [rows, windows, frames, crop, crop, 3] in evaluation, where
      each window is followed by its further crops, if there are several
    "flow": uint8, the same with the flow fields in place of the frames and 2 channels, u and v
    "label": int32 [rows]
    "mask": bool [rows], False where a row holds no video
    "video": str [rows], the names

    Of "rgb" and "flow" there are those that were asked for.
    """

    def __init__(
        self,
        reader: SplitReader,
        clip: Callable[[int], EncodedClip | None],
        counts: Mapping[str, tuple[int, ...]],
        decoding: Decoding,
        *,
        batch_rows: int,
        rows: int | None,
        parallel_reads: int | None = None,
    ):
        """Makes batches of the clips of rows 0, 1, …; nothing is read before the first batch is asked for.

        Args:
          reader: keeps the account of damaged records.
          clip: gives the clip of a row, from any thread; None where the row is to be masked.
          counts: for each stream of a clip, its frames or fields: (count,) or (windows, count).
          decoding: how images become pixels.
          batch_rows: of a batch.
          rows: of all batches, a multiple of `batch_rows`; None for no end.
          parallel_reads: clips that are read at the same time; None: one for every core.
        """
        self._reader = reader
        self._clip = clip
        self._loader = _Loader(clip, counts, decoding.crops)
        self._counts, self._decoding = tuple(counts.items()), decoding
        self._batch_rows = batch_rows
        self._end = np.iinfo(np.int64).max if rows is None else rows
        self._row = 0
        self._parallel_reads = parallel_reads or os.cpu_count() or 1
        # The only reference to tf.data's iterator, once it has started. Its threads call Python: were they still at
        # work when Python ends, the two would wait for each other for ever, so that it is dropped before.
        self._iterators: list[Iterator[dict[str, np.ndarray]]] = []
        weakref.finalize(self, _drop, self._iterators)

    @property
    def damaged(self) -> tuple[str, ...]:
        """What is wrong with each damaged record met so far; batches are made ahead, so some may be of later ones."""
        return tuple(self._reader.damaged.values())

    def encoded(self, row: int) -> EncodedClip | None:
        """Returns the clip of a row (0 is the first of the first batch) as it is before decoding; None if masked."""
        return self._clip(row)

    def __next__(self) -> dict[str, np.ndarray]:
        tf = cpu_tensorflow.load()
        while True:
            if not self._iterators:
                self._iterators.append(self._start())
            try:
                batch = self._next()
            except tf.errors.OpError as error:
                self._exclude_undecodable(error)
                self._iterators.clear()
                continue
            if self._loader.failure is not None and (batch["label"] == _FAILED).any():
                raise self._loader.failure
            self._row += self._batch_rows
            names = np.array([name.decode() for name in batch["video"]], dtype=str)
            return {**batch, "video": names}

    def _next(self) -> dict[str, np.ndarray]:
        try:
            return next(self._iterators[0])
        except BaseException as error:
            # The frames of the traceback hold the iterator, and whoever keeps the error would keep it alive.
            error.__traceback__ = error.__context__ = None
            raise error

    def _start(self) -> Iterator[dict[str, np.ndarray]]:
        """Starts tf.data at the next row."""
        tf = cpu_tensorflow.load()
        cores = os.cpu_count() or 1
        rows = tf.data.Dataset.range(self._row, self._end)
        # AutoGraph would read the source of what it translates, and find nothing to translate.
        read = tf.autograph.experimental.do_not_convert(self._loader.read)
        decode = _decoder(self._counts, self._decoding)
        # Apart, since a clip that is read waits, and one that is decoded computes.
        clips_read = rows.map(read, num_parallel_calls=self._parallel_reads, deterministic=True)
        decoded = clips_read.map(decode, num_parallel_calls=cores, deterministic=True)
        batches = decoded.batch(self._batch_rows, drop_remainder=True).prefetch(_PREFETCHED_BATCHES)
        options = tf.data.Options()
        # Nothing here is left for it to choose, and its thread lets whoever drops the iterator wait for up to a minute.
        options.autotune.enabled = False
        # Else there are as many as cores, however many clips are to be waited for.
        options.threading.private_threadpool_size = self._parallel_reads + cores
        return batches.with_options(options).as_numpy_iterator()

    def _exclude_undecodable(self, error: Exception) -> None:
        """Excludes the images of the next batch that do not decode, so that it can be made without them.

        TensorFlow says neither which clip it was nor gives the rest of the batch, hence the second look. Where all of
        them decode, it was something else: the error is raised again.
        """
        found = False
        for row in range(self._row, self._row + self._batch_rows):
            clip = self._clip(row)
            if clip is None:
                continue
            bad = [
                (name, number)
                for name, stream in clip.streams.items()
                for number, encoded in zip(stream.numbers, stream.images, strict=True)
                if not image.decodes(encoded)
            ]
            if bad:
                found = True
                self._reader.exclude_images(clip.place, bad)
        if not found:
            raise error


def _drop(iterators: list[Iterator[dict[str, np.ndarray]]]) -> None:
    """Ends iterators of tf.data, which waits for the clips that their threads are reading.

    The garbage collector may come here in one of these very threads, and that would wait for itself for ever.
    """
    if threading.current_thread() is threading.main_thread():
        iterators.clear()
    else:
        threading.Thread(target=iterators.clear).start()


class _Loader:
    """Reads the clips of row numbers; apart from `Batches`, which tf.data would otherwise keep alive for ever.

    Attributes:
      failure: what a clip's choice raised. TensorFlow would print it with every line of its way and turn it into text,
        so the row's label says `_FAILED` instead.
    """

    def __init__(
        self,
        clip: Callable[[int], EncodedClip | None],
        counts: Mapping[str, tuple[int, ...]],
        crops: int,
    ):
        self._clip = clip
        self._counts = counts
        self._crops = crops
        self.failure: Exception | None = None

    def read(self, row):
        """Takes a scalar int64 tensor, gives the tensors of a clip that has been read and not yet decoded."""
        tf = cpu_tensorflow.load()
        types = [tf.int64, tf.bool, tf.int32, tf.bool, tf.string, *[tf.string, tf.int64] * len(self._counts)]
        return tuple(tf.numpy_function(self._encoded, [row], types))

    def _encoded(self, row: np.int64) -> tuple[Any, ...]:
        clip, label = None, 0
        streams: Mapping[str, EncodedStream]
        try:
            clip = self._clip(int(row))
        except Exception as error:
            self.failure, label = error, _FAILED
        if clip is None:
            streams = {name: EncodedStream([], [], np.zeros(shape, np.int64)) for name, shape in self._counts.items()}
            outputs = [np.zeros((self._crops, 2), np.int64), np.zeros(self._crops, bool), np.int32(label), False, b""]
        else:
            streams = clip.streams
            corners = np.array([(crop.top, crop.left) for crop in clip.crops])
            mirrored = np.array([crop.mirrored for crop in clip.crops])
            outputs = [corners, mirrored, np.int32(clip.label), True, clip.name.encode()]
        for name in self._counts:
            outputs += [np.array(streams[name].images, object), streams[name].order]
        return tuple(outputs)


@functools.lru_cache(maxsize=64)
def _decoder(counts: tuple[tuple[str, tuple[int, ...]], ...], decoding: Decoding) -> Callable[..., dict[str, Any]]:
    """Returns `_Decoder.decode`, whose graph a process builds once for all of its runs that decode alike."""
    return cpu_tensorflow.load().function(_Decoder(dict(counts), decoding).decode, autograph=False)


class _Decoder:
    """Turns the tensors of a clip that has been read into pixels."""

    def __init__(self, counts: Mapping[str, tuple[int, ...]], decoding: Decoding):
        self._counts = counts
        self._crop, self._short_side, self._flow_rounding, self._crops = decoding

    def decode(self, corners, mirrored, label, mask, video, *encoded):
        """Takes these tensors, gives those of a batch's row: uint8 pixels, label, mask, video."""
        corners.set_shape([self._crops, 2])
        mirrored.set_shape([self._crops])
        for scalar in (label, mask, video):
            scalar.set_shape([])
        pixels_of = self._pixels if self._crops == 1 else self._pixels_of_crops
        pixels = {
            name: pixels_of(name, images, order, corners=corners, mirrored=mirrored, mask=mask)
            for name, images, order in zip(self._counts, encoded[::2], encoded[1::2], strict=True)
        }
        return {**pixels, "label": label, "mask": mask, "video": video}

    def _pixels(self, name: str, images, order, *, corners, mirrored, mask):
        """Decodes a stream, cuts the same crop from each image, mirrors all or none, and puts them in order.

        Where the mask is False the pixels are 0.
        """
        tf = cpu_tensorflow.load()
        corner, mirrored = corners[0], mirrored[0]
        # Three channels are decoded; the third of a flow field is empty and cut off.
        crop_shape = (self._crop, self._crop, clips.CHANNELS[name])
        shape = (*self._counts[name], *crop_shape)
        begin = tf.concat([corner, [0]], axis=0)
        images.set_shape([None])
        order.set_shape(self._counts[name])

        def mirror(pixels):
            return self._mirrored(name, pixels)

        def decode(encoded):
            return tf.slice(image.decode(encoded), begin, crop_shape)

        def decode_all(decode):
            return tf.map_fn(decode, images, fn_output_signature=tf.TensorSpec(crop_shape, tf.uint8))

        def decode_resized(short_side):
            cut = tf.slice(self._resized(images, short_side), tf.concat([[0], begin], axis=0), [-1, *crop_shape])
            return tf.cond(mirrored, lambda: tf.reverse(cut, [2]), lambda: cut)

        def in_order():
            # An image is mirrored while it is in the cache; asked for each of them, the question costs as much again.
            if self._short_side is not None:
                pixels = decode_resized(self._short_side)
            else:
                pixels = tf.cond(
                    mirrored, lambda: decode_all(lambda encoded: mirror(decode(encoded))), lambda: decode_all(decode)
                )
            # Most clips use each image once and in order; only the others pay for another copy.
            return tf.cond(
                tf.size(images) == tf.size(order),
                lambda: tf.reshape(pixels, shape),
                lambda: tf.gather(pixels, order),
            )

        return tf.cond(mask, in_order, lambda: tf.zeros(shape, tf.uint8))

    def _pixels_of_crops(self, name: str, images, order, *, corners, mirrored, mask):
        """As `_pixels`, with all crops of each window, the one after the other."""
        tf = cpu_tensorflow.load()
        windows, count = self._counts[name]
        crop_shape = (self._crop, self._crop, clips.CHANNELS[name])
        shape = (windows * self._crops, count, *crop_shape)
        images.set_shape([None])
        order.set_shape(self._counts[name])

        def cut(picture):
            def one(number):
                pixels = tf.slice(picture, tf.concat([corners[number], [0]], axis=0), crop_shape)
                return tf.cond(mirrored[number], lambda: self._mirrored(name, pixels), lambda: pixels)

            return tf.stack([one(number) for number in range(self._crops)])

        def in_order():
            of_crops = tf.TensorSpec((self._crops, *crop_shape), tf.uint8)
            if self._short_side is None:
                pixels = tf.map_fn(lambda encoded: cut(image.decode(encoded)), images, fn_output_signature=of_crops)
            else:
                pixels = tf.map_fn(cut, self._resized(images, self._short_side), fn_output_signature=of_crops)
            return tf.reshape(tf.transpose(tf.gather(pixels, order), [0, 2, 1, 3, 4, 5]), shape)

        return tf.cond(mask, in_order, lambda: tf.zeros(shape, tf.uint8))

    def _resized(self, images, short_side: int):
        """Decodes frames whole, and gives them at the network's shorter side."""
        tf = cpu_tensorflow.load()
        whole = tf.map_fn(image.decode, images, fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8))
        return tf.numpy_function(lambda frames: resized(frames, short_side), [whole], tf.uint8)

    def _mirrored(self, name: str, pixels):
        """Exchanges left and right of an image; of flow u changes its sign."""
        tf = cpu_tensorflow.load()
        pixels = _mirrored(pixels)
        return codec.negate_u(pixels, self._flow_rounding, minimum=tf.minimum) if name == "flow" else pixels


def _mirrored(pixels):
    """Exchanges left and right of an image, uint8 [H, W, 2 or 3].

    TensorFlow takes twice the time (measured) for pixels of two elements, which are therefore turned as one of 16 bits.
    """
    tf = cpu_tensorflow.load()
    if pixels.shape[-1] == 2:
        return tf.bitcast(tf.reverse(tf.bitcast(pixels, tf.uint16), [1]), tf.uint8)
    return tf.reverse(pixels, [1])
