"""The seven networks in plain PyTorch, as its users know them, to compare ours with.

They are written from the paper, from the release's layer lists and with the names of the common ports
(piergiaj/pytorch-i3d), not from our own code: a test that finds the two equal compares two implementations.
Clips are float32 [B, channels, T, H, W] with values in [-1, 1], images [B, channels, H, W].

Batch normalisation has PyTorch's gains, which the release's lacks; they are ones until somebody sets them. There is no
dropout. Padding is TensorFlow's SAME.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

BATCH_NORM_EPSILON = 1e-3
# The release's decay of 0.999, as PyTorch counts it.
BATCH_NORM_MOMENTUM = 1e-3


class Layers(NamedTuple):
    """PyTorch's layers of one dimensionality."""

    convolution: type[nn.Module]
    batch_norm: type[nn.Module]
    max_pool: type[nn.Module]


LAYERS = {2: Layers(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d), 3: Layers(nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d)}


class Window(NamedTuple):
    """A row of the trunk, a convolution or, without channels, a max-pool; sizes are (time, height, width)."""

    name: str
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    channels: int | None = None


class Mixed(NamedTuple):
    """A row of the trunk; the channels of b0, b1a, b1b, b2a, b2b and b3b."""

    name: str
    channels: tuple[int, int, int, int, int, int]


# Inception-v1 in TF-Slim's order; an image network leaves the time out.
TRUNK = (
    Window("Conv{}d_1a_7x7", (7, 7, 7), (2, 2, 2), 64),
    Window("MaxPool{}d_2a_3x3", (1, 3, 3), (1, 2, 2)),
    Window("Conv{}d_2b_1x1", (1, 1, 1), (1, 1, 1), 64),
    Window("Conv{}d_2c_3x3", (3, 3, 3), (1, 1, 1), 192),
    Window("MaxPool{}d_3a_3x3", (1, 3, 3), (1, 2, 2)),
    Mixed("Mixed_3b", (64, 96, 128, 16, 32, 32)),
    Mixed("Mixed_3c", (128, 128, 192, 32, 96, 64)),
    Window("MaxPool{}d_4a_3x3", (3, 3, 3), (2, 2, 2)),
    Mixed("Mixed_4b", (192, 96, 208, 16, 48, 64)),
    Mixed("Mixed_4c", (160, 112, 224, 24, 64, 64)),
    Mixed("Mixed_4d", (128, 128, 256, 24, 64, 64)),
    Mixed("Mixed_4e", (112, 144, 288, 32, 64, 64)),
    Mixed("Mixed_4f", (256, 160, 320, 32, 128, 128)),
    Window("MaxPool{}d_5a_2x2", (2, 2, 2), (2, 2, 2)),
    Mixed("Mixed_5b", (256, 160, 320, 32, 128, 128)),
    Mixed("Mixed_5c", (384, 192, 384, 48, 128, 128)),
)
TRUNK_CHANNELS = 1024


class PadSame(nn.Module):
    """Zeros around [B, C, ..., H, W], as TensorFlow's SAME puts them: the odd one goes after.

    For a max-pool zeros are as good as minus infinity, because what is pooled has gone through a ReLU.
    """

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pads to the size from which a window without padding gives ceil(size / stride) values."""
        padding = []
        for size, kernel, stride in zip(x.shape[2:], self.kernel, self.stride, strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            # `F.pad` starts with the last axis.
            padding = [total // 2, total - total // 2, *padding]
        return F.pad(x, padding) if any(padding) else x


def padding_of(kernel: tuple[int, ...], stride: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
    """The layer that pads before a window, and the padding that is left to the window's own operation.

    At stride 1 SAME is the same on both sides for every size, so the operation pads by itself. The ports copy the array
    to pad it there too, which gives the same numbers and takes longer.
    """
    if set(stride) == {1}:
        return nn.Identity(), tuple(taps // 2 for taps in kernel)
    return PadSame(kernel, stride), (0,) * len(kernel)


class Unit(nn.Module):
    """A convolution (named `conv3d` or `conv2d`, without a bias), batch normalisation (`bn`) and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...] | None = None):
        super().__init__()
        dimensions = len(kernel)
        layers, stride = LAYERS[dimensions], stride or (1,) * dimensions
        self.pad, padding = padding_of(kernel, stride)
        self.convolution = f"conv{dimensions}d"
        self.add_module(self.convolution, layers.convolution(inputs, outputs, kernel, stride, padding, bias=False))
        self.bn = layers.batch_norm(outputs, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, ...] to [B, outputs, ...], the convolution alone."""
        return self.get_submodule(self.convolution)(self.pad(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, ...] to [B, outputs, ...]."""
        return F.relu(self.bn(self.convolve(x)), inplace=True)


class MaxPool(nn.Module):
    """A max-pool with SAME padding."""

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__()
        self.pad, padding = padding_of(kernel, stride)
        self.pool = LAYERS[len(kernel)].max_pool(kernel, stride, padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, ...] to [B, C, ...]; each axis becomes ceil(size / stride)."""
        return self.pool(self.pad(x))


class InceptionModule(nn.Module):
    """Four branches side by side: 1x1; 1x1 and 3x3; 1x1 and 3x3; max-pool 3x3 and 1x1."""

    def __init__(self, dimensions: int, inputs: int, channels: tuple[int, ...]):
        super().__init__()
        one, three = (1,) * dimensions, (3,) * dimensions
        b0, b1a, b1b, b2a, b2b, b3b = channels
        self.b0 = Unit(inputs, b0, one)
        self.b1a, self.b1b = Unit(inputs, b1a, one), Unit(b1a, b1b, three)
        self.b2a, self.b2b = Unit(inputs, b2a, one), Unit(b2a, b2b, three)
        self.b3a, self.b3b = MaxPool(three, one), Unit(inputs, b3b, one)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, ...] to [B, b0 + b1b + b2b + b3b, ...]."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class Twin(nn.Module):
    """A network that is called with its inputs, RGB before flow, and gives logits [B, classes]."""

    def clip_losses(self, labels: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each clip with its label (int64 [B]), in nats: [B]."""
        return F.cross_entropy(self(*inputs), labels, reduction="none")


class InceptionTrunk(nn.Module):
    """Inception-v1 up to Mixed_5c, on images (2 dimensions) or inflated, on clips (3)."""

    def __init__(self, dimensions: int, channels: int):
        super().__init__()
        self.trunk = []
        for row in TRUNK:
            match row:
                case Mixed(_, (b0, _, b1b, _, b2b, b3b) as widths):
                    layer, channels = InceptionModule(dimensions, channels, widths), b0 + b1b + b2b + b3b
                case Window(_, kernel, stride, None):
                    layer = MaxPool(kernel[-dimensions:], stride[-dimensions:])
                case Window(_, kernel, stride, outputs):
                    layer, channels = Unit(channels, outputs, kernel[-dimensions:], stride[-dimensions:]), outputs
            name = row.name.format(dimensions)
            self.add_module(name, layer)
            self.trunk.append(name)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """[B, channels, (T,) H, W] to Mixed_5c: [B, 1024, (T / 8,) H / 32, W / 32], each rounded up."""
        for name in self.trunk:
            x = self.get_submodule(name)(x)
        return x


def last_pool(mixed: torch.Tensor) -> torch.Tensor:
    """The average pool 7x7 (of clips 2x7x7) of Mixed_5c, at stride 1: [B, 1024, (T / 8 - 1,) ...].

    A grid below 7x7, from frames below 224 pixels, is averaged as a whole; over a larger one the window slides.
    """
    window = [min(7, size) for size in mixed.shape[-2:]]
    return F.avg_pool2d(mixed, window, 1) if mixed.ndim == 4 else F.avg_pool3d(mixed, [2, *window], 1)


class InceptionV1(InceptionTrunk, Twin):
    """The image network (a 2D ConvNet): 7x7 average pool, classifier, mean over space."""

    def __init__(self, num_classes: int = 400, channels: int = 3):
        super().__init__(2, channels)
        self.logits = nn.Sequential()
        self.logits.add_module("conv2d", nn.Conv2d(TRUNK_CHANNELS, num_classes, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[B, channels, H, W] to logits [B, classes]."""
        return self.logits(last_pool(self.features(image))).mean((2, 3))


class InceptionI3d(InceptionTrunk, Twin):
    """One stream of (e), the inflated network: 2x7x7 average pool, classifier, mean over time."""

    def __init__(self, num_classes: int = 400, channels: int = 3):
        super().__init__(3, channels)
        self.logits = nn.Sequential()
        self.logits.add_module("conv3d", nn.Conv3d(TRUNK_CHANNELS, num_classes, 1))

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """[B, channels, T, H, W] to logits [B, classes]."""
        return self.logits(last_pool(self.features(clip))).mean((2, 3, 4))


class TwoStreamI3d(Twin):
    """(e) whole: the sum of the two streams' logits. The streams are trained apart."""

    def __init__(self, num_classes: int = 400):
        super().__init__()
        self.rgb, self.flow = InceptionI3d(num_classes, 3), InceptionI3d(num_classes, 2)

    def forward(self, rgb: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """RGB [B, 3, T, H, W] and flow [B, 2, T, H, W] to logits [B, classes]."""
        return self.rgb(rgb) + self.flow(flow)

    def clip_losses(self, labels: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """The sum of the two streams' losses: [B]."""
        return sum(stream.clip_losses(labels, clip) for stream, clip in zip((self.rgb, self.flow), inputs, strict=True))


class BatchNormLstm(nn.Module):
    """A batch-normalised LSTM (Cooijmans et al. 2016): gates = BN(x W_x) + BN(h W_h) + b, the cell is not normalised.

    The statistics of the two normalisations are kept for each step; the steps beyond share those of the last. The gates
    stand in the order input, candidate, forget, output, as in DeepMind's Sonnet; 1 is added to the forget gate.
    """

    def __init__(self, inputs: int, units: int, steps: int):
        super().__init__()
        self.units, self.steps = units, steps
        self.input_gates = nn.Linear(inputs, 4 * units, bias=False)
        self.hidden_gates = nn.Linear(units, 4 * units, bias=False)
        self.offset = nn.Parameter(torch.zeros(4 * units))
        for name in ("input", "hidden"):
            self.register_parameter(f"{name}_gain", nn.Parameter(torch.full((4 * units,), 0.1)))
            self.register_buffer(f"{name}_mean", torch.zeros(steps, 4 * units))
            self.register_buffer(f"{name}_variance", torch.ones(steps, 4 * units))

    def normalise(self, name: str, values: torch.Tensor, step: int) -> torch.Tensor:
        """The gates [B, 4 units] of "input" or "hidden", normalised over the batch."""
        mean, variance = (self.get_buffer(f"{name}_{kind}")[step] for kind in ("mean", "variance"))
        gain = self.get_parameter(f"{name}_gain")
        return F.batch_norm(values, mean, variance, gain, None, self.training, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, inputs] to the hidden state after every step [B, T, units]; state and cell start at zero."""
        hidden = cell = x.new_zeros(len(x), self.units)
        gates_of_inputs, states = self.input_gates(x), []
        for time in range(x.shape[1]):
            step = min(time, self.steps - 1)
            gates = (
                self.normalise("input", gates_of_inputs[:, time], step)
                + self.normalise("hidden", self.hidden_gates(hidden), step)
                + self.offset
            )
            entry, candidate, forget, output = gates.chunk(4, 1)
            cell = torch.sigmoid(forget + 1) * cell + torch.sigmoid(entry) * torch.tanh(candidate)
            hidden = torch.sigmoid(output) * torch.tanh(cell)
            states.append(hidden)
        return torch.stack(states, 1)


class ConvLstm(Twin):
    """(a) ConvNet + LSTM: Inception-v1 on each frame, its last average pool, an LSTM of 512 units, a classifier."""

    def __init__(self, num_classes: int = 400, steps: int = 25):
        super().__init__()
        self.convnet = InceptionTrunk(2, 3)
        self.lstm = BatchNormLstm(TRUNK_CHANNELS, 512, steps)
        self.logits = nn.Linear(512, num_classes)

    def step_logits(self, rgb: torch.Tensor) -> torch.Tensor:
        """[B, 3, T, H, W] to the logits of every step [B, T, classes]."""
        frames = rgb.transpose(1, 2)
        features = last_pool(self.convnet.features(frames.flatten(0, 1))).mean((2, 3))
        return self.logits(self.lstm(features.unflatten(0, frames.shape[:2])))

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        """[B, 3, T, H, W] to the logits of the last step [B, classes]."""
        return self.step_logits(rgb)[:, -1]

    def clip_losses(self, labels: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """The mean of the cross-entropies at all steps: [B]."""
        logits = self.step_logits(*inputs)
        return F.cross_entropy(logits.transpose(1, 2), labels[:, None].expand(logits.shape[:2]), reduction="none").mean(
            1
        )


class C3d(Twin):
    """(b) the 3D-ConvNet: a C3D with batch normalisation after every layer and a first pool that halves the time.

    The grid [512, 1, 4, 4] that is left of 16 frames of 112 pixels is flattened in PyTorch's order, channels first.
    """

    # The channels of the convolutions before each of the five pools.
    BLOCKS = ((64,), (128,), (256, 256), (512, 512), (512, 512))

    def __init__(self, num_classes: int = 400):
        super().__init__()
        layers, channels = [], 3
        for block in self.BLOCKS:
            for outputs in block:
                layers.append(Unit(channels, outputs, (3, 3, 3)))
                channels = outputs
            layers.append(MaxPool((2, 2, 2), (2, 2, 2)))
        self.convolutions = nn.Sequential(*layers)
        self.fully_connected = nn.Sequential(*self.connected(8192), *self.connected(4096))
        self.logits = nn.Linear(4096, num_classes)

    @staticmethod
    def connected(inputs: int) -> tuple[nn.Module, ...]:
        """A fully connected layer of 4096 units with batch normalisation and ReLU."""
        norm = nn.BatchNorm1d(4096, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)
        return nn.Linear(inputs, 4096, bias=False), norm, nn.ReLU(inplace=True)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """[B, 3, 16, 112, 112] to logits [B, classes]."""
        return self.logits(self.fully_connected(self.convolutions(clip).flatten(1)))


def flow_stacks(flow: torch.Tensor) -> torch.Tensor:
    """Flow [B, 2, 10 n, H, W] to stacks of ten fields [B n, 20, H, W]: u and v of the first field, then of the next."""
    fields = flow.transpose(1, 2).unflatten(1, (-1, 10))
    return fields.flatten(2, 3).flatten(0, 1)


class TwoStream(Twin):
    """(c) Two-Stream: an image network for a frame, another for ten flow fields; their logits are averaged.

    Whether it is logits or probabilities is open in the paper.
    """

    def __init__(self, num_classes: int = 400):
        super().__init__()
        self.rgb, self.flow = InceptionV1(num_classes, 3), InceptionV1(num_classes, 20)

    def forward(self, rgb: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """RGB [B, 3, n, H, W] and flow [B, 2, 10 n, H, W] to logits [B, classes]."""
        frames = rgb.transpose(1, 2)
        logits = (self.rgb(frames.flatten(0, 1)) + self.flow(flow_stacks(flow))) / 2
        return logits.unflatten(0, frames.shape[:2]).mean(1)


class Fused(Twin):
    """(d) 3D-Fused Two-Stream: the 5x7x7 grids of both image networks, one 3D convolution, a 3D max-pool, a classifier.

    The classifier sees the mean over what the pool leaves (a 512-vector, as the paper's 39M parameters ask for).
    """

    def __init__(self, num_classes: int = 400):
        super().__init__()
        self.rgb, self.flow = InceptionTrunk(2, 3), InceptionTrunk(2, 20)
        self.fusion = Unit(2 * TRUNK_CHANNELS, 512, (3, 3, 3))
        self.pool = MaxPool((3, 3, 3), (2, 2, 2))
        self.logits = nn.Linear(512, num_classes)

    def forward(self, rgb: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """RGB [B, 3, 5, H, W] and flow [B, 2, 50, H, W] to logits [B, classes]."""
        frames = rgb.transpose(1, 2).flatten(0, 1)
        grids = torch.cat([self.rgb.features(frames), self.flow.features(flow_stacks(flow))], 1)
        # [B 5, 2048, 7, 7] to [B, 2048, 5, 7, 7].
        grids = grids.unflatten(0, (len(rgb), 5)).transpose(1, 2)
        return self.logits(self.pool(self.fusion(grids)).mean((2, 3, 4)))


# Under the names that `i3d_jax.models.create` knows.
TWINS: dict[str, type[Twin]] = {
    "inception_v1": InceptionV1,
    "i3d": InceptionI3d,
    "two_stream_i3d": TwoStreamI3d,
    "conv_lstm": ConvLstm,
    "c3d": C3d,
    "two_stream": TwoStream,
    "fused": Fused,
}
