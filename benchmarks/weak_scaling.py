"""What a training step sends between devices when the batch grows with their number, read from the compiled programs.

    python benchmarks/weak_scaling.py

Nothing is timed: the devices are virtual ones of one machine. The collective operations stand in the program that XLA
compiled, with the shapes of what they work on. A ring, the way in which none has to send more, needs 2 (n - 1) / n of
the bytes that n devices sum from each of them, and (n - 1) / n of those that it gathers.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hlo
import machine
import roofline

from i3d_jax.system import files
from i3d_jax.system.errors import UserError, run


def main(arguments: Sequence[str]) -> None:
    """Compiles I3D's step for 1, 2, 4, … devices in every mode and prints a table."""
    options = _parser().parse_args(arguments)
    if options.devices.bit_count() != 1:
        raise UserError(f"--devices must be a power of two, found {options.devices}")
    if options.json and not options.json.parent.is_dir():
        raise UserError(f"--json: a folder was expected at {options.json.parent}, found none")
    # Read when JAX is first imported.
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={options.devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    header = machine.about(["jax", "flax"], gpu=None)
    machine.print_about(header)
    print(
        "\n| mode | devices | clips | summed, MB | gathered, MB | a device sends, MB | gradients and statistics, MB |",
        flush=True,
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    rows = []
    for row in _rows(options):
        rows.append(row)
        print(
            f"| {row['mode']} | {row['devices']} | {row['clips']} | {row['all-reduce'] / 1e6:.3f} "
            f"| {row['all-gather'] / 1e6:.3f} | {row['ring'] / 1e6:.3f} | {row['expected'] / 1e6:.3f} |",
            flush=True,
        )
    if options.json:
        with files.written_whole(options.json) as file:
            file.write(json.dumps({**header, "rows": rows}, indent=1).encode())


def _rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from i3d_jax import models
    from i3d_jax.training.optimizer import make_optimizer
    from i3d_jax.training.partition import Devices
    from i3d_jax.training.state import initial_state
    from i3d_jax.training.step import training_step

    model = models.create("i3d", 400, width_multiplier=options.width_multiplier)
    optimizer, _ = make_optimizer(name="sgd", learning_rates=(0.1,), boundaries=(), momentum=0.9, weight_decay=1e-7)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), models.template(model))
    gradients, statistics = (
        sum(leaf.nbytes for leaf in jax.tree.leaves(variables[part])) for part in ("params", "batch_stats")
    )
    for mode, shard_state in (("pjit", False), ("pjit", True), ("pmap", False)):
        for number in (2**power for power in range(options.devices.bit_length())):
            devices = Devices(mode=mode, shard_state=shard_state, devices=jax.devices()[:number])
            clips = 2 * number * options.accumulation_steps
            batch = {"rgb": np.zeros((clips, 16, 32, 32, 3), np.uint8)}
            batch |= {"label": np.zeros(clips, np.int32), "mask": np.ones(clips, bool)}
            state = devices.replicate(devices.place(initial_state(variables, optimizer)))
            step = training_step(
                model,
                optimizer,
                seed=0,
                replicas=devices.replicas,
                accumulation_steps=options.accumulation_steps,
            )
            lowered = devices.compile_training_step(step).lower(state, devices.shard_batch(batch))
            # The program is not run.
            program = lowered.compile({"xla_backend_optimization_level": 0})
            sizes = hlo.collectives(hlo.parse(program.as_text()))
            yield {
                "mode": mode + (", split state" if shard_state else ""),
                "devices": number,
                "clips": clips,
                "all-reduce": sizes.get("all-reduce", (0, 0))[1],
                "all-gather": sizes.get("all-gather", (0, 0))[1],
                "ring": sum(roofline.ring_bytes(kind, size, number) for kind, (_, size) in sizes.items()),
                # A channel has two running statistics, and is summed over twice forward and, besides the gradient of
                # its offset, once backward; under pjit, in every microbatch.
                "expected": (gradients + 1.5 * statistics) * options.accumulation_steps
                if mode == "pjit"
                else gradients,
            }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--width_multiplier", metavar="FACTOR", type=float, default=0.125, help="of I3D (default: %(default)s)")
    devices_help = "the most, a power of two (default: %(default)s)"
    add("--devices", metavar="N", type=machine.positive, default=8, help=devices_help)
    steps_help = "microbatches of a step, two clips a device each (default: %(default)s)"
    add("--accumulation_steps", metavar="N", type=machine.positive, default=1, help=steps_help)
    add("--json", metavar="FILE", type=Path, help="write the same, for programs")
    return parser


if __name__ == "__main__":
    run(main)
