"""The videos of `small_dataset` as sets of TensorFlow Datasets, defined as a user would, built without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from helpers.small_dataset import LABELS, pixels


def video_features() -> dict:
    return {
        "video": tfds.features.Video(shape=(None, None, None, 3)),
        "label": tfds.features.ClassLabel(names=LABELS),
    }


def video_example(video: int, frames: int) -> dict:
    return {"video": pixels(video, frames), "label": LABELS[video % 3]}


def build(
    data_dir: Path,
    lengths: Mapping[str, Sequence[int]],
    *,
    name: str = "small_videos",
    version: str = "1.0.0",
    configuration: str | None = None,
    shards: int | None = None,
    features: Callable[[], dict] = video_features,
    example: Callable[[int, int], dict] = video_example,
) -> None:
    """Builds a set of video0, video1, … of each split's `lengths` of frames, in this order."""

    class SmallVideos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=configuration)] if configuration else []

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features()), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in lengths}

        def _generate_examples(self, split):
            for video, frames in enumerate(lengths[split]):
                yield video, example(video, frames)

    SmallVideos.name = name
    config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=shards)
    SmallVideos(data_dir=data_dir).download_and_prepare(download_config=config)
