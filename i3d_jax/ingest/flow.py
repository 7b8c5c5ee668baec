"""Optical flow of frames that stream by, by OpenCV's DualTVL1, as a dataset stores it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from i3d_jax.flow import codec


def description() -> dict[str, Any]:
    """Returns what a dataset says of the flow that this installation computes."""
    return codec.description(implementation="opencv", version=cv2.__version__)


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
    """

    def __init__(self):
        # A process for every core is the parallelism; in DualTVL1 a second thread gains nothing.
        cv2.setNumThreads(1)
        parameters = codec.TVL1_PARAMETERS
        self._tvl1 = cv2.optflow.DualTVL1OpticalFlow_create(
            tau=parameters["tau"],
            lambda_=parameters["lambda"],
            theta=parameters["theta"],
            nscales=parameters["scales"],
            warps=parameters["warps"],
            epsilon=parameters["epsilon"],
            innnerIterations=parameters["inner_iterations"],
            outerIterations=parameters["outer_iterations"],
            scaleStep=parameters["scale_step"],
            medianFiltering=parameters["median"],
        )
        self._frame: np.ndarray | None = None
        self._grey: np.ndarray | None = None
        self._still: bytes | None = None

    def next_field(self, frame: np.ndarray) -> bytes | None:
        """Returns the field from the frame before to this one as PNG bytes; None for the first frame.

        Args:
          frame: uint8 RGB [H, W, 3]. The very array of the frame before is known to have the flow 0.
        """
        if frame is self._frame:
            if self._still is None:
                self._still = _png(codec.to_bytes(np.zeros((*frame.shape[:2], 2), np.float32)))
            return self._still
        previous, self._grey = self._grey, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        self._frame = frame
        return None if previous is None else _png(codec.to_bytes(self._tvl1.calc(previous, self._grey, None)))


def _png(field: np.ndarray) -> bytes:
    """Encodes a field uint8 [H, W, 2]."""
    # OpenCV takes the channels as B, G, R.
    picture = np.dstack([np.zeros_like(field[..., 0]), field[..., 1], field[..., 0]])
    return cv2.imencode(".png", picture)[1].tobytes()
