"""Times the features of Fréchet Video Distance beside a plain PyTorch I3D: the same uint8 clips, resize included.

Ours and PyTorch's take turns in one process; compilation and a first run of each are not in the times. PyTorch's is
what the torchscript ports do: `interpolate` of a batch to 224x224, then the network, in float32 on all cores. Needs the
extra `torch`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import machine
import numpy as np
from machine import positive

from i3d_jax.fvd import networks, protocols
from i3d_jax.importers import torch_export
from i3d_jax.system.errors import Failure, run

FRAMES, HEIGHT, WIDTH = 16, 240, 320
EXAMPLE = """\
example:
  python benchmarks/fvd_speed.py --checkpoint checkpoints/rgb_scratch
"""


def main(arguments: Sequence[str]) -> None:
    """Prints clips a second of both, and the ratio of neighbours in time."""
    options = _parser().parse_args(arguments)
    about = machine.about(["jax", "flax", "torch"], gpu=None)
    clips = np.random.default_rng(0).integers(0, 256, (options.clips, FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    ways = {"ours": _ours(options.checkpoint, options.batch_size), "PyTorch": _torch(options.checkpoint)}
    found = {name: way(clips, options.batch_size) for name, way in ways.items()}
    apart = float(np.abs(found["ours"] - found["PyTorch"]).max() / np.abs(found["PyTorch"]).max())
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            # PyTorch's idle threads spin for up to 8 ms after its work.
            time.sleep(0.03)
            began = time.perf_counter()
            way(clips, options.batch_size)
            seconds[name].append(time.perf_counter() - began)
    machine.print_about(about)
    print(f"\nlogits apart by {apart:.1e} of the largest\n\n| | clips/s |\n|---|---:|")
    for name, own in seconds.items():
        print(f"| {name} | {options.clips / statistics.median(own):.2f} |")
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["PyTorch"], strict=True)]
    print(f"\nratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if apart > 1e-3:
        raise Failure("the two do not compute the same")


def _ours(checkpoint: str, batch_size: int) -> Callable:
    network = networks.open_network(checkpoint, allow_checkpoint=False)

    def way(clips, batch_size=batch_size):
        found = networks.features(network, protocols.named("styleganv"), iter(clips), batch_size=batch_size)
        return np.concatenate(list(found))

    return way


def _torch(checkpoint: str) -> Callable:
    import torch
    import torch_models

    network = torch_models.InceptionI3d(400, 3)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch_export.write(Path(checkpoint), weights, target="torch_i3d", stream=None)
        network.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    network.eval()

    def way(clips, batch_size):
        logits = []
        with torch.inference_mode():
            for begin in range(0, len(clips), batch_size):
                frames = torch.from_numpy(clips[begin : begin + batch_size]).flatten(0, 1).permute(0, 3, 1, 2).float()
                resized = torch.nn.functional.interpolate(frames, (224, 224), mode="bilinear", align_corners=False)
                batch = resized.view(-1, FRAMES, 3, 224, 224).transpose(1, 2).contiguous() * (2 / 255) - 1
                logits.append(network(batch).numpy())
        return np.concatenate(logits)

    return way


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", metavar="DIR", required=True, help="the published rgb_scratch")
    parser.add_argument("--clips", metavar="N", type=positive, default=16, help="a run (default: %(default)s)")
    parser.add_argument("--batch_size", metavar="B", type=positive, default=8, help="(default: %(default)s)")
    parser.add_argument("--repeats", metavar="R", type=positive, default=3, help="(default: %(default)s)")
    return parser


if __name__ == "__main__":
    run(main)
