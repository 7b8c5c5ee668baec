"""The five architectures on HMDB-51: trained on it alone, or transferred from miniKinetics (or Kinetics).

    python -m i3d_jax.main --config experiments/hmdb51.py:VARIANT --config.data.directory=DATASET \
        --config.init_from=START --workdir WORKDIR

Needs: HMDB-51 prepared by `python -m i3d_jax.prepare --dialect hmdb51`, with `--flow tvl1` for the variants that see
flow. START: of the variants without a protocol a checkpoint of `inception_v1` (ImageNet's, from `convert`; c3d takes
none); of those with `_fixed` or `_full` behind their name the workdir of the same network on miniKinetics
(minikinetics.py:VARIANT), or on Kinetics, or a checkpoint from `convert`.
`_fixed` trains the classifier alone on the network's features, `_full` trains all of it.

This is the first split; `--config.data.train_split=train02` and `train03` are the others. Both streams of I3D together
are two runs and `python -m i3d_jax.fuse`. There is no validation set: the steps and rates are fixed beforehand.

| variant | sees | published top-1, split 1 | with _fixed | with _full |
|---|---|---|---|---|
| conv_lstm | RGB | 36.0 | 46.6 | 46.4 |
| c3d | RGB | 24.3 | 47.5 | 49.4 |
| two_stream_rgb, two_stream_flow | RGB; flow | 43.2, 56.3 | | |
| two_stream | both | 58.3 | 64.0 | 58.7 |
| fused_rgb, fused_flow | RGB; flow | 49.2, 55.5 | | |
| fused | both | 56.8 | 59.0 | 61.4 |
| i3d_rgb, i3d_flow | RGB; flow | 49.8, 61.9 | | |
| the two by `fuse` | both | 66.4 | 74.3 | 75.9 |

Hours: not measured. Computed, at least, for one TPU v5e chip, from the bytes of the compiled steps
(benchmarks/devices.md): conv_lstm .52, c3d .14, two_stream .04, fused .21, i3d_rgb 1.3, each the same with _full;
i3d_flow, if its step moves as much, as i3d_rgb. Of the other variants: not computed.
Bytes: a clip reads its video's record, 30 kB a frame, 59 kB with flow; a second: docs/experiments.md.
"""

from ml_collections import ConfigDict

from experiments import cells

VARIANTS = cells.variants(transfer=True)


def get_config(variant: str = "i3d_rgb") -> ConfigDict:
    """Returns the recipe for `variant`, one of `VARIANTS`, or of these with "-miniature" behind it."""
    return cells.small_dataset("hmdb51.py", variant)
