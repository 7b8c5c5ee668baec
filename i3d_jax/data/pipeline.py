"""Batches of clips from a dataset folder, through tf.data.

Records are read in any order (`reader.SplitReader`), so that a clip is a function of the seed and its number alone: a
resumed run, another number of hosts or of threads gives the same clips, and the shuffle of an epoch is a perfect one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from i3d_jax import clips
from i3d_jax.data.batches import Batches, Decoding, EncodedClip, EncodedStream
from i3d_jax.data.dataset import Dataset
from i3d_jax.data.preprocessing import Crop, crop_places, resized, resized_size
from i3d_jax.data.reader import DamagedRecord, EncodedVideo, SplitReader
from i3d_jax.flow import codec
from i3d_jax.system.errors import UserError, did_you_mean

# How videos follow each other in training: each epoch in an order of its own, whatever shards they are in; or shard by
# shard, where disks and networks dislike random reads: the shards in an order of the epoch's own, and of the videos, in
# the order of these shards, always so many shuffled, which are those of a few shards.
RANDOM, SHARDS = "random", "shards"
ORDERS = (RANDOM, SHARDS)
SHUFFLED_TOGETHER = 1024
# Each is a thread.
MOST_READS = 1024

# One row's number or those of several, int64.
Rows = TypeVar("Rows", int, np.ndarray)

# Each kind of draw has a stream of random numbers of its own.
_SHUFFLE, _CLIP = 0, 1


# More can only be a mistake, and would take all memory: clips, pixels, hosts.
_MOST = {"batch_size": 1_000_000, "crop": 4096, "hosts": 1_000_000}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What a batch is and who reads it, in training and in evaluation alike.

    Attributes:
      batch_size: clips of a batch, all hosts together.
      sampling: which frames and flow fields make a clip, or a window of it.
      streams: "rgb", "flow" or both.
      crop: side in pixels of the square that is cut from every frame.
      network_short_side: pixels of the shorter side to which larger frames are resized before the crop; None: as they
        are stored. Not with flow, whose displacements are in pixels of the stored frames.
      max_damaged_share: share of a split's records, 0 to 1, that may be damaged before reading stops.
      order: of the videos in training, one of `ORDERS`.
      parallel_reads: clips that are read at the same time, of which most wait for the disk or the network; None: one
        for every core.
      host: this host's number, from 0.
      hosts: how many hosts share each batch; each gets an equal run of its rows.

    Raises:
      UserError: a value is out of range, or the hosts do not divide the batch.
    """

    batch_size: int
    sampling: clips.Sampling
    streams: tuple[str, ...]
    crop: int
    max_damaged_share: float
    network_short_side: int | None = None
    order: str = RANDOM
    parallel_reads: int | None = None
    host: int = 0
    hosts: int = 1

    def __post_init__(self):
        clips.check_streams(self.streams, self.sampling)
        for name in ("batch_size", "crop", "hosts"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, found {getattr(self, name)}")
            if getattr(self, name) > _MOST[name]:
                raise UserError(f"{name} must be at most {_MOST[name]}, found {getattr(self, name)}")
        if self.order not in ORDERS:
            raise UserError(
                f"order must be {' or '.join(ORDERS)}, found {self.order!r}{did_you_mean(str(self.order), ORDERS)}"
            )
        if self.parallel_reads is not None and not 1 <= self.parallel_reads <= MOST_READS:
            raise UserError(f"parallel_reads must be 1 to {MOST_READS}, found {self.parallel_reads}")
        if self.network_short_side is not None:
            if "flow" in self.streams:
                raise UserError(
                    f"network_short_side is {self.network_short_side}, and the network takes flow, which is in pixels "
                    "of the stored frames: prepare the dataset with --short_side instead"
                )
            if self.network_short_side < self.crop:
                raise UserError(
                    f"network_short_side must be the crop, {self.crop}, or more, found {self.network_short_side}"
                )
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

    def rounds(self, videos: int) -> int:
        """Returns how many batches hold so many videos; the last may be padded."""
        return -(-videos // self.batch_size)

    def global_row(self, row: Rows) -> Rows:
        """Returns where this host's row `row`, counted over all its batches, stands among those of all hosts."""
        batch, place = divmod(row, self.rows)
        return batch * self.batch_size + self.host * self.rows + place


def training_batches(
    dataset: Dataset, split: str, options: BatchOptions, *, flip: bool, seed: int, first_clip: int = 0
) -> Batches:
    """Returns endless training batches: random windows, crops and flips, every video once an epoch, in random order.

    Clip n (counted over the run and over all hosts) is a function of the seed and n: its video is number n % N in an
    order of the split's N videos that each epoch n // N draws anew, as `options.order` says; window, crop and flip are
    drawn once for a clip, frames and flow alike. A video that is too short is looped. A damaged record gives way to the
    next good one in its epoch's order.

    Args:
      dataset: the opened dataset.
      split: its split to read.
      options: what a batch is.
      flip: whether half of the clips have left and right exchanged.
      seed: 0 or more.
      first_clip: the number of the first clip to give; a run that had B * k clips goes on from there.

    Raises:
      UserError: there is no such split, it is empty, its frames are smaller than the crop, flow is asked of a dataset
        without it, or a value is out of range; from the iterator: too many records are damaged.
    """
    for name, value in (("seed", seed), ("first_clip", first_clip)):
        if value < 0:
            raise UserError(f"{name} must be 0 or more, found {value}")
    reader = open_reader(dataset, split, options)

    def clip(row: int) -> EncodedClip:
        return _training_clip(reader, options, flip=flip, seed=seed, number=first_clip + options.global_row(row))

    counts = {stream: (options.sampling.count(stream),) for stream in options.streams}
    return Batches(
        reader,
        clip,
        counts,
        decoding_of(dataset, options),
        batch_rows=options.rows,
        rows=None,
        parallel_reads=options.parallel_reads,
    )


def evaluation_batches(dataset: Dataset, split: str, options: BatchOptions, *, windows: int, crops: int = 1) -> Batches:
    """Returns the batches that hold every video of a split once, in order: `windows` windows each, and their crops.

    The windows are those of `clips.cover`: one holds the first frames, several span the whole video. The crops are
    those of `preprocessing.crops`: the centre, or several, which then stand one after the other behind each window's
    first. The last batch is padded; a padded row, and that of a damaged record, has mask False, zeros for pixels, label
    0 and an empty name. Every host gets the same number of batches.

    Raises:
      UserError: there is no such split, it is empty, its frames are smaller than the crop, flow is asked of a dataset
        without it, or a value is out of range; from the iterator: too many records are damaged.
    """
    if windows < 1:
        raise UserError(f"windows must be 1 or more, found {windows}")
    clips.check_crops(crops)
    reader = open_reader(dataset, split, options)

    def clip(row: int) -> EncodedClip | None:
        record = options.global_row(row)
        return _evaluation_clip(reader, options, windows, crops, record) if record < len(reader.places) else None

    counts = {stream: (windows, options.sampling.count(stream)) for stream in options.streams}
    return Batches(
        reader,
        clip,
        counts,
        decoding_of(dataset, options, crops=crops),
        batch_rows=options.rows,
        rows=options.rounds(len(reader.places)) * options.rows,
        parallel_reads=options.parallel_reads,
    )


def decoding_of(dataset: Dataset, options: BatchOptions, *, crops: int = 1) -> Decoding:
    """Returns how a dataset's images become a batch's pixels, with so many crops of each."""
    rounding = codec.rounding_of(dataset.preprocessing.flow)
    return Decoding(options.crop, options.network_short_side, rounding, crops)


def open_reader(dataset: Dataset, split: str, options: BatchOptions) -> SplitReader:
    """Opens a split to read such batches of; a `UserError` says what it lacks for them."""
    if dataset.preprocessing.short_side < options.crop:
        raise UserError(
            f"a crop of {options.crop} pixels was asked of {dataset.directory}, "
            f"whose frames have a short side of {dataset.preprocessing.short_side}"
        )
    if options.network_short_side is not None:
        # So that OpenCV, where it is missing, is missed here and not by a thread in the middle of a batch.
        resized(np.zeros((1, 2, 2, 3), np.uint8), 1)
    return SplitReader(dataset, split, max_damaged_share=options.max_damaged_share, streams=options.streams)


def _training_clip(reader: SplitReader, options: BatchOptions, *, flip: bool, seed: int, number: int) -> EncodedClip:
    videos = len(reader.places)
    epoch, position = divmod(number, videos)
    if options.order == RANDOM:
        order = _epoch_order(seed, epoch, videos)
    else:
        order = _epoch_order_of_shards(seed, epoch, reader.shard_sizes)
    window, top, left, mirror = np.random.default_rng([seed, _CLIP, number]).random(4)

    def choose(video: EncodedVideo) -> EncodedClip:
        width, height = frame_size(video, options)
        indices = clips.training_window(video.num_frames, options.sampling, window, streams=options.streams)
        rows, columns = height - options.crop + 1, width - options.crop + 1
        crop = Crop(int(top * rows), int(left * columns), mirrored=flip and mirror < 0.5)
        return encoded_clip(video, indices, (crop,))

    for step in range(videos):
        clip = reader.read(reader.places[order[(position + step) % videos]], choose)
        if clip is not None:
            return clip
    raise UserError(f"all {videos} records are damaged, among them {next(iter(reader.damaged.values()))}")


@functools.lru_cache(maxsize=2)  # two, since clips of the next epoch are read before the last of this one
def _epoch_order(seed: int, epoch: int, videos: int) -> np.ndarray:
    return np.random.default_rng([seed, _SHUFFLE, epoch]).permutation(videos)


@functools.lru_cache(maxsize=2)
def _epoch_order_of_shards(seed: int, epoch: int, shard_sizes: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng([seed, _SHUFFLE, epoch])
    shards = np.split(np.arange(sum(shard_sizes)), np.cumsum(shard_sizes)[:-1])
    videos = np.concatenate([shards[number] for number in random.permutation(len(shards))])
    together = [videos[start : start + SHUFFLED_TOGETHER] for start in range(0, len(videos), SHUFFLED_TOGETHER)]
    return np.concatenate([random.permutation(some) for some in together])


def _evaluation_clip(
    reader: SplitReader, options: BatchOptions, windows: int, crops: int, record: int
) -> EncodedClip | None:
    def choose(video: EncodedVideo) -> EncodedClip:
        places = crop_places(*frame_size(video, options), options.crop, crops)
        indices = clips.cover(video.num_frames, options.sampling, windows, streams=options.streams)
        return encoded_clip(video, indices, tuple(places))

    return reader.read(reader.places[record], choose)


def frame_size(video: EncodedVideo, options: BatchOptions) -> tuple[int, int]:
    """Returns (width, height) of the frames that crops are cut from; smaller ones than a crop are damage."""
    width, height, crop = video.width, video.height, options.crop
    if options.network_short_side is not None and width and height:
        width, height = resized_size(width, height, options.network_short_side)
    if min(height, width) < crop:
        raise DamagedRecord(
            video.place, f"its frames of {video.width}x{video.height} are smaller than the crop, {crop}"
        )
    return width, height


def encoded_clip(video: EncodedVideo, indices: Mapping[str, np.ndarray], crops: tuple[Crop, ...]) -> EncodedClip:
    """Returns a video's clip of the frames and fields of these numbers, int64 by stream, and of these crops."""
    numbers = {stream: list(dict.fromkeys(wanted.reshape(-1).tolist())) for stream, wanted in indices.items()}
    images = iter(video.images([(stream, number) for stream, own in numbers.items() for number in own]))
    streams = {
        stream: EncodedStream(own, list(itertools.islice(images, len(own))), _order(own, indices[stream]))
        for stream, own in numbers.items()
    }
    return EncodedClip(place=video.place, name=video.name, label=video.label, streams=streams, crops=crops)


def _order(numbers: list[int], indices: np.ndarray) -> np.ndarray:
    """Returns where each of `indices` stands in `numbers`."""
    places = {number: place for place, number in enumerate(numbers)}
    return np.array([places[number] for number in indices.reshape(-1).tolist()]).reshape(indices.shape)
