"""Batches of clips from a dataset folder, through tf.data.

Records are read in any order (`reader.SplitReader`), so that a clip is a function of the seed and its number alone: a
resumed run, another number of hosts or of threads gives the same clips, and the shuffle of an epoch is a perfect one.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from i3d_jax import clips
from i3d_jax.data import cpu_tensorflow
from i3d_jax.data.dataset import Dataset
from i3d_jax.data.reader import DamagedRecord, EncodedVideo, SplitReader
from i3d_jax.errors import UserError

# Each kind of draw has a stream of random numbers of its own.
_SHUFFLE, _CLIP = 0, 1
_PREFETCHED_BATCHES = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What a batch is and who reads it, in training and in evaluation alike.

    Attributes:
      batch_size: clips of a batch, all hosts together.
      frames: of a clip, or of each of its windows.
      crop: side in pixels of the square that is cut from every frame.
      max_damaged_share: share of a split's records, 0 to 1, that may be damaged before reading stops.
      host: this host's number, from 0.
      hosts: how many hosts share each batch; each gets an equal run of its rows.

    Raises:
      UserError: a value is out of range, or the hosts do not divide the batch.
    """

    batch_size: int
    frames: int
    crop: int
    max_damaged_share: float
    host: int = 0
    hosts: int = 1

    def __post_init__(self):
        for name in ("batch_size", "frames", "crop", "hosts"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, found {getattr(self, name)}")
        if not 0 <= self.max_damaged_share <= 1:
            raise UserError(f"max_damaged_share must be 0 to 1, found {self.max_damaged_share}")
        if self.batch_size % self.hosts:
            raise UserError(f"a batch of {self.batch_size} clips cannot be shared equally by {self.hosts} hosts")
        if not 0 <= self.host < self.hosts:
            raise UserError(f"the host must be 0 to {self.hosts - 1}, found {self.host}")

    @property
    def rows(self) -> int:
        """This host's rows of each batch."""
        return self.batch_size // self.hosts

    def global_row(self, row: int) -> int:
        """Returns where this host's row `row`, counted over all its batches, stands among those of all hosts."""
        batch, place = divmod(row, self.rows)
        return batch * self.batch_size + self.host * self.rows + place


class EncodedClip(NamedTuple):
    """A clip that has been chosen and not yet decoded.

    Attributes:
      record: its number in the split.
      name: of the video.
      label: the label's index.
      jpegs: the frames that the clip needs, each once.
      order: which of `jpegs` stands at each frame of the clip, int64 [frames] or [windows, frames].
      corner: the crop's first row and column.
      mirrored: whether left and right change places.
    """

    record: int
    name: str
    label: int
    jpegs: list[bytes]
    order: np.ndarray
    corner: tuple[int, int]
    mirrored: bool


def training_batches(
    dataset: Dataset, split: str, options: BatchOptions, *, flip: bool, seed: int, first_clip: int = 0
) -> Batches:
    """Returns endless training batches: random windows, crops and flips, every video once an epoch, in random order.

    Clip n (counted over the run and over all hosts) is a function of the seed and n: its video is number n % N in a
    random order of the split's N videos that each epoch n // N draws anew; window, crop and flip are drawn once for a
    clip. A video that is too short is looped. A damaged record gives way to the next good one in its epoch's order.

    Args:
      dataset: the opened dataset.
      split: its split to read.
      options: what a batch is.
      flip: whether half of the clips have left and right exchanged.
      seed: 0 or more.
      first_clip: the number of the first clip to give; a run that had B * k clips goes on from there.

    Raises:
      UserError: there is no such split, it is empty, its frames are smaller than the crop, or a value is out of range;
        from the iterator: too many records are damaged.
    """
    for name, value in (("seed", seed), ("first_clip", first_clip)):
        if value < 0:
            raise UserError(f"{name} must be 0 or more, found {value}")
    reader = _open_reader(dataset, split, options)

    def clip(row: int) -> EncodedClip:
        return _training_clip(reader, options, flip=flip, seed=seed, number=first_clip + options.global_row(row))

    return Batches(reader, clip, options, (options.frames,), None)


def evaluation_batches(dataset: Dataset, split: str, options: BatchOptions, *, windows: int) -> Batches:
    """Returns the batches that hold every video of a split once, in order: `windows` windows each, the centre crop.

    The windows are those of `clips.cover`: one holds the first frames, several span the whole video. The last batch is
    padded; a padded row, and that of a damaged record, has mask False, zeros for pixels, label 0 and an empty name.
    Every host gets the same number of batches.

    Raises:
      UserError: there is no such split, it is empty, its frames are smaller than the crop, or a value is out of range;
        from the iterator: too many records are damaged.
    """
    if windows < 1:
        raise UserError(f"windows must be 1 or more, found {windows}")
    reader = _open_reader(dataset, split, options)

    def clip(row: int) -> EncodedClip | None:
        record = options.global_row(row)
        return _evaluation_clip(reader, options, windows, record) if record < len(reader.places) else None

    batches = -(-len(reader.places) // options.batch_size)
    return Batches(reader, clip, options, (windows, options.frames), batches * options.rows)


def _open_reader(dataset: Dataset, split: str, options: BatchOptions) -> SplitReader:
    if dataset.preprocessing.short_side < options.crop:
        raise UserError(
            f"a crop of {options.crop} pixels was asked of {dataset.directory}, "
            f"whose frames have a short side of {dataset.preprocessing.short_side}"
        )
    return SplitReader(dataset, split, max_damaged_share=options.max_damaged_share)


def _training_clip(reader: SplitReader, options: BatchOptions, *, flip: bool, seed: int, number: int) -> EncodedClip:
    epoch, position = divmod(number, len(reader.places))
    order = _epoch_order(seed, epoch, len(reader.places))
    window, top, left, mirror = np.random.default_rng([seed, _CLIP, number]).random(4)
    for step in range(len(order)):
        record = int(order[(position + step) % len(order)])

        def choose(video: EncodedVideo, record: int = record) -> EncodedClip:
            rows, columns = _free_places(video, options.crop)
            return _encoded_clip(
                record,
                video,
                clips.training_window(video.num_frames, options.frames, window),
                corner=(int(top * rows), int(left * columns)),
                mirrored=flip and mirror < 0.5,
            )

        clip = reader.read(record, choose)
        if clip is not None:
            return clip
    raise UserError(f"all {len(order)} records are damaged, the last one {reader.damaged[record]}")


@functools.lru_cache(maxsize=2)  # two, since clips of the next epoch are read before the last of this one
def _epoch_order(seed: int, epoch: int, videos: int) -> np.ndarray:
    return np.random.default_rng([seed, _SHUFFLE, epoch]).permutation(videos)


def _evaluation_clip(reader: SplitReader, options: BatchOptions, windows: int, record: int) -> EncodedClip | None:
    def choose(video: EncodedVideo) -> EncodedClip:
        rows, columns = _free_places(video, options.crop)
        return _encoded_clip(
            record,
            video,
            clips.cover(video.num_frames, options.frames, windows),
            corner=((rows - 1) // 2, (columns - 1) // 2),  # as preprocessing.centre_crop
            mirrored=False,
        )

    return reader.read(record, choose)


def _free_places(video: EncodedVideo, crop: int) -> tuple[int, int]:
    """Returns how many first rows and how many first columns the crop can have."""
    if min(video.height, video.width) < crop:
        raise DamagedRecord(f"{video.place}: frames of {video.width}x{video.height} are smaller than the crop of {crop}")
    return video.height - crop + 1, video.width - crop + 1


def _encoded_clip(
    record: int, video: EncodedVideo, indices: np.ndarray, *, corner: tuple[int, int], mirrored: bool
) -> EncodedClip:
    needed, order = np.unique(indices, return_inverse=True)
    jpegs = [video.frame(number) for number in needed.tolist()]
    return EncodedClip(record, video.name, video.label, jpegs, order.reshape(indices.shape), corner, mirrored)


class Batches(Iterator[dict[str, np.ndarray]]):
    """An iterator over batches; each is a dictionary of read-only arrays.

    "rgb": uint8 [rows, frames, crop, crop, 3] in training, [rows, windows, frames, crop, crop, 3] in evaluation, RGB
    "label": int32 [rows]
    "mask": bool [rows], False where a row holds no video
    "video": str [rows], the names
    """

    def __init__(
        self,
        reader: SplitReader,
        clip: Callable[[int], EncodedClip | None],
        options: BatchOptions,
        clip_shape: tuple[int, ...],
        rows: int | None,
    ):
        """Gathers the clips `clip(0)`, `clip(1)`, … (None: a masked row) up to `rows` of them, or without end."""
        self._reader = reader
        self._clip = clip
        self._options = options
        self._clip_shape = clip_shape
        self._end = np.iinfo(np.int64).max if rows is None else rows
        self._row = 0
        self._failure: Exception | None = None
        self._batches = self._start()

    @property
    def damaged(self) -> tuple[str, ...]:
        """What is wrong with each damaged record met so far; batches are read ahead, so the next ones' may be among them."""
        return tuple(self._reader.damaged.values())

    def __next__(self) -> dict[str, np.ndarray]:
        tf = cpu_tensorflow.load()
        while True:
            try:
                rgb, label, mask, video = next(self._batches)
            except tf.errors.OpError as error:
                if self._failure is not None:
                    raise self._failure from None
                self._report_undecodable(error)
                self._batches = self._start()
                continue
            self._row += self._options.rows
            return {"rgb": rgb, "label": label, "mask": mask, "video": np.array([name.decode() for name in video])}

    def _start(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Builds the tf.data pipeline from the next row on."""
        tf = cpu_tensorflow.load()
        types = (tf.string, tf.int64, tf.int64, tf.bool, tf.int32, tf.bool, tf.string)

        def load(row):
            *frames, label, mask, video = tf.numpy_function(self._load, [row], types)
            rgb = self._decode(*frames, mask)
            for scalar in (label, mask, video):
                scalar.set_shape([])
            return rgb, label, mask, video

        rows = tf.data.Dataset.range(self._row, self._end)
        decoded = rows.map(load, num_parallel_calls=os.cpu_count(), deterministic=True)
        batches = decoded.batch(self._options.rows, drop_remainder=True).prefetch(_PREFETCHED_BATCHES)
        return batches.as_numpy_iterator()

    def _load(self, row: np.int64) -> tuple[Any, ...]:
        try:
            clip = self._clip(int(row))
        except Exception as error:
            # TensorFlow would turn it into text; __next__ raises it as it is.
            self._failure = error
            raise
        if clip is None:
            nothing = np.zeros(self._clip_shape, np.int64)
            return np.array([], object), nothing, np.zeros(2, np.int64), False, np.int32(0), False, b""
        jpegs = np.array(clip.jpegs, object)
        corner = np.array(clip.corner, np.int64)
        return jpegs, clip.order, corner, clip.mirrored, np.int32(clip.label), True, clip.name.encode()

    def _decode(self, jpegs, order, corner, mirrored, mask):
        tf = cpu_tensorflow.load()
        crop = self._options.crop
        begin = tf.concat([corner, [0]], axis=0)
        shape = (*self._clip_shape, crop, crop, 3)

        def decode(jpeg):
            frame = tf.slice(decode_jpeg(jpeg), begin, [crop, crop, 3])
            return tf.cond(mirrored, lambda: tf.reverse(frame, [1]), lambda: frame)

        def frames():
            decoded = tf.map_fn(decode, jpegs, fn_output_signature=tf.TensorSpec([crop, crop, 3], tf.uint8))
            return tf.cond(tf.size(jpegs) == tf.size(order), lambda: tf.reshape(decoded, shape), lambda: tf.gather(decoded, order))

        rgb = tf.cond(mask, frames, lambda: tf.zeros(shape, tf.uint8))
        return tf.ensure_shape(rgb, shape)

    def _report_undecodable(self, error: Exception) -> None:
        """Finds the records of the next batch whose frames do not decode; re-raises `error` where there are none."""
        tf = cpu_tensorflow.load()
        found = False
        for row in range(self._row, self._row + self._options.rows):
            clip = self._clip(row)
            if clip is None:
                continue
            for jpeg in clip.jpegs:
                try:
                    decode_jpeg(jpeg)
                except tf.errors.InvalidArgumentError:
                    found = True
                    
        if not found:
            raise error


def decode_jpeg(jpeg):
    """Decodes JPEG bytes to uint8 [H, W, 3] as libjpeg does; TensorFlow's default is up to 15 off."""
    return cpu_tensorflow.load().io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
