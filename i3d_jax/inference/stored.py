"""Frames and flow of a prepared dataset's records, for the networks that look at videos."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence

from i3d_jax.clips import CHANNELS
from i3d_jax.data.dataset import Dataset
from i3d_jax.data.reader import DamagedRecord, EncodedVideo, VideoOpener
from i3d_jax.records.shards import RecordPlace
from i3d_jax.system.errors import UserError
from i3d_jax.video.decode import UnreadableVideo
from i3d_jax.video.encoded import decode_images
from i3d_jax.video.pictures import Needed, OtherCount, Picture, Source, UnusableTimestamps

# Images: some 4 MB.
_READ_TOGETHER = 128


class StoredFrames:
    """A record's frames and fields, which are pictures already.

    Args:
      video: the record.
      frame_rate: of the dataset.
    """

    def __init__(self, video: EncodedVideo, frame_rate: float):
        self._video = video
        self._frame_rate = frame_rate

    @property
    def frame_rate(self) -> float:
        """See `Source`."""
        return self._frame_rate

    def count(self, most: int | None = None) -> int:
        """See `Source`."""
        return self._video.num_frames

    def about(self) -> float:
        """See `Source`."""
        return self._video.num_frames

    def begin_anew(self, error: OtherCount | UnusableTimestamps) -> None:
        """See `Source`; it is never needed."""
        raise error

    def pictures(self, spans: Sequence[tuple[int, int | None]], needed: Needed) -> Iterator[Picture | int]:
        """See `Source`."""
        count = self._video.num_frames
        wanted = (
            (stream, number)
            for number in range(count)
            for stream in self._video.counts
            if number < count - (stream == "flow") and needed(stream, number)
        )
        try:
            while together := list(itertools.islice(wanted, _READ_TOGETHER)):
                for (stream, number), encoded in zip(together, self._video.images(together), strict=True):
                    [pixels] = decode_images([encoded])
                    yield Picture(stream, number, pixels[..., : CHANNELS[stream]])
        except DamagedRecord as error:
            raise UnreadableVideo(str(error)) from error
        except (ValueError, TypeError) as error:
            raise UnreadableVideo(f"{self._video.place}: an image of it does not decode") from error
        yield count


def records_of(dataset: Dataset, split: str, streams: Collection[str]) -> dict[str, Callable[[], Source]]:
    """Returns what opens each video of a split, by its name.

    Raises:
      UserError: there is no such split, or a record is so damaged that its name is not known.
    """
    frame_rate = float(dataset.preprocessing.frame_rate)

    videos = VideoOpener(dataset, streams)

    def opened(place: RecordPlace) -> Source:
        try:
            video = videos.open(place)
        except DamagedRecord as error:
            raise UnreadableVideo(str(error)) from error
        if "flow" in streams and video.num_frames < 2:
            raise UnreadableVideo("it has one frame, and flow needs two")
        return StoredFrames(video, frame_rate)

    found: dict[str, Callable[[], Source]] = {}
    for place in dataset.records(split):
        name = _name(place, videos)
        if name in found:
            raise UserError(f"{dataset.directory}: two videos of {split!r} are called {name}")
        found[name] = lambda place=place: opened(place)  # type: ignore[misc]
    return found


def _name(place: RecordPlace, videos: VideoOpener) -> str:
    """Returns the name of a record's video; its place where it is damaged, which is told when it is opened."""
    try:
        return videos.open(place).name
    except DamagedRecord:
        return str(place)
