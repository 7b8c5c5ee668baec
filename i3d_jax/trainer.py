"""One run in its workdir: a configuration trained to the end, or the evaluation of what it left."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_collections

from i3d_jax import checkpoint, experiment, fixed, lock, start
from i3d_jax import config as configuration
from i3d_jax.clips import CONSECUTIVE_FRAMES
from i3d_jax.data.dataset import Dataset
from i3d_jax.data.preprocessing import refuse_mismatch
from i3d_jax.errors import Stopped, UserError
from i3d_jax.models.network import Network
from i3d_jax.report.summary import figures_text, stream_rows, summary
from i3d_jax.training import distributed, transfer
from i3d_jax.training.compilation import compiled_at_first, keep_compiled
from i3d_jax.training.logs import MetricsFile, ProgressLines
from i3d_jax.training.loop import EvaluationStopped
from i3d_jax.training.loop import train as train_loop
from i3d_jax.training.optimizer import rates_text
from i3d_jax.training.partition import Devices
from i3d_jax.training.profile import Profile
from i3d_jax.training.state import TrainState, initial_state
from i3d_jax.training.step import check_options, training_step
from i3d_jax.training.termination import Termination


def train(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains to the end, evaluating on the way, and prints what came of it; goes on where the workdir stands.

    Raises:
      UserError: something in the configuration, the dataset or the workdir is not as the run needs it.
      Stopped: SIGTERM ended the run; what there was to save is saved.
    """
    keep_compiled(config.compilation_cache)
    # Of several processes the first writes the workdir, for all of them.
    with lock.held(workdir) if distributed.is_first() else contextlib.nullcontext(), Termination() as termination:
        _train(config, workdir, termination)
    if termination.told:
        # Else whoever trains one run after the other would go on with the next.
        raise Stopped(f"stopped by SIGTERM; {workdir} was trained to the end")


def _train(config: ml_collections.ConfigDict, workdir: Path, termination: Termination) -> None:
    began = time.perf_counter()
    # What the user may have got wrong is found first, before the data is made and again before anything is written.
    start.check_start(config)
    configuration.refuse_other(config, workdir)
    devices = experiment.devices_of(**config.parallel)
    step_options = experiment.step_options(config)
    # First: what it says works for the microbatches works for the devices too.
    check_options(batch_size=config.batch_size, devices=devices.count, **step_options)
    devices.check_batch_size(config.batch_size, key="batch_size")
    experiment.evaluation_batch_size(config)
    cadence = experiment.cadence(config)
    profiled = experiment.profiled_steps(config)
    optimizer, schedule, plateau = experiment.create_optimizer(config)
    newest = max(checkpoint.steps_in(workdir / "checkpoints"), default=None)
    if newest is not None and newest > cadence.total_steps:
        raise UserError(
            f"total_steps is {cadence.total_steps}, and {workdir} was trained for {newest} steps already: expected as "
            "many or more, or another --workdir"
        )
    # A run that goes on needs it no more.
    starts_from = config.init_from if newest is None else None
    if starts_from is not None:
        checkpoint.find(starts_from)
    # What a network takes does not depend on its classes, which the dataset tells.
    model = experiment.create_model(config, num_classes=1)
    experiment.check_clips(config, model)
    dataset = experiment.open_data(config, workdir, flow="flow" in model.streams)
    model = experiment.create_model(config, len(dataset.labels))
    description = experiment.describe(config, dataset, model)
    evaluation = experiment.Evaluation(config, workdir, dataset, model, devices)
    experiment.clips_to_train_on(config, dataset, model, first_clip=0)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", description, keep_last=config.checkpoints.keep_last)
    variables = experiment.draw_variables(config, model)
    if starts_from is not None:
        variables, origin = start.initial_from(config, description, variables)
    optimizer = transfer.restrict(optimizer, transfer.trained(variables["params"], config.transfer.protocol))

    if distributed.is_first():
        configuration.keep(config, workdir)
    # The lock tells this run from those whose files may lie on each host's own disk.
    distributed.refuse_unshared(workdir / "lock", distributed.by_first((workdir / "lock").read_text))
    with checkpoints:
        # Resume, then another run's parameters, then scratch.
        state = initial_state(variables, optimizer, average=config.optimizer.average_decay > 0, plateau=plateau)
        state = devices.place(state)
        steps, evaluation_due = checkpoints.steps(), False
        distributed.refuse_different({"steps": steps}, what=f"checkpoints in {workdir}")
        if steps:
            stored = checkpoints.directory / str(steps[-1])
            _refuse_other_labels(checkpoint.Description.read(stored).labels, dataset, stored)
            state = checkpoints.restore(state)
            due = plateau is None and cadence.evaluates(steps[-1])
            evaluation_due = due and distributed.by_first(lambda: checkpoints.lacks_figures(steps[-1]))
            distributed.say(f"going on from step {steps[-1]} of {workdir}")
        elif starts_from is not None:
            distributed.say(origin)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        distributed.say(
            f"{description.model}: {parameters:,} parameters, {len(dataset.labels)} classes; "
            f"{devices}, {config.batch_size} clips a step"
        )
        distributed.say(
            rates_text(config.optimizer.learning_rates, config.batch_size, config.optimizer.reference_batch_size)
        )

        write = _log(workdir, after_step=int(state.step), total_steps=cadence.total_steps)

        def stop_evaluation() -> None:
            # What the schedule "plateau" makes of the figures is part of the state: there the evaluation is finished.
            if plateau is None and termination.stops_after():
                raise EvaluationStopped

        def evaluate(state: TrainState) -> Mapping[str, float]:
            figures = evaluation(state.variables, int(state.step), stop_evaluation)
            write(int(state.step), evaluation.split, figures)
            return figures

        trained, batches = _to_train(config, workdir, dataset, description, model, state, devices, termination)
        step = training_step(trained, optimizer, seed=config.seed, replicas=devices.replicas, **step_options)
        step = compiled_at_first(devices.compile_training_step(step), distributed.say)
        termination.in_loop()
        with Profile(workdir / "profile", profiled, first_step=int(state.step) + 1, say=distributed.say) as profile:
            state = train_loop(
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
                plateau=plateau,
                interrupted=lambda _: termination.stops_after(),
                evaluation_due=evaluation_due,
            )
        checkpoints.wait()
        finished = int(state.step) == cadence.total_steps
        evaluated = distributed.by_first(lambda: evaluation.is_stored(int(state.step)))
        stopped = Stopped(f"stopped by SIGTERM after step {int(state.step)}, which is saved; start again to go on")
        if not finished or (termination.told and not evaluated):
            raise stopped
        if not evaluated:
            try:
                evaluate(state)
            except EvaluationStopped:
                raise stopped from None
    for damage in batches.damaged:
        print(f"skipped in training: {damage}", file=sys.stderr, flush=True)
    if not distributed.is_first():
        return
    best = checkpoints.best()
    print(summary(config, workdir, dataset, evaluation.split, best=best, seconds=time.perf_counter() - began))


def _refuse_other_labels(labels: Sequence[str], dataset: Dataset, directory: Path) -> None:
    checkpoint.refuse_other_labels(labels, dataset.labels, where=str(directory), other=str(dataset.directory))


def _to_train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    dataset: Dataset,
    description: checkpoint.Description,
    model: Network,
    state: TrainState,
    devices: Devices,
    termination: Termination,
) -> tuple[nn.Module | transfer.Classifiers, Iterator[Mapping[str, Any]]]:
    """Returns what is trained and its batches: the network on clips, or its classifiers on features."""
    if config.transfer.protocol == transfer.FIXED:
        batches = fixed.batches(config, workdir, dataset, description, model, state, devices, termination.between)
        return transfer.Classifiers(model), batches
    return model, experiment.clips_to_train_on(config, dataset, model, first_clip=int(state.clips))


def evaluate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Scores the newest checkpoint of a workdir on the split that the configuration names, and prints the figures.

    Raises:
      UserError: there is no checkpoint, it is of other classes or pixels than the dataset's, or a run is at work in the
        workdir.
      Stopped: SIGTERM ended it.
    """
    keep_compiled(config.compilation_cache)
    directory = checkpoint.find(workdir)
    with lock.held(workdir) if distributed.is_first() else contextlib.nullcontext(), Termination() as termination:
        _evaluate(config, workdir, directory, termination)


def _evaluate(config: ml_collections.ConfigDict, workdir: Path, directory: Path, termination: Termination) -> None:
    model, variables, metadata = checkpoint.load(directory)
    dataset = experiment.open_data(config, workdir, flow="flow" in model.streams)
    _refuse_other_labels(metadata["labels"], dataset, directory)
    refuse_mismatch(
        {**CONSECUTIVE_FRAMES, **metadata["preprocessing"]},
        {**dataset.preprocessing.to_json(), "crop": config.data.crop, "stride": config.data.stride},
        expected_by=str(directory),
        found_in=f"{dataset.directory} as the recipe takes them",
    )
    devices = experiment.devices_of(**config.parallel)
    evaluation = experiment.Evaluation(config, workdir, dataset, model, devices)
    figures = evaluation(devices.place(variables), metadata["provenance"].get("step"), termination.between)
    if not distributed.is_first():
        return
    print(figures_text(evaluation.split, figures))
    for name, text in stream_rows(evaluation.stored()):
        print(f"  {name:12s} {text}")
    print(f"of {directory}; the predictions are in {workdir / 'predictions' / f'{evaluation.split}.npz'}")


def _log(workdir: Path, *, after_step: int, total_steps: int) -> Callable[[int, str, Mapping[str, float]], None]:
    """Returns what takes a line of the log: on the first process for the file, the screen and TensorBoard."""
    writers = []
    if distributed.is_first():
        writers = [
            MetricsFile(workdir / "metrics.jsonl", after_step=after_step),
            ProgressLines(total_steps),
            *_tensorboard(workdir),
        ]

    def write(number: int, split: str, values: Mapping[str, float]) -> None:
        for writer in writers:
            writer.write(number, split, values)

    return write


def _tensorboard(workdir: Path) -> list:
    """Returns a writer of TensorBoard events, none where TensorBoard is not installed."""
    try:
        from i3d_jax.report.tensorboard import TensorBoard
    except ImportError:
        distributed.say("TensorBoard is not installed (extra `report`): metrics go to metrics.jsonl alone")
        return []
    return [TensorBoard(workdir / "tensorboard")]
