"""Optical flow of frames that stream by, as a dataset stores it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import cv2
import numpy as np

from i3d_jax.flow import codec
from i3d_jax.video.tvl1_backends import BACKENDS, OpenCV


class Fields:
    """Computes the field from each frame of a video to the next, as bytes, while the frames stream by.

    Args:
      implementation: whose TV-L1: one of `tvl1_backends.BACKENDS`.
      threads: pairs of frames that OpenCV computes at a time, each on a core.
    """

    def __init__(self, implementation: str, threads: int = 1):
        backend = BACKENDS[implementation]
        self._backend = backend(threads) if backend is OpenCV else backend()
        self._frame: np.ndarray | None = None
        self._grey: np.ndarray | None = None
        self._still: np.ndarray | None = None
        # The fields not yet handed out, in order: of any but a frame that repeats None until it is there.
        self._waiting: deque[np.ndarray | None] = deque()
        self._computed: deque[np.ndarray] = deque()

    def add(self, frame: np.ndarray, *, wanted: bool = True) -> list[np.ndarray]:
        """Takes the next frame and returns the fields that are ready by now, in order; often none.

        Args:
          frame: uint8 RGB [H, W, 3]. The very array of the frame before is known to have the flow 0.
          wanted: whether there is to be a field from the frame before to this one.

        Returns:
          uint8 [H, W, 2] each, as `flow.codec` codes displacements; that of no motion is the very same array each time.
        """
        if frame is self._frame:
            if not wanted:
                return []
            if self._still is None:
                self._still = codec.to_bytes(np.zeros((*frame.shape[:2], 2), np.float32))
            self._waiting.append(self._still)
            return self._ready(())
        previous, self._grey = self._grey, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        self._frame = frame
        if previous is None or not wanted:
            return []
        self._waiting.append(None)
        return self._ready(self._backend.add(previous, self._grey))

    def finish(self) -> list[np.ndarray]:
        """Returns the fields that have not been returned yet."""
        return self._ready(self._backend.finish())

    def _ready(self, displacements: Iterable[np.ndarray]) -> list[np.ndarray]:
        self._computed.extend(displacements)
        fields = []
        while self._waiting and (self._waiting[0] is not None or self._computed):
            still = self._waiting.popleft()
            fields.append(codec.to_bytes(self._computed.popleft()) if still is None else still)
        return fields


class FieldEncoder:
    """Computes and encodes the field from each frame of a video to the next, while the frames stream by.

    A field is stored as a PNG of three channels, R = u, G = v, B = 0: the layout of MediaPipe's flow, and every reader
    that decodes with `tf.io.decode_jpeg` (DMVR's and Scenic's do) takes a PNG too. Measured on 12 pairs of real clips,
    short side 256, as the mean end-point error where the motion is above 2 px (mean of the pairs, largest of a pair):

        PNG                     28.6 kB a field, 0.056 px, 0.062 px (the rounding to bytes alone)
        two grey JPEGs, q 98    18.4 kB          0.074     0.096
        three channels, 4:4:4,
          JPEG q 100            31.4 kB          0.117     0.143
          JPEG q 95             11.7 kB          0.157     0.240

    PNG needs no more room than the JPEG that others read, and a mirrored field is exact. Decoding is what it costs:
    TensorFlow does 600 a second on a core, of the JPEGs 1200 to 1700.

    Args:
      implementation, threads: as of `Fields`.
    """

    def __init__(self, implementation: str, threads: int = 1):
        self._fields = Fields(implementation, threads)
        self._last: tuple[np.ndarray | None, bytes] = (None, b"")

    def add(self, frame: np.ndarray) -> list[bytes]:
        """Takes the next frame and returns, as PNG bytes, the fields that are ready by now; see `Fields.add`."""
        return self._encoded(self._fields.add(frame))

    def finish(self) -> list[bytes]:
        """Returns the fields that have not been returned yet."""
        return self._encoded(self._fields.finish())

    def _encoded(self, fields: Iterable[np.ndarray]) -> list[bytes]:
        encoded = []
        for field in fields:
            if field is not self._last[0]:
                self._last = field, _png(field)
            encoded.append(self._last[1])
        return encoded


def _png(field: np.ndarray) -> bytes:
    """Encodes a field uint8 [H, W, 2]."""
    # OpenCV takes the channels as B, G, R.
    picture = np.dstack([np.zeros_like(field[..., 0]), field[..., 1], field[..., 0]])
    return cv2.imencode(".png", picture)[1].tobytes()
