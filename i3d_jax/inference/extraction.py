"""The work of `features`: which videos are missing, what is computed of them, and where it goes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i3d_jax import checkpoint
from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.preprocessing import crops, refuse_mismatch
from i3d_jax.flow import codec
from i3d_jax.inference.batching import Wanted
from i3d_jax.inference.feature_files import Features, Folder, names_of, share
from i3d_jax.inference.hdf5 import assemble, is_assembled, parts_of
from i3d_jax.inference.loaded import LoadedNetwork, refuse_other_streams, sources_of
from i3d_jax.inference.presets import H5, NATIVE, NPZ, Preset
from i3d_jax.inference.stored import records_of
from i3d_jax.inference.videos import Video, VideosBar, videos
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import make_folder
from i3d_jax.video.frames import Frames
from i3d_jax.video.pictures import Source
from i3d_jax.video.view import together
from i3d_jax.video.windows import TooShort

# A video's path, or its name in a dataset, and what opens it.
Opens = tuple[str, Callable[[], Source]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extraction:
    """What is asked for.

    Attributes:
      checkpoints: of one network, or of RGB's and flow's.
      output: the folder.
      preset: windows, pixels and files.
      preset_name: what it was made from.
      endpoint, pooled: as of `Wanted`.
      precision: as of `computed_in`.
    """

    checkpoints: tuple[str, ...]
    output: Path
    preset: Preset
    preset_name: str
    endpoint: str
    pooled: bool
    precision: str

    def networks(self) -> list[LoadedNetwork]:
        """Reads the networks; a `UserError` says that two are not the two streams of one."""
        found = [LoadedNetwork(directory, precision=self.precision) for directory in self.checkpoints]
        refuse_other_streams(found)
        return found

    def settings(self, networks: Sequence[LoadedNetwork]) -> dict[str, Any]:
        """Returns everything that the numbers depend on but the video, as the JSON beside them says it."""
        preset = self.preset
        stored = together([network.view for network in networks], [network.name for network in networks])
        return {
            "preset": self.preset_name,
            "window": preset.window,
            "stride": preset.stride,
            "centred": preset.centred,
            "frame_rate": NATIVE if preset.frame_rate is None else preset.frame_rate,
            "size": None if preset.size is None else list(preset.size),
            "crops": preset.crops,
            "format": preset.format,
            "layer": self.endpoint or "what the classifier sees",
            "pool": "mean" if self.pooled else "none",
            "precision": self.precision,
            "flow": None if stored.flow is None else dict(stored.flow),
            "preprocessing": stored.to_json(),
            "checkpoints": [_checkpoint_digest(network.directory) for network in networks],
        }


# Computes the features of named videos into a folder, and returns how many could not be read.
Compute = Callable[[Extraction, Sequence[LoadedNetwork], Mapping[str, Opens], Folder], int]


def extract(
    extraction: Extraction,
    paths: Sequence[str],
    *,
    dataset: str | None = None,
    split: str | None = None,
    shard: str | None = None,
    compute: Compute | None = None,
) -> int:
    """Computes the features that are missing, and returns how many videos could not be read.

    Args:
      extraction: what is asked for.
      paths: of the videos; none with a dataset.
      dataset, split: whose records are taken instead.
      shard: which share of the videos, as `feature_files.share` takes it.
      compute: who does it; None for this process.

    Raises:
      UserError: nothing can be done at all; each video's own failure is printed.
    """
    share([], shard)
    networks = extraction.networks()
    for network in networks:
        for note in network.notes:
            print(note, file=sys.stderr)
    if extraction.preset.as_trained:
        preset = dataclasses.replace(
            extraction.preset, frame_rate=float(networks[0].view.stored.frame_rate), as_trained=False
        )
        extraction = dataclasses.replace(extraction, preset=preset)
    settings = extraction.settings(networks)
    if dataset is None or split is None:
        by_name = sources_of_paths(extraction, networks, paths)
    else:
        by_name = _of_dataset(extraction, networks, dataset, split)
        settings["preprocessing"] = open_dataset(dataset).preprocessing.to_json()
    by_name = {name: by_name[name] for name in share(list(by_name), shard)}
    make_folder(extraction.output)
    assembled = extraction.output / f"features{'' if shard is None else '-' + shard.replace('/', '-of-')}.h5"
    if extraction.preset.format == H5:
        if is_assembled(assembled, settings, list(by_name)):
            print(f"the features of all {len(by_name)} videos are in {assembled} already")
            return 0
        preset = dataclasses.replace(extraction.preset, format=NPZ)
        folder = Folder(parts_of(assembled), preset, settings)
    else:
        folder = Folder(extraction.output, extraction.preset, settings)
    missing = {name: by_name[name] for name in by_name if not folder.is_done(name)}
    folder.remove_leftovers(missing)
    failures = (compute or compute_here)(extraction, networks, missing, folder)
    there = f", {len(by_name) - len(missing)} were there" if len(missing) < len(by_name) else ""
    failed = f", {failures} could not be read" if failures else ""
    done = len(missing) - failures
    print(f"features of {done} video{'' if done == 1 else 's'} in {extraction.output}{there}{failed}")
    if extraction.preset.format == H5:
        assemble(assembled, folder.path, settings, [name for name in by_name if folder.is_done(name)])
        print(f"they are together in {assembled}")
    return failures


def compute_here(
    extraction: Extraction, networks: Sequence[LoadedNetwork], missing: Mapping[str, Opens], folder: Folder
) -> int:
    """Computes features in this process; a video that cannot be read is named. Returns how many could not."""
    wanted = Wanted(extraction.endpoint, extraction.pooled)
    programs = [network.program(wanted, extraction.preset.window) for network in networks]
    rounding = codec.rounding_of(networks[-1].view.stored.flow)
    number_of_crops = extraction.preset.crops

    def crop(stream: str, picture: np.ndarray, size: int) -> np.ndarray:
        return crops(picture, size, number_of_crops, flow_rounding=rounding if stream == "flow" else None)

    failures = 0
    names = list(missing)
    with VideosBar("computing features", len(missing)) as bar:
        views = [network.view for network in networks]
        found = videos(
            programs,
            [source for _, source in missing.values()],
            extraction.preset.plan,
            views,
            crop=crop,
            bar=bar,
        )
        for video in found:
            name = names[video.number]
            try:
                if isinstance(video.failure, TooShort):
                    raise UserError(
                        f"the video {missing[name][0]} is too short for --preset {extraction.preset_name}: "
                        f"{video.failure}"
                    )
                folder.write(_features(networks, name, missing[name][0], video))
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                failures += 1
    return failures


def sources_of_paths(
    extraction: Extraction, networks: Sequence[LoadedNetwork], paths: Sequence[str]
) -> dict[str, Opens]:
    """Returns what opens each video file, by the name of its features."""
    frames = Frames(frame_rate=extraction.preset.frame_rate, size=_size(extraction.preset, networks))
    sources = sources_of(networks, paths, extraction.preset.plan, frames=frames, note=_tell)
    return dict(zip(names_of(paths), zip(paths, sources, strict=True), strict=True))


def _tell(path: str, sentence: str) -> None:
    print(f"{path}: {sentence}", file=sys.stderr, flush=True)


def _features(networks: Sequence[LoadedNetwork], name: str, path: str, video: Video) -> Features:
    video.refuse_failure(path)
    values = [np.stack(own) for own in video.results]
    for network, own in zip(networks, values, strict=True):
        network.refuse_not_finite(own, "features", path)
    spans = np.array(video.spans, np.float64) / video.frame_rate
    streams = ["_".join(network.model.streams) for network in networks]
    return Features(name, values, streams, spans[:, 0], spans[:, 1], video.frame_rate, video.frames)


def _size(preset: Preset, networks: Sequence[LoadedNetwork]) -> int | tuple[int, int]:
    return networks[0].view.stored.short_side if preset.size is None else preset.size


def _of_dataset(
    extraction: Extraction, networks: Sequence[LoadedNetwork], directory: str, split: str
) -> dict[str, Opens]:
    """Returns what opens each video of a dataset's split, by the name of its files."""
    dataset = open_dataset(directory)
    preset = extraction.preset
    rate = float(dataset.preprocessing.frame_rate)
    if preset.size is not None or preset.frame_rate not in (None, rate):
        raise UserError(
            f"{directory} holds frames at {rate:g} a second and of their own size: --frame_rate {rate:g} and a preset "
            f"that takes frames as they are were expected, found {extraction.preset_name}"
        )
    for network in networks:
        refuse_mismatch(
            network.view.stored.to_json(),
            dataset.preprocessing.of_streams(network.model.streams).to_json(),
            expected_by=network.name,
            found_in=directory,
        )
    streams = tuple({stream: None for network in networks for stream in network.model.streams})
    sources = records_of(dataset, split, streams)
    return dict(zip(names_of(list(sources)), sources.items(), strict=True))


@functools.lru_cache(maxsize=8)
def _checkpoint_digest(directory: Path) -> str:
    """Returns a digest of a checkpoint's arrays: of the checksums that stand beside them, where there are any."""
    beside = directory / checkpoint.DIGESTS
    files = [beside] if beside.is_file() else sorted(path for path in directory.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in [directory / "model.json", *files]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
