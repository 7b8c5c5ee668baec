"""From two sets of videos to their distance, with everything that it depends on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from i3d_jax.evaluation import frechet
from i3d_jax.fvd import networks, saved, sets
from i3d_jax.fvd.facts import Facts
from i3d_jax.fvd.networks import Network
from i3d_jax.fvd.options import GENERATED, RANDOM, REAL, Options
from i3d_jax.fvd.protocols import named
from i3d_jax.fvd.saved import Statistics
from i3d_jax.system import files
from i3d_jax.system.errors import UserError

# Videos of each side: with fewer, the distance says more of their number than of the videos.
USUAL_VIDEOS = 2048
# Wraps what yields clips, given how many there are (None: not known) and of which set; a progress bar does.
Watch = Callable[[Iterator[sets.Clip], int | None, str], Iterator[sets.Clip]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distance:
    """A Fréchet Video Distance and what it is of. `float()` of it is the distance.

    Attributes:
      fvd: the distance; of several repeats their mean.
      repeats: the distance of each repeat.
      interval: how far it moves with the draw of the videos; None with several repeats, which show it themselves.
      extrapolated: the estimate for infinitely many videos, if that was asked for.
      videos: how many of "real" and of "generated".
      real, generated: what the two are called.
      description: what the features are of (`saved.COMPARED`, "clips", "seed").
      warnings: sentences on what makes it compare badly.
    """

    fvd: float
    repeats: tuple[float, ...]
    interval: frechet.Interval | None
    extrapolated: float | None
    videos: Mapping[str, int]
    real: str
    generated: str
    description: Mapping[str, Any]
    warnings: tuple[str, ...]

    def __float__(self) -> float:
        return self.fvd

    @property
    def deviation(self) -> float | None:
        """The standard deviation over several repeats; None of one."""
        return float(np.std(self.repeats, ddof=1)) if len(self.repeats) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Returns it as `--format json` prints it."""
        protocol = named(self.description["protocol"])
        interval = self.interval and {
            "low": self.interval.low,
            "high": self.interval.high,
            "deviation": self.interval.deviation,
            "resamples": self.interval.resamples,
        }
        return {
            "fvd": self.fvd,
            "deviation": self.deviation,
            "repeats": list(self.repeats),
            "bootstrap_interval_95": interval,
            "extrapolated_to_infinite_videos": self.extrapolated,
            "real": self.real,
            "generated": self.generated,
            "videos": dict(self.videos),
            "protocol": protocol.name,
            "frames": self.description["frames"],
            "stride": self.description["stride"],
            "clips": self.description["clips"],
            "seed": self.description["seed"],
            "resize": protocol.resizing,
            "layer": self.description["layer"],
            "ddof": protocol.ddof,
            "checkpoint": self.description["release"],
            "crc32c": self.description["crc32c"],
            "warnings": list(self.warnings),
        }


def opened(source: Any, options: Options) -> Any:
    """Opens whatever stands for a set: `Statistics`, a `sets.VideoSet` or an iterable of batches.

    Args:
      source: `Statistics`; a path of statistics or of what `sets.open_set` takes; an array as of `sets.Arrays`; or an
        iterable of such arrays, batches of one set.
      options: its `value_range` is that of floats.

    Raises:
      UserError: it is none of these.
    """
    if isinstance(source, Statistics):
        return source
    if isinstance(source, (str, os.PathLike)):
        path = files.path(source)
        return saved.read(path) if saved.are_at(path) else sets.open_set(path, options.value_range)
    if hasattr(source, "ndim") and hasattr(source, "dtype"):
        return sets.Arrays(np.asarray(source), "the array", options.value_range)
    if isinstance(source, Iterable):
        return source
    raise UserError(f"a path, an array or batches were expected as a set of videos, found {type(source).__name__}")


def statistics_of(
    source: Any,
    options: Options,
    network: Network | None,
    *,
    side: str,
    name: str,
    watch: Watch | None = None,
    devices: Sequence[jax.Device] | None = None,
    numbers: np.ndarray | None = None,
) -> Statistics:
    """Computes the features of a set, or takes those that were computed before.

    Args:
      source: what `opened` gives; an iterable is gone through.
      options: what of it.
      network: whose features; statistics need none.
      side: REAL or GENERATED: what the protocol takes of each may differ.
      name: of the set, for messages.
      watch: is given the clips as they come.
      devices: which; None for all of this host.
      numbers: of the videos that are taken, int64; None for those that the options draw.

    Raises:
      UserError: a video cannot be read or does not serve, the set has too few, there is no network, or statistics are
        of another protocol.
    """
    refuse_beforehand(source, options, network, side=side, name=name)
    if isinstance(source, Statistics):
        return source.of(options.taken(len(source.features), side, name)) if options.videos else source
    # Else it was refused.
    assert network is not None
    if hasattr(source, "clip"):
        chosen = options.taken(len(source.names), side, name) if numbers is None else numbers
        total, (shard, shards) = len(chosen), options.shard
        rows = [(number, place) for place, number in enumerate(chosen.tolist())][shard::shards]
        if not rows:
            raise UserError(f"{name}: the shard {shard}/{shards} of {total} videos is empty")
        clips = sets.clips(source, rows, options.cut, options.fewest)
        video = np.array([source.names[number] for number, _ in rows], np.str_)
        place = np.array([place for _, place in rows], np.int64)
    else:
        if options.videos is not None or options.shard != (0, 1):
            raise UserError(f"{name}: `videos` and `shard` are of sets that can be counted, found an iterable")
        clips, total, video, place = _streamed(source, options, name), None, None, None
    clips = watch(clips, None if place is None else len(place), name) if watch else clips
    facts, features, frames = _features(clips, options, network, devices)
    if place is None:
        place = np.arange(len(features))
        video = place.astype(np.str_)
    description = {
        **network.told(),
        "protocol": options.protocol,
        "frames": frames,
        "stride": options.stride,
        "clips": "random" if options.cut.random else "first",
        "seed": options.seed,
        "videos": total or len(features),
        "shard": list(options.shard),
        "facts": facts.to_json(),
    }
    assert video is not None
    return Statistics(features, place, video, description)


def repeated(
    source: Any,
    options: Options,
    network: Network | None,
    repeats: int,
    *,
    side: str,
    name: str,
    watch: Watch | None = None,
) -> list[Statistics]:
    """Returns `statistics_of` a set for each of several draws, by the seeds that follow one another."""
    each = [dataclasses.replace(options, seed=options.seed + number) for number in range(repeats)]
    if repeats == 1 or isinstance(source, Statistics) or options.cut.random:
        return [statistics_of(source, one, network, side=side, name=name, watch=watch) for one in each]
    # A video's clip is the same each time: its features are computed once.
    taken = [one.taken(len(source.names), side, name) for one in each]
    numbers = np.unique(np.concatenate(taken))
    whole = statistics_of(source, options, network, side=side, name=name, watch=watch, numbers=numbers)
    return [whole.of(np.searchsorted(numbers, own)) for own in taken]


def measured(
    real: Sequence[Statistics],
    generated: Sequence[Statistics],
    *,
    names: tuple[str, str],
    interval: bool = True,
    extrapolate: bool = False,
) -> Distance:
    """Measures two sets, once for each repeat.

    Args:
      real, generated: of each repeat, or one of all of them.
      names: what the two sides are called.
      interval: whether the bootstrap interval is computed, of a single repeat.
      extrapolate: whether infinitely many videos are extrapolated to.

    Raises:
      UserError: the two are of another protocol, network, layer, or number of frames; or of too few videos.
    """
    repeats = max(len(real), len(generated))
    pairs = list(zip(_repeated(real, repeats), _repeated(generated, repeats), strict=True))
    for ours, theirs in pairs:
        saved.refuse_other(ours.description, theirs.description, *names)
        for one, name in zip((ours, theirs), names, strict=True):
            if one.description["shard"] != [0, 1]:
                number, parts = one.description["shard"]
                raise UserError(
                    f"{name} is the shard {number}/{parts} of a set: a folder of all its shards' files was expected"
                )
    first, second = pairs[0]
    ddof = named(first.description["protocol"]).ddof
    seed = first.description["seed"]
    sides = [(ours.features, theirs.features) for ours, theirs in pairs]
    distances = tuple(frechet.frechet_distance(*both, ddof=ddof) for both in sides)
    return Distance(
        fvd=float(np.mean(distances)),
        repeats=distances,
        interval=frechet.bootstrap(*sides[0], ddof=ddof, seed=seed) if interval and repeats == 1 else None,
        extrapolated=frechet.extrapolated(*sides[0], ddof=ddof, seed=seed) if extrapolate else None,
        videos={REAL: len(first.features), GENERATED: len(second.features)},
        real=names[0],
        generated=names[1],
        description=first.description,
        warnings=tuple(_warnings(first, second, names)),
    )


def fvd(
    real: Any,
    generated: Any,
    *,
    network: Any = None,
    protocol: str = "reference",
    allow_checkpoint: bool = False,
    interval: bool = True,
    **options: Any,
) -> Distance:
    """Returns the Fréchet Video Distance of two sets of videos; `float()` of it is the number.

    Args:
      real, generated: arrays uint8 [N, T, H, W, 3], or of floats with a `value_range`; iterables of such arrays; paths
        of folders of videos or of images, of .npy and .npz, of datasets, of saved statistics; or what `statistics`
        gives.
      network: a checkpoint directory, or what `i3d_jax.load` gives; None where both are statistics.
      protocol: "reference", "styleganv", "cdfvd" or "common_metrics".
      allow_checkpoint: whether another network than the published rgb_scratch is taken.
      interval: whether the bootstrap interval is computed, which takes seconds for thousands of videos.
      **options: the other fields of `fvd.options.Options`: frames, stride, clips, seed, videos, batch_size and
        value_range.

    Raises:
      UserError: one sentence on what was expected and what was found.
    """
    chosen = Options(protocol=protocol, **options)
    known = None if network is None else networks.open_network(network, allow_checkpoint=allow_checkpoint)
    names = tuple(_name(source, side) for source, side in ((real, REAL), (generated, GENERATED)))
    sides = [(opened(real, chosen), REAL, names[0]), (opened(generated, chosen), GENERATED, names[1])]
    for source, side, name in sides:
        refuse_beforehand(source, chosen, known, side=side, name=name)
    both = [statistics_of(source, chosen, known, side=side, name=name) for source, side, name in sides]
    return measured(both[:1], both[1:], names=(names[0], names[1]), interval=interval)


def statistics(
    videos: Any,
    *,
    network: Any,
    protocol: str = "reference",
    allow_checkpoint: bool = False,
    side: str = REAL,
    **options: Any,
) -> Statistics:
    """Returns the features of a set, for `fvd` to compare many others with.

    Args:
      videos: as of `fvd`, and all other arguments but one.
      side: REAL or GENERATED: what the protocol takes of each may differ.
    """
    chosen = Options(protocol=protocol, **options)
    known = networks.open_network(network, allow_checkpoint=allow_checkpoint)
    return statistics_of(opened(videos, chosen), chosen, known, side=side, name=_name(videos, side))


def _name(source: Any, side: str) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else side


def _features(
    clips: Iterator[sets.Clip], options: Options, network: Network, devices: Sequence[jax.Device] | None
) -> tuple[Facts, np.ndarray, int]:
    """Returns what was seen of the files, the features float32 [N, D], and the frames of each clip."""
    facts, frames = Facts(), 0

    def pixels() -> Iterator[np.ndarray]:
        nonlocal frames
        for clip in clips:
            count, height, width, _ = clip.pixels.shape
            if frames not in (0, count):
                raise UserError(f"{clip.name} has {count} frames, those before it {frames}: as many were expected")
            frames = count
            facts.add((width, height), clip.frame_rate, clip.compression, clip.bits)
            yield clip.pixels

    found = networks.features(network, options.way, pixels(), batch_size=options.batch_size, devices=devices)
    if not (features := list(found)):
        raise UserError("2 videos or more were expected, found an iterable of none")
    return facts, np.concatenate(features), frames


def _refuse_unless_asked(one: Statistics, options: Options, name: str) -> None:
    """Raises a `UserError` for statistics of another protocol than is asked for, or of other frames than are named."""
    asked: dict[str, Any] = {"protocol": options.protocol}
    if isinstance(options.frames, int):
        asked["frames"] = options.frames
    if options.stride != 1:
        asked["stride"] = options.stride
    saved.refuse_other(one.description, asked, name, "what was asked for", fields=tuple(asked))


def _streamed(batches: Iterable[Any], options: Options, name: str) -> Iterator[sets.Clip]:
    place = 0
    for number, batch in enumerate(batches):
        array = sets.Arrays(np.asarray(batch), f"batch {number} of {name}", options.value_range)
        for row in range(len(array.names)):
            yield array.clip(row, place, options.cut, options.fewest)
            place += 1


def _repeated(ones: Sequence[Statistics], repeats: int) -> Sequence[Statistics]:
    return [ones[0]] * repeats if len(ones) == 1 else ones


def _warnings(real: Statistics, generated: Statistics, names: tuple[str, str]) -> Iterator[str]:
    few = min(len(real.features), len(generated.features))
    if few < USUAL_VIDEOS:
        yield (
            f"{few} videos on one side: of fewer than {USUAL_VIDEOS} the distance is too large, and compares only with "
            "those of as many videos"
        )
    for one, name in zip((real, generated), names, strict=True):
        different = len(np.unique(one.video))
        if different < len(one.video):
            yield f"{name} has {different} videos, which were gone through again up to {len(one.video)}"
    if real.description["release"] != networks.USUAL:
        other = real.description["release"] or "none of the published networks"
        yield f"the network is {other}, not {networks.USUAL}: the distance compares with no published one"
    yield from real.facts.differences(generated.facts, *names)


def refuse_beforehand(source: Any, options: Options, network: Network | None, *, side: str, name: str) -> None:
    """Raises the `UserError`s of `statistics_of` that need no frame: the sets before it may take hours.

    Args:
      source, options, network, side, name: as there.
    """
    if isinstance(source, Statistics):
        _refuse_unless_asked(source, options, name)
        if network is not None:
            told = network.told()
            saved.refuse_other(source.description, told, name, f"the network {network.where}", fields=tuple(told))
    elif network is None:
        raise UserError(
            f"{name} is no saved statistics: --checkpoint (in Python network) was expected to have features by"
        )
    elif hasattr(source, "clip"):
        options.taken(len(source.names), side, name)


def refuse_same_repeats(sources: Sequence[Any], options: Options) -> None:
    """Raises a `UserError` where nothing is drawn of any set, as `opened` gives them: all repeats would be the same."""

    def is_drawn(source: Any) -> bool:
        if isinstance(source, Statistics):
            return options.videos is not None and options.videos < len(source.features)
        return options.cut.random or (options.videos is not None and options.videos < len(source.names))

    if not any(map(is_drawn, sources)):
        raise UserError(
            f"repeats draw anew: --videos of fewer than there are, or --clips {RANDOM}, was expected with --repeats"
        )
