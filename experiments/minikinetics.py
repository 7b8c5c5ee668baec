"""The five architectures on miniKinetics: the last three columns of the first table, and what is transferred from.

    python -m i3d_jax.main --config experiments/minikinetics.py:VARIANT --config.data.directory=DATASET \
        --config.init_from=IMAGENET --workdir WORKDIR

Needs: miniKinetics prepared by `python -m i3d_jax.prepare --dialect kinetics --classes FILE`, with `--flow tvl1` for
the variants that see flow; the slides' 213 classes were never published, the public Mini-Kinetics-200 is near. IMAGENET
is a checkpoint of `inception_v1` (`python -m i3d_jax.convert --format slim_inception_v1`); c3d has none and takes no
`init_from`. The accuracy is that of the validation split.

| variant | sees | published top-1 |
|---|---|---|
| conv_lstm | RGB | 69.9 |
| c3d | RGB | 60.0 |
| two_stream_rgb, two_stream_flow, two_stream | RGB; flow; both | 70.1, 58.4, 72.9 |
| fused_rgb, fused_flow, fused | RGB; flow; both | 71.4, 61.0, 74.0 |
| i3d_rgb, i3d_flow | RGB; flow | 74.1, 69.6 |
| the two by `python -m i3d_jax.fuse` | both | 78.7 |

Hours: not measured. Computed, at least, for one TPU v5e chip (64 chips: a 64th), from the bytes of the compiled steps
(benchmarks/devices.md): conv_lstm 23, c3d 12, two_stream 1.7, fused 9.3, i3d_rgb 117; i3d_flow, if its step moves as
much, the same. Of the other variants: not computed.
Bytes: a clip reads its video's record, 7.5 MB, 14.7 MB with flow; a second: docs/experiments.md.
"""

from ml_collections import ConfigDict

from experiments import cells

VARIANTS = cells.variants(transfer=False)


def get_config(variant: str = "i3d_rgb") -> ConfigDict:
    """Returns the recipe for `variant`, one of `VARIANTS`, or of these with "-miniature" behind it."""
    return cells.kinetics("minikinetics.py", variant)
