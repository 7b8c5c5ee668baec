"""What the recipes of the paper's tables share; no recipe itself.

They are kinetics.py, minikinetics.py, ucf101.py and hmdb51.py. A variant is ARCHITECTURE_STREAM, on UCF-101 and HMDB-51
followed by _fixed or _full for the transfer from a network of videos. With -miniature behind it, the same recipe is
shrunk to a narrow network on small clips and few steps, for the drawn actions of `python -m i3d_jax.study --miniature`.

Of the paper (v3, section 3): SGD with momentum .9; on Kinetics 110k steps, learning rates tuned on the validation set
and divided by ten when its loss saturates, 32 GPUs (64 for the 3D networks); on UCF-101 and HMDB-51 up to 5k steps on
16 GPUs; 15 clips a GPU for the 3D-ConvNet, whose batch normalisation needs them (section 2.2). Of the release: I3D's
steps and rates, 6 clips a GPU, weight decay 1e-7, dropout .5.
Not published, and our choice: 6 clips a GPU for the other networks too; the rate of the release (.1 for 384 clips) in
proportion to the clips of a step; on UCF-101 and HMDB-51, which have no validation set to tune on, ten times less where
all of a network of videos is trained on; their intervals of constant rates; the same steps on miniKinetics as on
Kinetics.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments import base
from i3d_jax.system.errors import UserError, did_you_mean

# By the beginning of a variant: the architecture and its stream, None where there is no such option.
NETWORKS = {
    "conv_lstm": ("conv_lstm", None),
    "c3d": ("c3d", None),
    "two_stream_rgb": ("two_stream", "rgb"),
    "two_stream_flow": ("two_stream", "flow"),
    "two_stream": ("two_stream", "both"),
    "fused_rgb": ("fused", "rgb"),
    "fused_flow": ("fused", "flow"),
    "fused": ("fused", "both"),
    "i3d_rgb": ("i3d", "rgb"),
    "i3d_flow": ("i3d", "flow"),
}
PROTOCOLS = ("fixed", "full")
MINIATURE = "-miniature"

RELEASE_BATCH = 384
CLIPS_PER_GPU = {"conv_lstm": 6, "c3d": 15, "two_stream": 6, "fused": 6, "i3d": 6}
# GPUs on Kinetics.
GPUS = {"conv_lstm": 32, "c3d": 64, "two_stream": 32, "fused": 32, "i3d": 64}
GPUS_ON_SMALL_DATASETS = 16


def variants(*, transfer: bool) -> tuple[str, ...]:
    """The variants of a recipe, but for the miniatures: with `transfer` those of the protocols too."""
    protocols = ("", *(f"_{protocol}" for protocol in PROTOCOLS)) if transfer else ("",)
    return tuple(network + protocol for network in NETWORKS for protocol in protocols)


def kinetics(recipe: str, variant: str) -> ConfigDict:
    """Returns the configuration of a variant of kinetics.py or minikinetics.py, `recipe` is the file's name."""
    network, _, miniature = _parts(recipe, variant, variants(transfer=False))
    config = _start(network)
    architecture, stream = NETWORKS[network]
    config.batch_size = GPUS[architecture] * CLIPS_PER_GPU[architecture]
    config.optimizer.reference_batch_size = RELEASE_BATCH
    if architecture == "i3d" and recipe == "kinetics.py":
        if stream == "flow":
            config.total_steps = 155_000
            config.optimizer.learning_rates = (0.1, 0.01, 0.001, 0.1, 0.01, 0.001)
            config.optimizer.boundaries = (97_000, 104_500, 115_000, 140_000, 150_000)
    else:
        config.total_steps = 110_000
        config.optimizer.schedule = "plateau"
        config.optimizer.learning_rates = (0.1,)
        config.optimizer.boundaries = ()
    return _miniature(config, network) if miniature else config


def small_dataset(recipe: str, variant: str) -> ConfigDict:
    """Returns the configuration of a variant of ucf101.py or hmdb51.py, `recipe` is the file's name."""
    network, protocol, miniature = _parts(recipe, variant, variants(transfer=True))
    config = _start(network)
    config.transfer.protocol = protocol or "original"
    config.data.train_split = "train01"
    config.total_steps = 5_000
    config.batch_size = GPUS_ON_SMALL_DATASETS * CLIPS_PER_GPU[NETWORKS[network][0]]
    config.optimizer.reference_batch_size = RELEASE_BATCH
    rate = 0.01 if protocol == "full" else 0.1
    config.optimizer.learning_rates = (rate, rate / 10, rate / 100)
    config.optimizer.boundaries = (3_000, 4_500)
    # At the end alone: it is the test split, and nothing may be chosen by it.
    config.evaluation.every = 0
    # In 5,000 steps statistics that keep .999 a step would follow the network too late.
    config.model.batch_norm_decay = 0.99
    return _miniature(config, network) if miniature else config


def _parts(recipe: str, variant: str, known: tuple[str, ...]) -> tuple[str, str, bool]:
    """Takes a variant apart: the network, the protocol ("" for none) and whether it is a miniature."""
    name = variant.removesuffix(MINIATURE)
    if name not in known:
        hint = did_you_mean(name, [one for one in known if one.startswith(name)] or known, cutoff=0)
        raise UserError(
            f"experiments/{recipe} has no variant {variant!r}{hint}; it has {', '.join(known)}, each also with "
            f"{MINIATURE} behind it"
        )
    protocol = next((one for one in PROTOCOLS if name.endswith(f"_{one}")), "")
    return name.removesuffix(f"_{protocol}"), protocol, variant.endswith(MINIATURE)


def _start(network: str) -> ConfigDict:
    """The release's settings for a network, with its clips of the paper's Table 1 (base.py)."""
    architecture, stream = NETWORKS[network]
    config = base.get_config(architecture)
    config.model.dtype = "bfloat16"
    if stream is not None:
        config.model.stream = stream
    return config


# By architecture: frames of a clip, frames of the video from one of them to the next, and windows at test. The drawn
# videos have 20 frames.
_CLIPS = {
    "conv_lstm": (10, 2, 1),
    "c3d": (16, 1, 2),
    "two_stream": (1, 1, 4),
    "fused": (5, 2, 2),
    "i3d": (16, 1, 2),
}
# Steps of the training on miniKinetics, of that on the others from images and with "full", and of "fixed", whose
# features are computed once. RGB of I3D learns little in the first two hundred, and the LSTM learns slowly.
_STEPS = {"i3d_rgb": 400, "i3d_flow": 400, "conv_lstm": 400, "c3d": 400}
# As many on all datasets: the same program, which is compiled once.
_OTHER_STEPS = 120
_STEPS_OF_FIXED = 1000
# Lower where the rate of the others was seen to fail: the fully connected layers of C3D stay where they fell in the
# first steps, and RGB of I3D, with the whole trunk, learns nothing.
_RATES = {"c3d": 0.0003, "i3d_rgb": 0.0007}
_OTHER_RATE = 0.002


def _miniature(config: ConfigDict, network: str) -> ConfigDict:
    """Shrinks a recipe to seconds or a few minutes on two cores; what it starts from and trains stays the same."""
    architecture = NETWORKS[network][0]
    if config.transfer.protocol is None:
        config.total_steps = _STEPS.get(network, _OTHER_STEPS)
    else:
        config.total_steps = _STEPS_OF_FIXED if config.transfer.protocol == "fixed" else _OTHER_STEPS
    config.batch_size = 8
    config.log_every = max(20, config.total_steps // 5)
    # The first layer of C3D sees every pixel of every frame.
    config.model.width_multiplier = 0.125 if architecture == "c3d" else 0.25
    if architecture != "c3d":
        config.model.last_block = "Mixed_3c"
    config.model.dropout_rate = 0.0
    config.model.batch_norm_decay = 0.9
    config.model.dtype = "float32"
    config.data.frames, config.data.stride, config.evaluation.windows = _CLIPS[architecture]
    config.data.crop = 32
    config.data.network_short_side = 0
    # Mirrored, "moving left" is "moving right".
    config.data.flip = False
    if architecture == "conv_lstm":
        config.model.statistics_steps = config.data.frames
    if architecture == "c3d":
        config.model.frame_size = config.data.crop
    # In so few steps SGD does not get over the large gradients of its beginning.
    config.optimizer.name = "adam"
    config.optimizer.schedule = "stepwise"
    config.optimizer.reference_batch_size = None
    rate = _RATES.get(network, _OTHER_RATE)
    config.optimizer.learning_rates = (rate, rate / 10)
    config.optimizer.boundaries = (config.total_steps * 4 // 5,)
    config.evaluation.every = 0
    config.evaluation.batch_size = 16
    config.evaluation.frames = config.data.frames
    config.checkpoints.every = config.total_steps
    config.checkpoints.keep_last = 1
    return config
