"""The folder of a study as its runs leave it, without a network: what its page is told by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from i3d_jax.evaluation.predictions import Predictions

PLATEAU = {"plateau_stop": 0, "plateau_patience": 3, "plateau_factor": 0.1}


def leave_run(study: Path, name: str, *, top1=None, interval=None, step=100, total=100, split="test01", width=1.0):
    """Leaves the workdir of a run of `total` steps at a step, with the figures of 50 videos where it has some."""
    workdir = study / "runs" / name
    (workdir / "checkpoints" / str(step) / "tree").mkdir(parents=True)
    (workdir / "checkpoints" / str(step) / "model.json").write_text("{}")
    config = {
        "total_steps": total,
        "model": {"width_multiplier": width},
        "optimizer": PLATEAU,
        "evaluation": {"split": None},
    }
    (workdir / "config.json").write_text(json.dumps(config))
    if top1 is not None:
        figures = {"top1": top1, "top1_interval": interval, "videos": 50, "step": step}
        (workdir / "results.json").write_text(json.dumps({split: figures}))
    return workdir


def leave_predictions(workdir: Path, right: list[list[float]], *, split="test01"):
    """Leaves logits of videos of which each is of the class of its number."""
    logits = np.array(right, np.float32)
    names = np.array([f"video{number}" for number in range(len(right))])
    labels = np.arange(len(right), dtype=np.int32)
    Predictions(video=names, label=labels, logits=logits, stream_logits={}).save(workdir / f"predictions/{split}.npz")


def leave_study(study: Path) -> Path:
    """Leaves an unfinished study: one run with a page of its own, the two streams of I3D, one run under way."""
    c3d = leave_run(study, "ucf101-c3d-split1", top1=0.62, interval=[0.48, 0.76])
    (c3d / "report.html").write_text("<!doctype html><title>3D-ConvNet</title>")
    # Of three videos each stream names one; their sum names two.
    rgb = leave_run(study, "ucf101-i3d_rgb-split1", top1=1 / 3, interval=[0.0, 0.8])
    leave_predictions(rgb, [[3, 0, 0], [2, 1, 0], [2, 0, 1]])
    flow = leave_run(study, "ucf101-i3d_flow-split1", top1=1 / 3, interval=[0.0, 0.5])
    leave_predictions(flow, [[0, 0, 1], [0, 3, 0], [2, 0, 1]])
    leave_run(study, "hmdb51-c3d-split1", step=40)
    return study
