"""The five architectures on UCF-101: trained on it alone, or transferred from miniKinetics (or Kinetics).

    python -m i3d_jax.main --config experiments/ucf101.py:VARIANT --config.data.directory=DATASET \
        --config.init_from=START --workdir WORKDIR

Needs: UCF-101 prepared by `python -m i3d_jax.prepare --dialect ucf101`, with `--flow tvl1` for the variants that see
flow. START: of the variants without a protocol a checkpoint of `inception_v1` (ImageNet's, from `convert`; c3d takes
none); of those with `_fixed` or `_full` behind their name the workdir of the same network on miniKinetics
(minikinetics.py:VARIANT), or on Kinetics, or a checkpoint from `convert`.
`_fixed` trains the classifier alone on the network's features, `_full` trains all of it.

This is the first split; `--config.data.train_split=train02` and `train03` are the others. Both streams of I3D together
are two runs and `python -m i3d_jax.fuse`. There is no validation set: the steps and rates are fixed beforehand.

| variant | sees | published top-1, split 1 | with _fixed | with _full |
|---|---|---|---|---|
| conv_lstm | RGB | 81.0 | 81.6 | 82.1 |
| c3d | RGB | 51.6 (49.2 in the second table) | 76.0 | 79.9 |
| two_stream_rgb, two_stream_flow | RGB; flow | 83.6, 85.6 | | |
| two_stream | both | 91.2 | 90.3 | 91.5 |
| fused_rgb, fused_flow | RGB; flow | 83.2, 85.8 | | |
| fused | both | 89.3 | 88.5 | 90.1 |
| i3d_rgb, i3d_flow | RGB; flow | 84.5, 90.6 | | |
| the two by `fuse` | both | 93.4 | 95.7 | 96.5 |

Hours: not measured. Computed, at least, for one TPU v5e chip, from the bytes of the compiled steps
(benchmarks/devices.md): conv_lstm .52, c3d .14, two_stream .04, fused .21, i3d_rgb 1.3, each the same with _full;
i3d_flow, if its step moves as much, as i3d_rgb. Of the other variants: not computed.
Bytes: a clip reads its video's record, 5.4 MB on average, 10.6 MB with flow; a second: docs/experiments.md.
"""

from ml_collections import ConfigDict

from experiments import cells

VARIANTS = cells.variants(transfer=True)


def get_config(variant: str = "i3d_rgb") -> ConfigDict:
    """Returns the recipe for `variant`, one of `VARIANTS`, or of these with "-miniature" behind it."""
    return cells.small_dataset("ucf101.py", variant)
