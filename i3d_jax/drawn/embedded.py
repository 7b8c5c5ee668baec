"""The embedded dataset as real files: drawn videos, written as H.264, prepared as any others are."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.drawn import actions
from i3d_jax.ingest.annotations import read
from i3d_jax.ingest.local import make_shards
from i3d_jax.ingest.options import DatasetOptions
from i3d_jax.ingest.preparation import prepare_dataset
from i3d_jax.system import progress
from i3d_jax.system.workers import ONE_THREAD
from i3d_jax.video.tvl1_backends import description as flow_description
from i3d_jax.video.write import write_video

# The paper crops 224 pixels from a short side of 256.
SHORT_SIDE_OF_CROP = 256 / 224
# Of the processes that read the videos: an accelerator is this one's, for the training that comes after.
ON_CPU = {**ONE_THREAD, "JAX_PLATFORMS": "cpu"}


def make_dataset(folder: Path, *, videos_per_action: int, crop: int, seed: int, flow: bool) -> Path:
    """Draws videos of the eight actions and prepares them; done again, it does only what is missing.

    Args:
      folder: gets `videos/` with `labels.csv`, and `dataset/`, or `dataset_flow/` with flow.
      videos_per_action: training videos of each action; a quarter as many are drawn for the split "test".
      crop: side in pixels of the crop that training will cut.
      seed: of the drawing.
      flow: whether optical flow is computed too.

    Returns:
      The dataset folder.
    """
    counts = {"train": videos_per_action, "test": max(1, videos_per_action // 4)}
    plan = actions.plan(counts, seed=seed)
    shown = progress.over(plan, "drawing", total=len(plan), unit="videos")
    annotations = actions.draw_dataset(folder / "videos", shown, write_video)
    directory = folder / ("dataset_flow" if flow else "dataset")
    preprocessing = Preprocessing(
        short_side=round(crop * SHORT_SIDE_OF_CROP),
        # In frames as small as these it is more than twice as fast as OpenCV's.
        flow=flow_description("i3d_jax") if flow else None,
    )
    prepare_dataset(
        read("csv", annotations, folder / "videos"),
        folder / "videos",
        directory,
        DatasetOptions(name="synthetic actions", preprocessing=preprocessing),
        # The videos are small: without flow, starting other processes would take longer than they save.
        make_shards=functools.partial(make_shards, processes=(os.cpu_count() or 1) if flow else 1, environment=ON_CPU),
    )
    return directory
