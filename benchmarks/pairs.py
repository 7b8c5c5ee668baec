"""What is timed: a network or a layer of ours beside its PyTorch twin, the same work on inputs of the same shape."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import torch
import torch_models
from torch import nn

from i3d_jax import models
from i3d_jax.models import lowering, pooling
from i3d_jax.system.errors import UserError
from i3d_jax.training.compiler_options import compiled_for

NUM_CLASSES = 400
FORWARD, TRAINING = "forward", "forward + backward"
# These normalise vectors over the clips alone, and a single clip has no variance.
AT_LEAST_TWO_CLIPS = ("conv_lstm", "c3d")
# Its first fully connected layer is made for one size of clip.
FIXED_CLIP = ("c3d",)
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Pair:
    """Two ways of doing the same work.

    Attributes:
      name: of the network, or of the layers of this kind and size.
      inputs: their shapes, for people, ours: channels last.
      dtype: "float32" or "bfloat16".
      work: `FORWARD` or `TRAINING`.
      compile_seconds: that XLA took for ours.
      ours, theirs: start the work once; it may still be under way on the device when they return.
      wait: returns when all work that was started is done, given what the last start returned.
    """

    name: str
    inputs: str
    dtype: str
    work: str
    compile_seconds: float
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    wait: Callable[[Any], None]


@dataclass(frozen=True)
class Setting:
    """What all pairs of a run have in common.

    Attributes:
      frames, size: the most frames and pixels a side of a clip; where Table 1 has fewer, those are kept.
      batch: clips.
      channels_last: whether PyTorch's arrays have the channels innermost, or, as its ports do, outermost.
    """

    frames: int
    size: int
    batch: int
    channels_last: bool


@functools.cache
def device() -> torch.device:
    """PyTorch's device of the kind that JAX runs on, set up to be fast.

    Raises:
      UserError: JAX runs on a GPU and PyTorch sees none, or JAX runs on something that PyTorch has no twin of.
    """
    backend = jax.default_backend()
    if backend == "cpu":
        return torch.device("cpu")
    if backend != "gpu":
        raise UserError(f"the twins run on CPUs and GPUs, and JAX runs on {backend}: set JAX_PLATFORMS=cpu")
    if not torch.cuda.is_available():
        raise UserError("JAX runs on a GPU and PyTorch sees none: install its CUDA build or set JAX_PLATFORMS=cpu")
    # Each at its best: cuDNN searches, as XLA does, and float32 products may use TF32, as XLA's do.
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda")


def wait(result: Any) -> None:
    """Returns when everything that was started is done, by JAX (given its last result) and by PyTorch."""
    jax.block_until_ready(result)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def compiled(function: Callable, *arguments: Any) -> tuple[float, Callable[[], Any]]:
    """The seconds that compiling takes, and what runs the compiled function on these arguments.

    It is compiled as runs and scores compile their steps.
    """
    begin = time.perf_counter()
    program = compiled_for(jax.devices()[0].client.platform_version, jax.jit(function).lower(*arguments))
    return time.perf_counter() - begin, functools.partial(program, *arguments)


def to_torch(array: np.ndarray, setting: Setting, **options: Any) -> torch.Tensor:
    """Ours [B, ..., C] as PyTorch's [B, C, ...] on its device."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1))).to(device(), **options)
    return tensor.contiguous(memory_format=CHANNELS_LAST[tensor.ndim]) if setting.channels_last else tensor


def laid_out(module: nn.Module, setting: Setting, **options: Any) -> nn.Module:
    """The module on PyTorch's device, with its kernels laid out as the setting says."""
    module = module.to(device(), **options)
    if setting.channels_last:
        for parameter in module.parameters():
            if parameter.ndim in CHANNELS_LAST:
                parameter.data = parameter.data.contiguous(memory_format=CHANNELS_LAST[parameter.ndim])
    return module


# --- networks ---------------------------------------------------------------------------------------------------------


def model_pairs(name: str, dtype: str, setting: Setting) -> Iterator[Pair]:
    """Forward in evaluation mode, then loss and gradients of all parameters in training mode, without dropout."""
    model = models.create(name, num_classes=NUM_CLASSES, dtype=dtype, dropout_rate=0.0)
    clip = model.training_clip
    frames, size = min(clip.frames, setting.frames), min(clip.size, setting.size)
    if name in FIXED_CLIP:
        frames, size = clip.frames, clip.size
    batch = max(setting.batch, 2) if name in AT_LEAST_TWO_CLIPS else setting.batch
    random = np.random.default_rng(0)
    inputs = {
        stream: random.uniform(-1, 1, (batch, *shape)).astype(np.float32)
        for stream, shape in model.input_shapes(frames, size).items()
    }
    labels = random.integers(NUM_CLASSES, size=batch)
    described = ", ".join(f"{stream} {'x'.join(map(str, clip.shape))}" for stream, clip in inputs.items())
    ours = our_model_work(model, inputs, labels)
    theirs = their_model_work(torch_models.TWINS[name](NUM_CLASSES), inputs, labels, dtype, setting)
    for work, function in theirs.items():
        yield Pair(name, described, dtype, work, *ours[work](), theirs=function, wait=wait)


def our_model_work(model: nn.Module, inputs: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, Callable]:
    """For each kind of work a function that compiles it and returns (seconds, what runs it)."""
    inputs, labels = jax.device_put((inputs, labels))
    variables = jax.jit(model.init)(jax.random.key(0), inputs)

    def forward(variables, inputs):
        return model.apply(variables, inputs)[0]

    def loss(parameters, statistics, inputs, labels):
        of_model = {"params": parameters, "batch_stats": statistics}
        (logits, endpoints), updated = model.apply(of_model, inputs, train=True, mutable=["batch_stats"])
        return model.clip_losses(logits, endpoints, labels).mean(), updated

    training = jax.value_and_grad(loss, has_aux=True)
    state = variables["params"], variables["batch_stats"]
    return {
        FORWARD: functools.partial(compiled, forward, variables, inputs),
        TRAINING: functools.partial(compiled, training, *state, inputs, labels),
    }


def their_model_work(
    model: torch_models.Twin, inputs: dict[str, np.ndarray], labels: np.ndarray, dtype: str, setting: Setting
) -> dict[str, Callable[[], None]]:
    """For each kind of work what runs it."""
    model = laid_out(model, setting)
    tensors = [to_torch(clip, setting) for clip in inputs.values()]
    targets = torch.from_numpy(labels).to(device())
    automatic = functools.partial(torch.autocast, device().type, torch.bfloat16, enabled=dtype == "bfloat16")

    def forward():
        model.eval()
        with torch.inference_mode(), automatic():
            model(*tensors)

    def training():
        model.train()
        model.zero_grad(set_to_none=True)
        with automatic():
            loss = model.clip_losses(targets, *tensors).mean()
        loss.backward()

    return {FORWARD: forward, TRAINING: training}


# --- layers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A kind of convolution or max-pool in I3D.

    Attributes:
      name: of the first such layer, and how many more there are.
      twin: one of them; its weights are still to be made.
      shape: of its input, [B, C, T, H, W].
    """

    name: str
    twin: torch_models.Unit | torch_models.MaxPool
    shape: torch.Size

    @property
    def window(self) -> nn.Module:
        """PyTorch's own layer inside the twin."""
        return self.twin.conv3d if isinstance(self.twin, torch_models.Unit) else self.twin.pool


def distinct_layers(setting: Setting) -> list[Layer]:
    """The convolutions and max-pools of I3D, those of equal kernel, stride, channels and input once."""
    found: dict[tuple, list[Layer]] = {}
    with torch.device("meta"):
        model = torch_models.InceptionI3d(NUM_CLASSES)
        for name, module in model.named_modules():
            if isinstance(module, torch_models.Unit | torch_models.MaxPool):

                def record(module, arguments, name=name):
                    layer = Layer(name, module, arguments[0].shape)
                    weights = tuple(parameter.shape for parameter in layer.window.parameters())
                    key = (layer.window.kernel_size, layer.window.stride, weights, layer.shape)
                    found.setdefault(key, []).append(layer)

                module.register_forward_pre_hook(record)
        model(torch.empty(setting.batch, 3, setting.frames, setting.size, setting.size))
    names = [same[0].name + (f" and {len(same) - 1} more" if same[1:] else "") for same in found.values()]
    return [Layer(name, same[0].twin, same[0].shape) for name, same in zip(names, found.values(), strict=True)]


def layer_pairs(layer: Layer, dtype: str, setting: Setting) -> Iterator[Pair]:
    """A layer alone: forward, then forward and the gradients of its inputs and its kernel.

    The gradient of the first layer's inputs, the clip, is nobody's need and left out.
    """
    random = np.random.default_rng(0)
    batch, channels, *sizes = layer.shape
    inputs = random.uniform(0, 1, (batch, *sizes, channels)).astype(np.float32)
    with_inputs = channels != 3
    window = layer.window
    kernel, strides = tuple(window.kernel_size), tuple(window.stride)
    if isinstance(layer.twin, torch_models.Unit):
        shape = (*kernel, channels, window.out_channels)
        weights = (random.standard_normal(shape).astype(np.float32) / np.prod(shape[:-1]) ** 0.5,)
        padding = lowering.same_padding(sizes, kernel, strides)
        operation = functools.partial(lowering.convolution, strides=strides, padding=padding)
    else:
        weights = ()
        operation = functools.partial(pooling.max_pool, window=kernel, strides=strides)
    ours = our_layer_work(operation, inputs, weights, dtype, with_inputs)
    theirs = their_layer_work(layer.twin, inputs, dtype, setting, with_inputs)
    for work, function in theirs.items():
        yield Pair(layer.name, "x".join(map(str, inputs.shape)), dtype, work, *ours[work](), theirs=function, wait=wait)


def our_layer_work(
    operation: Callable, inputs: np.ndarray, weights: tuple[np.ndarray, ...], dtype: str, with_inputs: bool
) -> dict[str, Callable]:
    """For each kind of work a function that compiles it and returns (seconds, what runs it)."""
    inputs, weights = jax.tree.map(lambda array: jax.numpy.asarray(array, dtype), (inputs, weights))
    gradient = jax.numpy.ones_like(jax.eval_shape(operation, inputs, *weights), dtype)

    def training(inputs, weights, gradient):
        if with_inputs:
            outputs, backward = jax.vjp(operation, inputs, *weights)
        else:
            outputs, backward = jax.vjp(functools.partial(operation, inputs), *weights)
        return outputs, backward(gradient)

    return {
        FORWARD: functools.partial(compiled, operation, inputs, *weights),
        TRAINING: functools.partial(compiled, training, inputs, weights, gradient),
    }


def their_layer_work(
    twin: torch_models.Unit | torch_models.MaxPool, inputs: np.ndarray, dtype: str, setting: Setting, with_inputs: bool
) -> dict[str, Callable[[], None]]:
    """For each kind of work what runs it."""
    twin = laid_out(twin.to_empty(device=device()), setting, dtype=TORCH_DTYPES[dtype])
    for parameter in twin.parameters():
        nn.init.normal_(parameter, std=0.05)
    operation = twin.convolve if isinstance(twin, torch_models.Unit) else twin
    tensor = to_torch(inputs, setting, dtype=TORCH_DTYPES[dtype])

    def forward():
        with torch.inference_mode():
            operation(tensor)

    def training():
        twin.zero_grad(set_to_none=True)
        outputs = operation(tensor.detach().requires_grad_(with_inputs))
        outputs.backward(torch.ones_like(outputs))

    return {FORWARD: forward, TRAINING: training}
