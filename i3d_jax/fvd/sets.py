"""Sets of videos, wherever they come from: folders of videos or of images, arrays, datasets of `prepare`."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from i3d_jax.fvd.protocols import Cut
from i3d_jax.system import copies, files
from i3d_jax.system.archives import read_arrays
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import entries, instead, is_file, is_folder, opened

VIDEOS = frozenset({".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"})
IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
DESCRIPTION = "dataset.json"
# Clips that are read ahead for each thread.
_AHEAD = 2


class Clip(NamedTuple):
    """The frames of a video that are seen.

    Attributes:
      name: of the video, for messages.
      pixels: uint8 or float32 [T, H, W, 3], in 0..255.
      frame_rate: of the video, a second; None where it is not known.
      compression: what it was read from.
      bits: of the file for each pixel; None where that is not known.
    """

    name: str
    pixels: np.ndarray
    frame_rate: float | None
    compression: str
    bits: float | None = None


class VideoSet(Protocol):
    """Videos that can be read in any order, from several threads.

    Attributes:
      names: one for each.
    """

    names: Sequence[str]

    def clip(self, number: int, place: int, cut: Cut, fewest: int) -> Clip:
        """Reads the clip of a video; `place` and `fewest` as of `Cut.of`; a `UserError` says why it cannot be."""


def clips(videos: VideoSet, numbers: Iterable[tuple[int, int]], cut: Cut, fewest: int) -> Iterator[Clip]:
    """Yields the clips of some videos in order, read ahead by as many threads as there are processors.

    Args:
      videos: the set.
      numbers: (number in the set, place among those that are taken).
      cut, fewest: as of `Cut.of`.
    """
    threads = os.cpu_count() or 1
    waiting: collections.deque[Future[Clip]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            todo = iter(numbers)
            while True:
                for number, place in itertools.islice(todo, threads * _AHEAD - len(waiting)):
                    waiting.append(pool.submit(videos.clip, number, place, cut, fewest))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Arrays:
    """Videos of one array, which may lie on the disk."""

    def __init__(self, array: np.ndarray, where: str, value_range: tuple[float, float] | None = None):
        """Takes an array.

        Args:
          array: uint8 [N, T, H, W, 3], or with a `value_range` any kind of float.
          where: it stands, for messages.
          value_range: (lowest, highest): what is black and what is white in floats; None: they are refused.

        Raises:
          UserError: it is another array.
        """
        floats = value_range is not None and array.dtype.kind == "f"
        if array.ndim != 5 or array.shape[-1] != 3 or not (array.dtype == np.uint8 or floats):
            raise UserError(
                f"{where}: uint8 [N, T, H, W, 3] was expected, found {array.dtype} {list(array.shape)}"
                + ("; floats need their value_range" if array.dtype.kind == "f" and array.ndim == 5 else "")
            )
        if not array.size:
            raise UserError(f"{where}: videos with frames and pixels were expected, found {list(array.shape)}")
        self.names: Sequence[str] = [f"{number}" for number in range(len(array))]
        self._array, self._where, self._range = array, where, value_range

    def clip(self, number: int, place: int, cut: Cut, fewest: int) -> Clip:
        """As of `VideoSet`."""
        where = f"video {number} of {self._where}"
        chosen = _chosen(self._array.shape[1], place, cut, fewest, where)
        pixels = np.ascontiguousarray(self._array[number][chosen])
        if pixels.dtype == np.uint8:
            return Clip(where, pixels, None, "array")
        assert self._range is not None
        low, high = self._range
        # Not the other way round: NaN is not inside.
        if not (pixels.min() >= low and pixels.max() <= high):
            found = "NaN" if np.isnan(pixels).any() else f"{pixels.min():g} to {pixels.max():g}"
            raise UserError(f"{where}: values of {low:g} to {high:g} were expected, found {found}")
        scaled = (pixels.astype(np.float32) - low) * (255 / (high - low))
        return Clip(where, scaled.astype(np.float32), None, "array")


class VideoFiles:
    """Video files of a folder."""

    def __init__(self, folder: Path, names: Sequence[str]):
        self.names = names
        self._folder = folder

    def clip(self, number: int, place: int, cut: Cut, fewest: int) -> Clip:
        """As of `VideoSet`."""
        # Imported late: arrays need no video libraries.
        from i3d_jax.video.errors import UnreadableVideo, UnusableTimestamps

        path = self._folder / self.names[number]
        try:
            try:
                pixels = self._read(path, place, cut, fewest, by_timestamps=True)
            except UnusableTimestamps:
                pixels = self._read(path, place, cut, fewest, by_timestamps=False)
            return Clip(str(path), pixels, *_header(path))
        except UnreadableVideo as error:
            raise UserError(f"the video {path} cannot be read: {error}") from error

    @staticmethod
    def _read(path: Path, place: int, cut: Cut, fewest: int, *, by_timestamps: bool) -> np.ndarray:
        from i3d_jax.video.decode import count_frames, decode
        from i3d_jax.video.frames import Frames

        wanted, where = Frames(), f"the video {path}"
        if cut.needs_count:
            chosen = _chosen(count_frames(path, wanted, by_timestamps=by_timestamps), place, cut, fewest, where)
        else:
            assert cut.reach is not None
            chosen = cut.of(cut.reach, place, fewest)
        needed, frames, count = set(chosen.tolist()), [], 0
        with contextlib.closing(decode(path, wanted, by_timestamps=by_timestamps)) as decoded:
            for frame in itertools.islice(decoded, int(chosen[-1]) + 1):
                if count in needed:
                    frames.append(frame)
                count += 1
        if len(frames) < len(chosen):
            _chosen(count, place, cut, fewest, where)
        return np.stack(frames)


class ImageFolders:
    """Folders of images, each the frames of a video by the numbers in their names."""

    def __init__(self, folder: Path, names: Sequence[str]):
        self.names = names
        self._folder = folder

    def clip(self, number: int, place: int, cut: Cut, fewest: int) -> Clip:
        """As of `VideoSet`."""
        folder = self._folder / self.names[number]
        files = sorted(
            (path for path in entries(folder) if _is(path.name, IMAGES)), key=lambda path: natural(path.name)
        )
        frames: list[np.ndarray] = []
        for index in _chosen(len(files), place, cut, fewest, f"the folder {folder}"):
            with opened(files[index]) as file:
                frame = _decoded(file.read(), str(files[index]))
            if frames and frame.shape != frames[0].shape:
                sizes = " and ".join(f"{one.shape[1]}x{one.shape[0]}" for one in (frames[0], frame))
                raise UserError(f"{folder}: images of one size were expected, found {sizes} ({files[index].name})")
            frames.append(frame)
        kind = files[0].suffix.lower().removeprefix(".").replace("jpeg", "jpg")
        return Clip(str(folder), np.stack(frames), None, kind)


class Records:
    """A split of a dataset that `prepare` made."""

    def __init__(self, directory: Path, split: str | None):
        from i3d_jax.data.dataset import open_dataset
        from i3d_jax.data.reader import SplitReader

        dataset = open_dataset(directory)
        if split is None:
            if len(dataset.split_names) != 1:
                known = ", ".join(f"{directory}:{name}" for name in dataset.split_names)
                raise UserError(f"{directory} is a dataset of several splits: say which, as one of {known}")
            [split] = dataset.split_names
        # A set of which some is missing is another one, and has another distance.
        self._reader = SplitReader(dataset, split, max_damaged_share=0.0)
        self.names: Sequence[str] = [f"{place.path.name} {number}" for number, place in enumerate(self._reader.places)]
        rate = dataset.preprocessing.frame_rate
        self._frame_rate = None if isinstance(rate, str) else float(rate)
        self._compression = f"jpg {dataset.preprocessing.jpeg_quality}"

    def clip(self, number: int, place: int, cut: Cut, fewest: int) -> Clip:
        """As of `VideoSet`."""

        def choose(video: Any) -> np.ndarray:
            chosen = _chosen(video.num_frames, place, cut, fewest, str(video.place))
            images = video.images([("rgb", index) for index in chosen.tolist()])
            return np.stack([_decoded(image, str(video.place)) for image in images])

        pixels = self._reader.read(self._reader.places[number], choose)
        # Else it has been refused: no share of the records may be damaged.
        assert pixels is not None
        return Clip(self.names[number], pixels, self._frame_rate, self._compression)


def open_set(path: str | os.PathLike, value_range: tuple[float, float] | None = None) -> VideoSet:
    """Opens what stands at a path as a set of videos.

    Args:
      path: a folder of videos, at any depth; a folder of folders of images; an array, .npy or .npz, which stays on the
        disk unless it is compressed; a dataset folder, or DATASET:SPLIT of one.
      value_range: as of `Arrays`.

    Raises:
      UserError: it is none of these, or there is no video in it.
    """
    folder, split = files.path(path), None
    named = re.fullmatch(r"(.+):([A-Za-z0-9_-]+)", str(path))
    if named and instead(folder) == "nothing" and is_file(files.path(named[1]) / DESCRIPTION):
        folder, split = files.path(named[1]), named[2]
    if is_file(folder):
        return Arrays(_array(folder), str(folder), value_range)
    if not is_folder(folder):
        raise UserError(f"a folder of videos or a file of arrays was expected at {path}, found {instead(folder)}")
    if is_file(folder / DESCRIPTION):
        return Records(folder, split)
    videos, images = _found(folder)
    if videos and images:
        raise UserError(
            f"{folder} holds videos, as {videos[0]}, and folders of images, as {images[0]}: one of the two was expected"
        )
    if not videos and not images:
        raise UserError(f"{folder} holds no videos ({', '.join(sorted(VIDEOS))}) and no folders of images")
    return VideoFiles(folder, videos) if videos else ImageFolders(folder, images)


def natural(name: str) -> list[Any]:
    """Returns a key by which frame_10 comes after frame_9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _found(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the video files and the folders that hold images, relative to a folder, in their natural order."""
    videos, images = [], []

    def refuse(error: OSError) -> None:
        raise UserError(f"the folder {error.filename} cannot be read: {error.strerror}") from error

    if files.is_in_bucket(folder):
        below = [path.relative_to(folder) for path in folder.rglob("*")]
        videos = [str(own) for own in below if _is(own.name, VIDEOS)]
        images = list({str(own.parent) for own in below if _is(own.name, IMAGES)})
        return sorted(videos, key=natural), sorted(images, key=natural)
    for parent, _, names in os.walk(folder, onerror=refuse):
        own = Path(parent).relative_to(folder)
        videos += [str(own / name) for name in names if _is(name, VIDEOS)]
        images += [str(own)] if any(_is(name, IMAGES) for name in names) else []
    return sorted(videos, key=natural), sorted(images, key=natural)


def _is(name: str, suffixes: frozenset[str]) -> bool:
    # What begins with a dot is another system's, or half-written.
    return os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")


def _chosen(count: int, place: int, cut: Cut, fewest: int, where: str) -> np.ndarray:
    try:
        return cut.of(count, place, fewest)
    except ValueError as error:
        raise UserError(f"{where} is too short: {error}") from None


def _decoded(image: bytes, where: str) -> np.ndarray:
    import cv2

    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB) if image else None
    if pixels is None:
        raise UserError(f"{where}: an image was expected, found something else or a damaged one")
    return pixels


def _header(path: Path) -> tuple[float | None, str, float | None]:
    """Returns a video file's frame rate, codec and bits for each pixel, by what it says of itself."""
    from i3d_jax.video import opening
    from i3d_jax.video.durations import stated_duration

    with opening.opened(path) as container:
        stream = opening.video_stream(container)
        rate = float(stream.average_rate) if stream.average_rate else None
        frames = stream.frames or float(stated_duration(container, stream).seconds) * (rate or 0)
        pixels = frames * stream.width * stream.height
        return rate, stream.codec_context.name, 8 * files.size(path) / pixels if pixels else None


def _array(path: Path) -> np.ndarray:
    """Maps the array of a .npy or .npz file; nothing in it is executed."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            # A map stays, even of a copy that is removed.
            with opened(path), copies.on_this_machine(path) as found:
                return np.load(found, mmap_mode="r", allow_pickle=False)
        if suffix == ".npz":
            with opened(path), copies.on_this_machine(path) as found:
                return _member(found)
    except UserError:
        raise
    # What is no array is met with exceptions of many kinds.
    except Exception as error:
        raise UserError(f"{path} cannot be read as an array: {' '.join(str(error).split())[:200]}") from None
    raise UserError(
        f"{path}: a folder of videos or a file .npy or .npz was expected; no other file is opened, pickles least of all"
    )


def _member(path: Path) -> np.ndarray:
    """Maps the only array of an .npz file, or reads it where it is compressed."""
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) != 1:
            names = ", ".join(member.filename.removesuffix(".npy") for member in members[:5])
            raise UserError(f"{path}: one array of videos was expected, found {len(members)} ({names})")
        [member] = members
        if member.compress_type != zipfile.ZIP_STORED:
            [array] = read_arrays(path, "videos").values()
            return array
        with archive.open(member) as content:
            version = np.lib.format.read_magic(content)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in read_header:
                raise ValueError(f"its format version is {version}")
            shape, fortran, dtype = read_header[version](content)
            header = content.tell()
        if dtype.hasobject:
            raise ValueError("it holds objects, which are not opened")
        # The local header has a length of its own, which the directory does not tell.
        file.seek(member.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2").astype(int)
        begin = member.header_offset + 30 + int(lengths.sum()) + header
        return np.memmap(path, dtype, "r", begin, shape, "F" if fortran else "C")
