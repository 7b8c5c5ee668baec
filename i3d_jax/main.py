"""Trains a recipe to the end, evaluating on the way, or evaluates the checkpoint that it finds.

Started again on the same workdir, training goes on where it stopped. On SIGTERM it saves the step that it is at and
ends with exit code 143.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import ml_collections

from i3d_jax import checkpoint, experiment, lock
from i3d_jax import config as configuration
from i3d_jax.data.preprocessing import refuse_mismatch
from i3d_jax.errors import Stopped, run
from i3d_jax.report.summary import figures_text, stream_rows, summary
from i3d_jax.training import distributed
from i3d_jax.training.logs import MetricsFile, ProgressLines
from i3d_jax.training.loop import train
from i3d_jax.training.optimizer import make_optimizer
from i3d_jax.training.partition import Devices
from i3d_jax.training.profile import Profile
from i3d_jax.training.state import TrainState, initial_state
from i3d_jax.training.step import training_step
from i3d_jax.training.termination import Termination

EXAMPLE = """\
examples:
  python -m i3d_jax.main --config experiments/quickstart.py --workdir runs/quickstart
  python -m i3d_jax.main --config experiments/custom.py:small --config.data.directory=DATASET --config.total_steps=500
  python -m i3d_jax.main --config experiments/custom.py --workdir DIR --mode evaluate --config.evaluation.split=test

experiments/base.py holds every key, with a comment.
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options, overrides = _parser().parse_known_args(arguments)
    distributed.join(options)
    with distributed.explained():
        _run(options, overrides)


def _run(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    config = configuration.load(options.config, overrides)
    distributed.refuse_different({"--mode": options.mode, **configuration.flat(config)}, what="configuration")
    workdir = Path(options.workdir or Path("runs", configuration.recipe_name(options.config)))
    if options.mode == "train":
        # Of several processes the first writes the workdir, for all of them.
        with lock.held(workdir) if distributed.is_first() else contextlib.nullcontext(), Termination() as termination:
            _train(config, workdir, termination)
    else:
        _evaluate(config, workdir)


def _train(config: ml_collections.ConfigDict, workdir: Path, termination: Termination) -> None:
    began = time.perf_counter()
    # What the user may have got wrong is found first, before the data is made and again before anything is written.
    configuration.refuse_other(config, workdir)
    devices = Devices(**config.parallel)
    devices.check_batch_size(config.batch_size, key="batch_size")
    cadence = experiment.cadence(config)
    profiled = experiment.profiled_steps(config)
    optimizer, schedule = make_optimizer(**config.optimizer)
    streams = experiment.create_model(config, num_classes=1).streams
    dataset = experiment.open_data(config, workdir, flow="flow" in streams)
    model = experiment.create_model(config, len(dataset.labels))
    description = experiment.describe(config, dataset, model)
    experiment.check_clips(config, model)
    evaluation = experiment.Evaluation(config, workdir, dataset, model, devices)
    experiment.clips_to_train_on(config, dataset, model, first_clip=0)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", description, keep_last=config.checkpoints.keep_last)
    variables = experiment.draw_variables(config, model)
    if config.init_from is not None:
        variables, start = experiment.initial_from(config, description, variables)

    if distributed.is_first():
        configuration.keep(config, workdir)
    distributed.refuse_unshared(workdir / "config.json")
    with checkpoints:
        # Resume, then another run's parameters, then scratch.
        state = devices.place(initial_state(variables, optimizer))
        steps = checkpoints.steps()
        distributed.refuse_different({"steps": steps}, what=f"checkpoints in {workdir}")
        if steps:
            newest = checkpoints.directory / str(steps[-1])
            experiment.refuse_other_labels(checkpoint.Description.read(newest).labels, dataset, where=str(newest))
            state = checkpoints.restore(state)
            _say(f"going on from step {steps[-1]} of {workdir}")
        elif config.init_from is not None:
            _say(start)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        _say(
            f"{description.model}: {parameters:,} parameters, {len(dataset.labels)} classes; "
            f"{devices}, {config.batch_size} clips a step"
        )

        writers = []
        if distributed.is_first():
            writers = [
                MetricsFile(workdir / "metrics.jsonl", after_step=int(state.step)),
                ProgressLines(cadence.total_steps),
                *_tensorboard(workdir),
            ]

        def write(number: int, split: str, values: Mapping[str, float]) -> None:
            for writer in writers:
                writer.write(number, split, values)

        def evaluate(state: TrainState) -> Mapping[str, float]:
            figures = evaluation(state.variables, int(state.step))
            write(int(state.step), evaluation.split, figures)
            return figures

        step = devices.compile_training_step(
            training_step(model, optimizer, seed=config.seed, replicas=devices.replicas)
        )
        batches = experiment.clips_to_train_on(config, dataset, model, first_clip=int(state.clips))
        termination.in_loop()
        with Profile(workdir / "profile", profiled, first_step=int(state.step) + 1, say=_say) as profile:
            state = train(
                state,
                batches,
                step=profile.around(lambda state, batch: step(state, devices.shard_batch(batch))),
                cadence=cadence,
                learning_rate=schedule,
                evaluate=evaluate,
                keeper=checkpoints,
                spread=devices.spread,
                collect=devices.collect,
                write=write,
                interrupted=termination.stops_after,
            )
        if int(state.step) < cadence.total_steps:
            checkpoints.wait()
            raise Stopped(f"stopped by SIGTERM after step {int(state.step)}, which is saved; start again to go on")
        if distributed.by_first(lambda: evaluation.stored().get("step")) != int(state.step):
            evaluate(state)
        checkpoints.wait()
    for damage in batches.damaged:
        print(f"skipped in training: {damage}", file=sys.stderr, flush=True)
    if not distributed.is_first():
        return
    best = checkpoints.best()
    print(summary(config, workdir, dataset, evaluation.split, best=best, seconds=time.perf_counter() - began))


def _evaluate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    directory = checkpoint.find(workdir)
    model, variables, metadata = checkpoint.load(directory)
    dataset = experiment.open_data(config, workdir, flow="flow" in model.streams)
    experiment.refuse_other_labels(metadata["labels"], dataset, where=str(directory))
    refuse_mismatch(
        metadata["preprocessing"],
        {**dataset.preprocessing.to_json(), "crop": config.data.crop},
        expected_by=str(directory),
        found_in=str(dataset.directory),
    )
    devices = Devices(**config.parallel)
    evaluation = experiment.Evaluation(config, workdir, dataset, model, devices)
    figures = evaluation(devices.place(variables), metadata["provenance"].get("step"))
    if not distributed.is_first():
        return
    print(figures_text(evaluation.split, figures))
    for name, text in stream_rows(evaluation.stored()):
        print(f"  {name:12s} {text}")
    print(f"of {directory}; the predictions are in {workdir / 'predictions' / f'{evaluation.split}.npz'}")


def _tensorboard(workdir: Path) -> list:
    """Returns a writer of TensorBoard events, none where TensorBoard is not installed."""
    try:
        from i3d_jax.report.tensorboard import TensorBoard
    except ImportError:
        _say("TensorBoard is not installed (extra `report`): metrics go to metrics.jsonl alone")
        return []
    return [TensorBoard(workdir / "tensorboard")]


def _say(text: str) -> None:
    if distributed.is_first():
        print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m i3d_jax.main",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE.py[:VARIANT]",
        required=True,
        help="the recipe; --config.KEY=VALUE changes a key of it",
    )
    parser.add_argument(
        "--workdir", metavar="DIR", help="gets checkpoints, metrics and predictions (default: runs/NAME-OF-THE-RECIPE)"
    )
    parser.add_argument(
        "--mode", choices=("train", "evaluate"), default="train", help="what to do (default: %(default)s)"
    )
    distributed.add_flags(parser)
    return parser


if __name__ == "__main__":
    run(main, leave=distributed.leave)
