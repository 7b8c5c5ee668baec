"""The five architectures on Kinetics-400, from ImageNet or from scratch.

    python -m i3d_jax.main --config experiments/kinetics.py --config.data.directory=DATASET --workdir WORKDIR
    python -m i3d_jax.main --config experiments/kinetics.py:i3d_flow --config.data.directory=DATASET \
        --config.init_from=IMAGENET --workdir WORKDIR

Needs: Kinetics-400 prepared by `python -m i3d_jax.prepare --dialect kinetics`, with `--flow tvl1` for the variants that
see flow, and devices that hold 384 clips at a time (the release: 64 GPUs with 6 each; 192 for the 2D networks, 960 for
c3d). With fewer devices keep the batch, set `accumulation_steps`, or lower `batch_size`: the learning rates follow in
proportion, and to see as many clips, raise `total_steps` and `optimizer.boundaries`, which are in steps. IMAGENET is a
checkpoint of `inception_v1` (`python -m i3d_jax.convert --format slim_inception_v1`); c3d takes none.

`kinetics.py` alone is `i3d_rgb`: the release's RGB recipe, 115k steps; `i3d_flow` its flow recipe, 155k steps. The
others are the paper's: 110k steps, a tenth of the rate when the validation loss saturates.

| variant | sees | published top-1 from ImageNet | from scratch |
|---|---|---|---|
| conv_lstm | RGB | 63.3 | 53.9 |
| c3d | RGB | | 56.1 |
| two_stream_rgb, two_stream_flow, two_stream | RGB; flow; both | 62.2, 52.4, 65.6 | 57.9, 49.6, 62.8 |
| fused_rgb, fused_flow, fused | RGB; flow; both | both: 67.2 | both: 62.7 |
| i3d_rgb | RGB | 71.1 (top-5 89.3) | 68.4 (top-5 88.0) |
| i3d_flow | flow | 63.4 (top-5 84.9) | 61.5 (top-5 83.4) |
| the two by `python -m i3d_jax.fuse` | both | 74.2 (top-5 91.3) | 71.6 (top-5 90.0) |

Hours: not measured. Computed, at least, for one TPU v5e chip (64 chips: a 64th), from the bytes of the compiled steps
(benchmarks/devices.md): conv_lstm 23, c3d 12, two_stream 1.7, fused 9.3, i3d_rgb 123; i3d_flow, if its step moves as
much, 165. Of the other variants: not computed.
Bytes: a clip reads its video's record, 7.5 MB, 14.7 MB with flow; a second: docs/experiments.md.
"""

from ml_collections import ConfigDict

from experiments import cells

VARIANTS = cells.variants(transfer=False)


def get_config(variant: str = "i3d_rgb") -> ConfigDict:
    """Returns the recipe for `variant`, one of `VARIANTS`, or of these with "-miniature" behind it."""
    return cells.kinetics("kinetics.py", variant)
