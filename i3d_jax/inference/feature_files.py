"""Files of features: one or several for each video, and last a JSON beside them that says what they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i3d_jax.inference.presets import NPY, NPZ, Preset
from i3d_jax.ingest import alive
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import entries, is_file, is_folder, make_folder, read_object, written_whole
from i3d_jax.system.terminal import json_text


@dataclasses.dataclass(frozen=True)
class Features:
    """What was computed of a video.

    Attributes:
      name: what its files are called.
      values: for each network float32 [N, crops, ...].
      streams: what to call each network's: "rgb" or "flow".
      starts, ends: seconds of each window, float64 [N].
      frame_rate: frames a second.
      frames: how many the video has at that rate.
    """

    name: str
    values: Sequence[np.ndarray]
    streams: Sequence[str]
    starts: np.ndarray
    ends: np.ndarray
    frame_rate: float
    frames: int

    def together(self, crop: int | None) -> np.ndarray:
        """Returns all networks' values side by side, of one crop float32 [N, C] or of all [N, crops, C]."""
        values = np.concatenate(list(self.values), axis=-1)
        return values[:, 0] if crop is None and values.shape[1] == 1 else values if crop is None else values[:, crop]


@dataclasses.dataclass(frozen=True)
class Folder:
    """The folder of features.

    Attributes:
      path: of the folder.
      preset: the layout of the files.
      settings: everything that the numbers depend on but the video: JSON values.
    """

    path: Path
    preset: Preset
    settings: Mapping[str, Any]

    def is_done(self, name: str) -> bool:
        """Says whether the files of a video are there.

        Raises:
          UserError: they were made with other settings, which are named.
        """
        described = self._description_path(name)
        if not is_file(described):
            return False
        stored = read_object(described)
        different = [key for key, value in self.settings.items() if stored.get(key) != value]
        if different:
            named = "; ".join(f"{key} {stored.get(key)!r} against {self.settings[key]!r}" for key in different)
            raise UserError(f"{described} is of features with other settings: {named}; choose another --output")
        return True

    def remove_leftovers(self, names: Collection[str]) -> None:
        """Removes what a command that was killed left half-written of the files of some videos."""
        if not is_folder(self.path):
            return
        for entry in entries(self.path):
            whole, mark, _ = entry.name.partition(".tmp-")
            if mark and any(whole.startswith(name) for name in names):
                entry.unlink(missing_ok=True)
        alive.remove(self.path)

    def write(self, features: Features) -> None:
        """Writes a video's files, each whole or not at all, and last the JSON."""
        make_folder(self.path)
        files = self.files(features)
        for name, arrays in files.items():
            with written_whole(self.path / name) as file:
                if self.preset.format == NPY:
                    np.save(file, arrays["features"])
                else:
                    np.savez(file, **arrays)
        first = next(iter(files.values()))["features"]
        described = {
            **self.settings,
            "files": list(files),
            "shape": list(first.shape),
            "frames": features.frames,
            "frames_a_second": features.frame_rate,
        }
        with written_whole(self._description_path(features.name)) as file:
            file.write(json_text(described, indent=2).encode() + b"\n")

    def files(self, features: Features) -> dict[str, dict[str, Any]]:
        """Returns the arrays of each file of a video, by its name; an .npy file has one alone."""
        if self.preset.format != NPY:
            arrays = {
                "features": features.together(None),
                "start_seconds": features.starts,
                "end_seconds": features.ends,
            }
            return {f"{features.name}.{NPZ}": arrays}
        template = self.preset.name
        if features.name.startswith("v_"):
            template = template.removeprefix("v_")
        found: dict[str, dict[str, Any]] = {}
        streams = features.streams if "{stream}" in template else [None]
        crops = range(features.values[0].shape[1]) if "{crop}" in template else [None]
        for stream in streams:
            own = features
            if stream is not None:
                place = list(features.streams).index(stream)
                own = dataclasses.replace(features, values=[features.values[place]], streams=[stream])
            for crop in crops:
                values = own.together(crop)
                file = template.format(name=features.name, stream=stream, crop=crop)
                found[f"{file}.{NPY}"] = {"features": values.T if self.preset.transposed else values}
        if self.preset.times:
            found[f"{features.name}_fps.{NPY}"] = {"features": np.array(features.frame_rate)}
            middles = 1000 * (features.starts + features.ends) / 2
            found[f"{features.name}_timestamps_ms.{NPY}"] = {"features": middles}
        return found

    def _description_path(self, name: str) -> Path:
        return self.path / f"{name}.json"


def names_of(paths: Sequence[str]) -> list[str]:
    """Returns what the files of each video are called: its name without the suffix.

    Raises:
      UserError: two videos would have the same.
    """
    found: dict[str, str] = {}
    for path in paths:
        name = Path(path).stem
        if name in found:
            raise UserError(f"{found[name]} and {path} would both have the features {name}: they need another --output")
        found[name] = path
    return list(found)


def share(items: Sequence[Any], shard: str | None) -> list[Any]:
    """Returns one of N shares of a list, as `I/N` says it.

    Shares are counted from 0 or from 1: N/N is 0/N, so that both ways all of them together are the whole.

    Raises:
      UserError: it is not of that form.
    """
    if shard is None:
        return list(items)
    one, slash, all_ = shard.partition("/")
    if not slash or not (one.isdecimal() and all_.isdecimal()) or not int(all_) >= 1 or int(one) > int(all_):
        raise UserError(f"--shard must be I/N, as 0/8 up to 7/8 or 1/8 up to 8/8, found {shard!r}")
    return [item for number, item in enumerate(items) if number % int(all_) == int(one) % int(all_)]
