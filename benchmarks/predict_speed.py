"""Times `predict` on one clip beside a plain PyTorch I3D fed by PyAV and OpenCV, each from the command to its answer.

Whole processes in turn, imports included: wall-clock seconds, processor seconds and the largest memory that one had.
"cold" is `predict` with an empty folder for compiled programs, "warm" with the folder that an earlier start has filled.
Needs the extras `all` and `torch`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import machine

HERE = Path(__file__).resolve().parent
EXAMPLE = """\
example:
  python -m i3d_jax.convert --pretrained rgb_scratch --output checkpoints/rgb_scratch
  python benchmarks/predict_speed.py clip.mp4 --checkpoint checkpoints/rgb_scratch --json predict.json
"""
FRAME_RATE, SHORT_SIDE, CROP, FRAMES = 25, 256, 224, 250


def main(arguments: Sequence[str]) -> None:
    """Prints a Markdown table of medians, with the ratio PyTorch's by ours."""
    options = _parser().parse_args(arguments)
    if options.peer:
        return _peer(options.video, Path(options.peer))
    about = machine.about(["jax", "flax", "av", "opencv-contrib-python-headless", "torch"], gpu=None)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        convert = ["--source", options.checkpoint, "--format", "native", "--to", "torch_i3d", "--output", str(weights)]
        subprocess.run([sys.executable, "-m", "i3d_jax.convert", *convert], check=True, stdout=subprocess.DEVNULL)
        ours = ["-m", "i3d_jax.predict", options.video, "--checkpoint", options.checkpoint, "--format", "json"]
        kept = Path(folder) / "kept"
        commands = {
            "PyTorch": ([str(HERE / "predict_speed.py"), options.video, "--peer", str(weights)], None),
            "ours, cold": (ours, None),
            "ours, warm": (ours, kept),
        }
        _process(ours, kept)
        runs = {name: [] for name in commands}
        for number in range(options.repeats):
            for name, (command, cache) in commands.items():
                runs[name].append(_process(command, cache or Path(folder) / f"cold-{number}"))
    medians = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0] if key != "best"}
        for name, found in runs.items()
    }
    machine.print_about(about)
    labels = json.loads((Path(options.checkpoint) / "model.json").read_text())["labels"]
    named = {labels[runs["PyTorch"][0]["best"]], runs["ours, warm"][0]["best"]}
    print(f"\nnamed first, by both: {named.pop()}\n" if len(named) == 1 else f"\nTHE TWO DISAGREE: {named}\n")
    print("| | wall, s | processor, s | memory, GB | PyTorch's processor time by it |")
    print("|---|---:|---:|---:|---:|")
    for name, row in medians.items():
        ratio = medians["PyTorch"]["processor"] / row["processor"]
        print(f"| {name} | {row['wall']:.1f} | {row['processor']:.1f} | {row['memory']:.2f} | {ratio:.2f} |")
    if options.json:
        Path(options.json).write_text(json.dumps({**about, "runs": runs, "medians": medians}, indent=2))


def _process(command: Sequence[str], cache: Path) -> dict[str, float | str]:
    """Runs a Python command to its end; memory in 10^9 bytes, and the class it names first."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": str(HERE.parent)}
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command], stdout=output, env=environment)
        # Of this process alone, which `resource.getrusage` does not tell of one among several.
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        if status:
            raise SystemExit(f"{command} failed")
        output.seek(0)
        best = json.loads(output.read())[0]["predictions"][0]["label"]
    return {
        "wall": wall,
        "processor": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024 / 1e9,
        "best": best,
    }


def _peer(video: str, weights: Path) -> None:
    """What people write: PyAV, OpenCV, the network on 250 frames at once; prints JSON like ours, classes by number."""
    import av
    import cv2
    import numpy as np
    import torch
    import torch_models

    network = torch_models.InceptionI3d(400, 3)
    network.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    network.eval()
    frames, times = [], []
    with av.open(video) as container:
        for frame in container.decode(video=0):
            scale = SHORT_SIDE / min(frame.width, frame.height)
            size = round(frame.width * scale), round(frame.height * scale)
            frames.append(cv2.resize(frame.to_ndarray(format="rgb24"), size, interpolation=cv2.INTER_LINEAR))
            times.append(frame.time)
    nearest = np.searchsorted(times, np.arange(FRAMES) / FRAME_RATE + times[0]).clip(max=len(frames) - 1)
    top, left = (frames[0].shape[0] - CROP) // 2, (frames[0].shape[1] - CROP) // 2
    clip = np.stack([frames[number][top : top + CROP, left : left + CROP] for number in nearest])
    del frames
    with torch.inference_mode():
        inputs = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        probabilities = network(inputs).softmax(-1)[0]
    best = int(probabilities.argmax())
    print(json.dumps([{"video": video, "predictions": [{"label": best, "probability": float(probabilities[best])}]}]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", metavar="VIDEO", help="a clip of ten seconds or more")
    parser.add_argument("--checkpoint", metavar="DIR", help="of an I3D of RGB at full width, with 400 classes")
    parser.add_argument("--repeats", metavar="N", type=machine.positive, default=5, help="(default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="gets the same with every single run, for programs")
    parser.add_argument("--peer", metavar="WEIGHTS", help="be the process in PyTorch, once")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
