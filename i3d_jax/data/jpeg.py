"""JPEG frames: their size without decoding them, and their pixels exactly."""

from __future__ import annotations

import struct

from i3d_jax.data import cpu_tensorflow

# Start-of-frame markers (ITU-T T.81, table B.1): C0 to CF, without the three that mean something else.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def size(jpeg: bytes) -> tuple[int, int]:
    """Returns (height, width) in pixels from a JPEG's header.

    Raises:
      ValueError: it has no such header.
    """
    if jpeg[:2] != b"\xff\xd8":
        raise ValueError("a JPEG image begins with the bytes FF D8")
    place = 2
    while place + 9 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        if marker in _FRAME_MARKERS:
            return struct.unpack_from(">HH", jpeg, place + 5)
        # A marker may be preceded by any number of fill bytes FF; a segment's length counts itself but not its marker.
        place += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", jpeg, place + 2)[0]
    raise ValueError("a JPEG image has a start-of-frame segment")


def decodes(jpeg: bytes) -> bool:
    """Says whether the bytes are a whole JPEG image; a header alone is not."""
    try:
        decode(jpeg)
    except cpu_tensorflow.load().errors.InvalidArgumentError:
        return False
    return True


def decode(jpeg):
    """Decodes a scalar string tensor to RGB, uint8 [height, width, 3], bit-equal to libjpeg (and OpenCV).

    TensorFlow's default is a fast transform that is up to 15 of 255 off.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are not a whole JPEG image.
    """
    return cpu_tensorflow.load().io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
