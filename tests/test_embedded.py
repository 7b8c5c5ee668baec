"""The embedded dataset with flow."""

import numpy as np

from i3d_jax.clips import Sampling
from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.pipeline import BatchOptions, evaluation_batches
from i3d_jax.drawn.embedded import make_dataset
from i3d_jax.flow import codec
from i3d_jax.video.tvl1_backends import description


def test_flow_tells_the_motions_apart(tmp_path):
    """Made beside the dataset without flow; where the picture moves, it moves as the action says."""
    plain = make_dataset(tmp_path, videos_per_action=1, crop=16, seed=0, flow=False)
    directory = make_dataset(tmp_path, videos_per_action=1, crop=16, seed=0, flow=True)
    assert (plain.name, directory.name) == ("dataset", "dataset_flow")
    assert open_dataset(plain).preprocessing.flow is None
    dataset = open_dataset(directory)
    assert dataset.preprocessing.flow == description("i3d_jax")
    options = BatchOptions(
        batch_size=8, sampling=Sampling(frames=16), streams=("flow",), crop=16, max_damaged_share=0.0
    )
    (batch,) = evaluation_batches(dataset, "train", options, windows=1)
    flow = {
        dataset.labels[label]: codec.to_pixels(flow) for label, flow in zip(batch["label"], batch["flow"], strict=True)
    }
    for action, channel, sign in [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)]:
        pixels = flow[f"moving {action}"]
        moving = np.hypot(pixels[..., 0], pixels[..., 1]) > 0.3
        assert sign * pixels[moving][:, channel].mean() > 0.1, action
