"""Encoded images, JPEG or PNG: their size without decoding them, and their pixels exactly."""

from __future__ import annotations

import struct

from i3d_jax.data import cpu_tensorflow

# Start-of-frame markers (ITU-T T.81, table B.1): C0 to CF, without the three that mean something else.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# What a PNG begins with: its signature, then length and name of the header chunk (PNG specification, 5.2 and 11.2.2).
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"


def size(image: bytes) -> tuple[int, int]:
    """Returns (height, width) in pixels from the header of a JPEG or PNG image.

    Raises:
      ValueError: it has no such header.
    """
    if image.startswith(_PNG_START) and len(image) >= 24:
        width, height = struct.unpack_from(">II", image, len(_PNG_START))
        return height, width
    if image[:2] != b"\xff\xd8":
        raise ValueError("a JPEG image begins with the bytes FF D8, a PNG image with 89 50 4E 47")
    place = 2
    while place + 9 <= len(image) and image[place] == 0xFF:
        marker = image[place + 1]
        if marker in _FRAME_MARKERS:
            return struct.unpack_from(">HH", image, place + 5)
        # A marker may be preceded by any number of fill bytes FF; a segment's length counts itself but not its marker.
        place += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", image, place + 2)[0]
    raise ValueError("a JPEG image has a start-of-frame segment")


def decodes(image: bytes) -> bool:
    """Says whether the bytes are a whole JPEG or PNG image; a header alone is not."""
    try:
        decode(image)
    except cpu_tensorflow.load().errors.InvalidArgumentError:
        return False
    return True


def decode(image):
    """Decodes a scalar string tensor, JPEG or PNG, to RGB, uint8 [height, width, 3], bit-equal to OpenCV (and libjpeg).

    TensorFlow's default for JPEG is a fast transform that is up to 15 of 255 off.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are not a whole image.
    """
    return cpu_tensorflow.load().io.decode_jpeg(image, channels=3, dct_method="INTEGER_ACCURATE")
