"""A PyTorch data set of videos as the common ones are: PyAV decodes a random window of a file when asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from torch.utils.data import Dataset


class Videos(Dataset):
    """Clip n is a random window of file n modulo their number: uint8 [frames, crop, crop, 3].

    The file is entered at the key frame before the window; what stands between is decoded and dropped. FFmpeg scales
    (bilinear, short side `short_side`) and converts to RGB only the frames that are kept.
    """

    def __init__(self, paths: Sequence[Path], *, clips: int, frames: int, short_side: int, crop: int):
        self._paths = list(paths)
        self._clips = clips
        self._frames = frames
        self._short_side = short_side
        self._crop = crop

    def __len__(self) -> int:
        return self._clips

    def __getitem__(self, number: int) -> torch.Tensor:
        random = np.random.default_rng(number)
        frames = self._window(self._paths[number % len(self._paths)], random.random())
        top, left = (
            int(draw * (side - self._crop + 1)) for draw, side in zip(random.random(2), frames.shape[1:3], strict=True)
        )
        clip = torch.from_numpy(frames)[:, top : top + self._crop, left : left + self._crop]
        return clip.flip(2) if random.random() < 0.5 else clip.contiguous()

    def _window(self, path: Path, draw: float) -> np.ndarray:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"  # The workers are the parallelism.
            rate = float(stream.average_rate)
            total = stream.frames or int((container.duration or 0) / av.time_base * rate)
            first = int(draw * (max(total - self._frames, 0) + 1))
            if first:
                container.seek(int(first / rate / stream.time_base), stream=stream)
            scale = self._short_side / min(stream.width, stream.height)
            size = {"width": round(stream.width * scale), "height": round(stream.height * scale)}
            kept = []
            for frame in container.decode(stream):
                if frame.time is not None and frame.time * rate < first - 0.5:
                    continue
                kept.append(frame.reformat(**size, format="rgb24", interpolation="BILINEAR").to_ndarray())
                if len(kept) == self._frames:
                    break
        # Fewer are there where the header counts more frames than the file holds: they are looped.
        return np.stack([kept[place % len(kept)] for place in range(self._frames)])
