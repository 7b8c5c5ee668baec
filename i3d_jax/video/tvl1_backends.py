"""Who computes TV-L1: OpenCV on a core of the CPU, or JAX, in batches of pairs, on the accelerators of the machine."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import cv2
import numpy as np

from i3d_jax.flow import codec
from i3d_jax.system.errors import UserError

# Pairs in a batch. On an accelerator they share the cost of starting its operations. On a CPU so do pairs of small
# frames, as many as have this number of pixels: eight of 55x73 take 24 ms a pair where one alone takes 34. Larger ones
# would only wait for the slowest of them.
ACCELERATOR_PAIRS = 32
CPU_PIXELS = 32768


def pairs_in_batch(platform: str, height: int, width: int) -> int:
    """Returns how many pairs of frames of a size, in pixels, JAX computes at a time on "cpu", "gpu" or "tpu"."""
    if platform != "cpu":
        return ACCELERATOR_PAIRS
    return max(1, CPU_PIXELS // (height * width))


class Backend(Protocol):
    """Computes the flow of pairs of frames of one size, in their order."""

    def add(self, previous: np.ndarray, following: np.ndarray) -> list[np.ndarray]:
        """Takes a pair of grey frames uint8 [H, W]; returns displacements that are ready, float32 [H, W, 2] pixels."""

    def finish(self) -> list[np.ndarray]:
        """Returns those that have not been returned yet."""


class OpenCV:
    """OpenCV's DualTVL1, a pair on a core.

    Args:
      threads: pairs that are computed at a time. With one, every pair is ready at once.

    Raises:
      UserError: the OpenCV that is installed has none.
    """

    def __init__(self, threads: int = 1):
        refuse_plain_opencv()
        # In DualTVL1 itself a second thread gains nothing.
        cv2.setNumThreads(1)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        # One is for one thread at a time.
        self._idle = [_dual_tvl1() for _ in range(threads)]
        self._running: deque[Future[np.ndarray]] = deque()

    @staticmethod
    def version() -> str:
        """Returns the version of the implementation."""
        return cv2.__version__

    def add(self, previous: np.ndarray, following: np.ndarray) -> list[np.ndarray]:
        """See `Backend`."""
        if self._pool is None:
            return [self._flow(previous, following)]
        self._running.append(self._pool.submit(self._flow, previous, following))
        # Every thread has a next one, and no more frames than that are kept.
        return [self._running.popleft().result()] if len(self._running) > 2 * self._threads else []

    def finish(self) -> list[np.ndarray]:
        """See `Backend`."""
        ready = [one.result() for one in self._running]
        self._running.clear()
        return ready

    def _flow(self, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
        tvl1 = self._idle.pop()
        try:
            # OpenCV's own types lack the None that asks for a new array.
            return tvl1.calc(previous, following, None)  # type: ignore[call-overload]
        finally:
            self._idle.append(tvl1)


def refuse_plain_opencv() -> None:
    """Raises a `UserError` where another package has put its OpenCV, which has no TV-L1, over ours."""
    if not hasattr(cv2, "optflow"):
        raise UserError(
            f"OpenCV {cv2.__version__} with TV-L1 was expected, as opencv-contrib-python-headless has it, found one "
            "without in its place: remove every other OpenCV (pip uninstall opencv-python opencv-python-headless "
            "opencv-contrib-python opencv-contrib-python-headless) and install opencv-contrib-python-headless again"
        )


def _dual_tvl1() -> cv2.optflow.DualTVL1OpticalFlow:
    parameters = codec.TVL1_PARAMETERS
    return cv2.optflow.DualTVL1OpticalFlow.create(
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


class Jax:
    """`flow.tvl1` on every accelerator of the machine in turn, while this process reads the next frames.

    All batches have one size, so that a frame size is compiled once, and a pair has the same flow in any of them.

    Args:
      pairs: in a batch; None for what suits the platform and the frames.
    """

    def __init__(self, pairs: int | None = None):
        # Several processes share a GPU: none may take its memory as a whole. Nothing has been computed here before.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        # Imported late: with OpenCV's flow, JAX need not start.
        import jax

        from i3d_jax import flow

        self._jax, self._tvl1 = jax, flow.tvl1
        devices = jax.local_devices()
        # Processes that share several devices begin with different ones.
        self._devices = deque(devices)
        self._devices.rotate(os.getpid())
        self._pairs = pairs
        self._gathered: list[tuple[np.ndarray, np.ndarray]] = []
        # What the devices are computing: displacements [pairs, H, W, 2], and how many of them are wanted.
        self._running: deque[tuple[Any, int]] = deque()

    @staticmethod
    def version() -> str:
        """Returns the version of the implementation."""
        from i3d_jax.flow.dual_tvl1 import VERSION

        return VERSION

    def add(self, previous: np.ndarray, following: np.ndarray) -> list[np.ndarray]:
        """See `Backend`."""
        self._pairs = self._pairs or pairs_in_batch(self._devices[0].platform, *previous.shape)
        self._gathered.append((previous, following))
        return self._start(self._pairs) if len(self._gathered) == self._pairs else []

    def finish(self) -> list[np.ndarray]:
        """See `Backend`."""
        ready = self._start(self._pairs) if self._gathered and self._pairs else []
        while self._running:
            ready += self._result()
        return ready

    def _start(self, pairs: int) -> list[np.ndarray]:
        """Starts a batch of `pairs`, those gathered; returns the oldest one if every device has its next one by now."""
        previous, following = map(np.stack, zip(*self._gathered, strict=True))
        count = len(previous)
        self._gathered.clear()
        # Equal frames are done at once.
        padding = ((0, pairs - count), (0, 0), (0, 0))
        frames = self._jax.device_put((np.pad(previous, padding), np.pad(following, padding)), self._devices[0])
        self._devices.rotate(1)
        parameters = {{"lambda": "lambda_"}.get(name, name): value for name, value in codec.TVL1_PARAMETERS.items()}
        self._running.append((self._tvl1(*frames, **parameters), count))
        return self._result() if len(self._running) > len(self._devices) else []

    def _result(self) -> list[np.ndarray]:
        displacements, count = self._running.popleft()
        return list(np.asarray(displacements)[:count])


# By the name that stands in a dataset and in a checkpoint.
BACKENDS: dict[str, type[OpenCV] | type[Jax]] = {"opencv": OpenCV, "i3d_jax": Jax}


def description(implementation: str = "opencv") -> dict[str, Any]:
    """Returns what a dataset says of the flow that this installation computes.

    Args:
      implementation: one of `BACKENDS`.
    """
    return codec.description(implementation=implementation, version=BACKENDS[implementation].version())
