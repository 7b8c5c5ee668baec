"""The videos of `small_dataset` as other programs store them, written with TensorFlow alone.

The keys, the order and the types are those of MediaPipe's `kinetics_dataset.py` with its graph
`tvl1_flow_and_rgb_from_file.pbtxt`, and of DMVR's `generate_from_file.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from helpers.small_dataset import HEIGHT, LABELS, WIDTH, jpegs

SPLIT = "kinetics_700_train_25fps_rgb_flow"


def displacements(video: int, frames: int) -> np.ndarray:
    """Smooth flow, float32 [frames - 1, HEIGHT, WIDTH, 2], some of it beyond 20 pixels."""
    coarse = np.random.default_rng([2, video, frames]).uniform(-24, 24, (frames - 1, 3, 3, 2)).astype(np.float32)
    return np.array([cv2.resize(field, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR) for field in coarse])


def truncated(displacement: np.ndarray) -> np.ndarray:
    """MediaPipe's `FlowQuantizerModel::Apply`, in its float32 arithmetic."""
    share = (displacement.astype(np.float32) - np.float32(-20)) / (np.float32(20) - np.float32(-20))
    return (np.clip(share, np.float32(0), np.float32(1)) * np.float32(255)).astype(np.uint8)


def flow_images(field_bytes: np.ndarray, suffix: str = ".jpg") -> list[bytes]:
    """R = x, G = y, B = 0 at quality 100, by OpenCV, which takes B, G, R."""
    pictures = [np.dstack([0 * field[..., 0], field[..., 1], field[..., 0]]) for field in field_bytes]
    options = [cv2.IMWRITE_JPEG_QUALITY, 100] if suffix == ".jpg" else []
    return [cv2.imencode(suffix, picture, options)[1].tobytes() for picture in pictures]


def mediapipe(video: int, frames: int, *, flow: Sequence[bytes] | None = None) -> tf.train.SequenceExample:
    """A record of MediaPipe's; its flow is `flow`, by default that of `displacements`."""
    example = tf.train.SequenceExample()
    context, lists = example.context.feature, example.feature_lists.feature_list
    context["example/id"].bytes_list.value[:] = [f"video{video}".encode()]
    context["clip/media_id"].bytes_list.value[:] = [b"media"]
    context["clip/alternative_media_id"].bytes_list.value[:] = [b"train"]
    context["clip/data_path"].bytes_list.value[:] = [f"/videos/video{video}.mp4".encode()]
    context["clip/label/string"].bytes_list.value[:] = [LABELS[video % 3].encode()]
    context["clip/label/index"].int64_list.value[:] = [video % 3]
    flow = flow_images(truncated(displacements(video, frames))) if flow is None else flow
    for prefix, images in (("", jpegs(video, frames)), ("FORWARD_FLOW/", flow)):
        for number, image in enumerate(images):
            lists[f"{prefix}image/encoded"].feature.add().bytes_list.value[:] = [image]
            lists[f"{prefix}image/timestamp"].feature.add().int64_list.value[:] = [40_000 * number]
        if images:
            context[f"{prefix}image/format"].bytes_list.value[:] = [b"JPEG"]
            context[f"{prefix}image/channels"].int64_list.value[:] = [3]
            context[f"{prefix}image/height"].int64_list.value[:] = [HEIGHT]
            context[f"{prefix}image/width"].int64_list.value[:] = [WIDTH]
            context[f"{prefix}image/frame_rate"].float_list.value[:] = [1 / np.float32(0.04)]
    return example


def dmvr(video: int, frames: int) -> tf.train.SequenceExample:
    """A record of DMVR's, whose label's index is that of no order in particular."""
    example = tf.train.SequenceExample()
    context = example.context.feature
    context["clip/label/index"].int64_list.value[:] = [(7 * video + 1) % 3]
    context["clip/label/text"].bytes_list.value[:] = [LABELS[video % 3].encode()]
    for image in jpegs(video, frames):
        example.feature_lists.feature_list["image/encoded"].feature.add().bytes_list.value[:] = [image]
    context["video/filename"].bytes_list.value[:] = [f"/videos/video{video}.mp4".encode()]
    context["clip/start/timestamp"].int64_list.value[:] = [0]
    context["clip/end/timestamp"].int64_list.value[:] = [10_000_000]
    return example


def write_records(
    folder: Path,
    lengths: Sequence[int],
    record: Callable[[int, int], tf.train.SequenceExample],
    *,
    shards: int = 2,
    split: str = SPLIT,
) -> Path:
    """Writes video0, video1, … of `lengths` frames, in this order from the first shard to the last."""
    folder.mkdir(exist_ok=True)
    for shard, numbers in enumerate(np.array_split(np.arange(len(lengths)), shards)):
        with tf.io.TFRecordWriter(str(folder / f"{split}-{shard:05d}-of-{shards:05d}")) as writer:
            for video in map(int, numbers):
                writer.write(record(video, lengths[video]).SerializeToString())
    return folder
