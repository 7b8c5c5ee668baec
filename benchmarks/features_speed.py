"""Times features of real clips beside a PyTorch I3D fed by PyAV and OpenCV, in turn, from file to vectors.

Both have read their weights, ours has compiled, and both see every frame of each file once, in windows of 16 frames,
the shorter side 256, the middle 224 pixels. Besides: how long ours takes to read the windows alone, and how near the
vectors are: ours are of frames that went through JPEG, as those in training did. Needs the extras `all` and `torch`.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import machine
import numpy as np

WINDOW, STRIDE, SHORT_SIDE, CROP, BATCH = 16, 16, 256, 224, 8
# How PyTorch's arrays lie in memory.
FIRST, LAST = "PyTorch, channels first", "PyTorch, channels last"
EXAMPLE = """\
example:
  python -m i3d_jax.convert --pretrained rgb_scratch --output checkpoints/rgb_scratch
  python benchmarks/features_speed.py videos/*.mp4 --checkpoint checkpoints/rgb_scratch --json features.json
"""


def main(arguments: Sequence[str]) -> None:
    """Prints windows a second of both, medians, with their ratio."""
    options = _parser().parse_args(arguments)
    about = machine.about(["jax", "flax", "av", "opencv-contrib-python-headless", "torch"], gpu=None)
    ours, reading = _ours(options.checkpoint)
    peers = _peers(options.checkpoint)
    # Compiled, and in memory: of the shortest file.
    runs = {"ours": ours, "reading alone": reading, **peers}
    for run in runs.values():
        run(options.videos[:1])
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    vectors = {}
    for _ in range(options.repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            vectors[name] = run(options.videos)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    found, expected = (np.concatenate(vectors[name]) for name in ("ours", LAST))
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (found * expected).sum(1) / lengths
    machine.print_about(about)
    print(f"\n{len(found)} windows of {len(options.videos)} videos; least cosine of two vectors {cosines.min():.5f}\n")
    print("| | seconds | windows a second | its time by ours |")
    print("|---|---:|---:|---:|")
    for name in (*peers, "ours"):
        took = medians[name]
        print(f"| {name} | {took:.1f} | {len(found) / took:.2f} | {took / medians['ours']:.2f} |")
    share = medians["reading alone"] / medians["ours"]
    print(f"\nTo read the windows alone takes ours {medians['reading alone']:.1f} s, {share:.0%} of the whole.")
    if options.json:
        result = {
            **about,
            "seconds": seconds,
            "medians": medians,
            "windows": len(found),
            "cosine": float(cosines.min()),
        }
        Path(options.json).write_text(json.dumps(result, indent=2))


def _ours(directory: str):
    from i3d_jax.inference.batching import Wanted
    from i3d_jax.inference.loaded import LoadedNetwork, sources_of
    from i3d_jax.inference.videos import videos
    from i3d_jax.training.compilation import keep_compiled
    from i3d_jax.video.frames import Frames
    from i3d_jax.video.plans import Sliding
    from i3d_jax.video.windows import windows

    keep_compiled()
    network = LoadedNetwork(directory)
    plan, frames = Sliding(WINDOW, STRIDE), Frames(size=SHORT_SIDE)
    program = network.program(Wanted(""), WINDOW)

    def compute(paths):
        sources = sources_of([network], paths, plan, frames=frames)
        return [np.concatenate(video.results[0]) for video in videos([program], sources, plan, [network.view])]

    def read(paths):
        for source in sources_of([network], paths, plan, frames=frames):
            for _ in windows(source(), plan, [network.view]):
                pass

    return compute, read


def _peers(directory: str):
    import av
    import cv2
    import torch
    import torch_models

    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        convert = ["--source", directory, "--format", "native", "--to", "torch_i3d", "--output", str(weights)]
        subprocess.run([sys.executable, "-m", "i3d_jax.convert", *convert], check=True, stdout=subprocess.DEVNULL)
        network = torch_models.InceptionI3d(400, 3)
        network.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    network.eval()

    def compute(paths, layout):
        return [np.concatenate(list(_batches(path, layout))) for path in paths]

    def _batches(path, layout):
        frames = []
        with av.open(path) as container:
            for frame in container.decode(video=0):
                # As players show it: pixels of a file need not be square.
                shown = frame.width * float(container.streams.video[0].sample_aspect_ratio or 1)
                scale = SHORT_SIDE / min(shown, frame.height)
                size = round(shown * scale), round(frame.height * scale)
                pixels = cv2.resize(frame.to_ndarray(format="rgb24"), size, interpolation=cv2.INTER_LINEAR)
                top, left = (size[1] - CROP) // 2, (size[0] - CROP) // 2
                frames.append(pixels[top : top + CROP, left : left + CROP])
        starts = range(0, len(frames) - WINDOW + 1, STRIDE)
        windows = [np.stack(frames[start : start + WINDOW]) for start in starts]
        for first in range(0, len(windows), BATCH):
            batch = torch.from_numpy(np.stack(windows[first : first + BATCH]))
            with torch.inference_mode():
                inputs = batch.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
                inputs = inputs.contiguous(memory_format=layout)
                yield torch_models.last_pool(network.features(inputs)).mean((2, 3, 4)).numpy()

    layouts = {FIRST: torch.contiguous_format, LAST: torch.channels_last_3d}
    return {name: functools.partial(compute, layout=layout) for name, layout in layouts.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", metavar="VIDEO", nargs="+", help="clips")
    parser.add_argument("--checkpoint", metavar="DIR", required=True, help="of an I3D of RGB, with 400 classes")
    parser.add_argument("--repeats", metavar="N", type=machine.positive, default=3, help="(default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="gets the same with every single run, for programs")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
