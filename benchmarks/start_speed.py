"""Times how long a training step of I3D is in coming: a first start, later ones, and the network's variables.

Processes in turn, on the platform that JAX has by default: float32, a clip of 16x224x224, SGD with momentum. The first
starts with an empty folder for compiled programs, the later ones with what it left there. Then a process that makes the
network's variables without `jit`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine

HERE = Path(__file__).resolve().parent
EXAMPLE = """\
example:
  python benchmarks/start_speed.py --starts 3
"""
FRAMES, SIZE, NUM_CLASSES = 16, 224, 400
PARTS = ("tracing", "program for the compiler", "compiling or loading", "before the first step", "first step")


def main(arguments: Sequence[str]) -> None:
    """Prints a Markdown table of the seconds of each start, and the seconds of the variables."""
    options = _parser().parse_args(arguments)
    if options.process:
        print(json.dumps({"start": _start, "variables": _variables}[options.process]()))
        return
    about = machine.about(["jax", "jaxlib", "flax"], gpu=None)
    with tempfile.TemporaryDirectory() as folder:
        starts = [_in_process("start", folder) for _ in range(options.starts)]
        made = _in_process("variables", folder)["variables"]
    machine.print_about(about)
    print(f"\n| seconds of | {' | '.join(PARTS)} |\n|---|{'---:|' * len(PARTS)}")
    for number, start in enumerate(starts, start=1):
        print(f"| start {number} | {' | '.join(f'{start[part]:.1f}' for part in PARTS)} |")
    print(f"\nThe variables of I3D without jit: {made:.1f} s")
    if options.json:
        Path(options.json).write_text(json.dumps({**about, "starts": starts, "variables": made}, indent=2))


def _in_process(what: str, cache: str) -> dict[str, float]:
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(HERE.parent),
    }
    command = [sys.executable, str(HERE / "start_speed.py"), "--process", what]
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)


def _start() -> dict[str, float]:
    import jax
    import jax.numpy as jnp
    import optax

    from i3d_jax import models
    from i3d_jax.models.purpose import for_default_platform
    from i3d_jax.training.compiler_options import compiled_for
    from i3d_jax.training.state import initial_state
    from i3d_jax.training.step import training_step

    model, optimizer = models.create("i3d", num_classes=NUM_CLASSES), optax.sgd(0.1, 0.9)
    # Zeros do: how long a step takes does not depend on the numbers.
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), models.template(model))
    state = jax.block_until_ready(initial_state(variables, optimizer))
    batch = {
        "rgb": jnp.zeros((1, FRAMES, SIZE, SIZE, 3), jnp.uint8),
        "label": jnp.zeros(1, jnp.int32),
        "mask": jnp.ones(1, bool),
    }
    step = jax.jit(training_step(model, optimizer, seed=0), donate_argnums=0)
    with for_default_platform():
        tracing, traced = _seconds(lambda: step.trace(state, batch))
        lowering, lowered = _seconds(traced.lower)
    platform_version = jax.devices()[0].client.platform_version
    compiling, compiled = _seconds(lambda: compiled_for(platform_version, lowered))
    running, _ = _seconds(lambda: jax.block_until_ready(compiled(state, batch)))
    return dict(zip(PARTS, (tracing, lowering, compiling, tracing + lowering + compiling, running), strict=True))


def _variables() -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from i3d_jax import models

    model, clip = models.create("i3d", num_classes=NUM_CLASSES), {"rgb": jnp.zeros((1, FRAMES, SIZE, SIZE, 3))}
    return {"variables": _seconds(lambda: jax.block_until_ready(model.init(jax.random.key(0), clip)))[0]}


def _seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="writes every time there, too")
    parser.add_argument("--process", choices=("start", "variables"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
