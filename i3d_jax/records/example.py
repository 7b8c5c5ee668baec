"""A video as a record holds it: a SequenceExample with MediaSequence keys.

Reference: MediaPipe's `media_sequence.h`.
"""

from __future__ import annotations

import dataclasses

from i3d_jax.flow import codec
from i3d_jax.records import sequence_example_writer
from i3d_jax.records.sequence_example_writer import Value

NAME = "example/id"
DATA_PATH = "clip/data_path"
# What a video is called, the most telling first; MediaPipe's script writes the first three at most, DMVR's the last.
NAMES = (NAME, DATA_PATH, "clip/media_id", "video/filename")
START = "clip/start/timestamp"
END = "clip/end/timestamp"
LABEL_STRING = "clip/label/string"  # MediaSequence's name
LABEL_TEXT = "clip/label/text"  # DMVR's name for the same
LABEL_INDEX = "clip/label/index"
IMAGE_FORMAT = "image/format"
IMAGE_CHANNELS = "image/channels"
IMAGE_HEIGHT = "image/height"
IMAGE_WIDTH = "image/width"
IMAGE_FRAME_RATE = "image/frame_rate"
IMAGE_ENCODED = "image/encoded"
IMAGE_TIMESTAMP = "image/timestamp"
FLOW = "FORWARD_FLOW/"  # the prefix under which flow has the same keys as the frames
FLOW_SATURATION = "FORWARD_FLOW/image/saturation"  # pixels of displacement that the largest byte stands for


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredVideo:
    """One video as a record holds it; picklable, so that a worker process can hand it to the writer.

    Attributes:
      name: unique in the dataset.
      data_path: the source file as the annotations name it.
      label: the action.
      label_index: the label's place in the dataset's list of labels, from 0.
      start_microseconds: where the piece starts in the source file.
      end_microseconds: where it ends.
      frame_rate: frames a second.
      height: pixels.
      width: pixels.
      frames: one RGB JPEG a frame.
      timestamps: microseconds of each frame from the start of the piece.
      flow: one PNG of the frames' size for the field from each frame to the next, one fewer than there are frames, its
        channels u, v and 0 as `flow.codec` codes them; () for a video without flow.
    """

    name: str
    data_path: str
    label: str
    label_index: int
    start_microseconds: int
    end_microseconds: int
    frame_rate: float
    height: int
    width: int
    frames: tuple[bytes, ...]
    timestamps: tuple[int, ...]
    flow: tuple[bytes, ...] = ()


def encode(video: StoredVideo) -> bytes:
    """Returns the video as a serialized `tf.train.SequenceExample`; the same video always gives the same bytes."""

    def images(format_name: bytes) -> dict[str, Value]:
        return {
            IMAGE_FORMAT: format_name,
            IMAGE_CHANNELS: 3,
            IMAGE_HEIGHT: video.height,
            IMAGE_WIDTH: video.width,
        }

    def image_lists(encoded: tuple[bytes, ...]) -> dict[str, tuple[Value, ...]]:
        return {IMAGE_ENCODED: encoded, IMAGE_TIMESTAMP: video.timestamps[: len(encoded)]}

    context = {
        NAME: video.name.encode(),
        DATA_PATH: video.data_path.encode(),
        START: video.start_microseconds,
        END: video.end_microseconds,
        LABEL_STRING: video.label.encode(),
        LABEL_TEXT: video.label.encode(),
        LABEL_INDEX: video.label_index,
        IMAGE_FRAME_RATE: float(video.frame_rate),
        **images(b"JPEG"),
    }
    feature_lists = image_lists(video.frames)
    if video.flow:
        context |= {FLOW + key: value for key, value in images(b"PNG").items()}
        context[FLOW_SATURATION] = codec.BOUND
        feature_lists |= {FLOW + key: values for key, values in image_lists(video.flow).items()}
    return sequence_example_writer.serialize(context, feature_lists)
