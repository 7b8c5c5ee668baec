"""Trains a run to the end, evaluating on the way; started again, it goes on where the workdir stands."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from i3d_jax import checkpoint, models
from i3d_jax.data.batches import Batches
from i3d_jax.report import own
from i3d_jax.run import frozen_features, recipe
from i3d_jax.run.run import Run
from i3d_jax.run.summary import summary
from i3d_jax.system import hosts, lock, signals
from i3d_jax.system.errors import Stopped
from i3d_jax.system.preemption import Termination
from i3d_jax.training import transfer
from i3d_jax.training.compilation import compiled_at_first
from i3d_jax.training.logs import MetricsFile, ProgressLines
from i3d_jax.training.loop import Callbacks, EvaluationStopped, Step
from i3d_jax.training.loop import train as train_loop
from i3d_jax.training.profile import Profile
from i3d_jax.training.state import TrainState, initial_state


def train(run: Run) -> None:
    """Does what `Run.train` says."""
    # Of several processes the first writes the workdir, for all of them.
    with (
        lock.held(run.workdir) if hosts.is_first() else contextlib.nullcontext(),
        signals.advised(lambda: _advice(run)),
        Termination() as termination,
    ):
        _train(run, termination)
    if termination.told:
        # A study, which trains one run after the other, is not to go on with the next.
        raise Stopped(f"stopped by SIGTERM; {run.workdir} was trained to the end")


def _advice(run: Run) -> str:
    """Says from where the run goes on; it looks nowhere, since the main thread may hold what Orbax would wait for."""
    newest = run.checkpoints.newest
    return "start again to go on" if newest is None else f"start again to go on from step {newest}"


def _train(run: Run, termination: Termination) -> None:
    variables, origin = _initial_variables(run)
    optimizer = transfer.restrict(
        run.optimization.optimizer, transfer.trained(variables["params"], run.initial.protocol)
    )
    if hosts.is_first():
        recipe.keep(run.resolved, run.workdir)
    # The lock tells this run from those whose files may lie on each host's own disk.
    hosts.refuse_unshared(run.workdir / "lock", hosts.by_first((run.workdir / "lock").read_text))
    with run.checkpoints:
        state, evaluation_due = _begin(run, variables, optimizer, origin)
        _tell_what_is_trained(run, state)
        write = _log(run.workdir, after_step=int(state.step), total_steps=run.cadence.total_steps)

        def stop_evaluation() -> None:
            # What the schedule "plateau" makes of the figures is part of the state: there the evaluation is finished.
            if run.optimization.plateau is None and termination.stops_after():
                raise EvaluationStopped

        def interrupted(_: int) -> bool:
            # Before the first step, which may take minutes to compile, there is nothing new to save.
            termination.in_loop()
            return termination.stops_after()

        def evaluate(state: TrainState) -> Mapping[str, float]:
            figures = run.evaluation(state.variables, int(state.step), stop_evaluation)
            write(int(state.step), run.evaluation.tag, figures)
            return figures

        step, batches = _to_train(run, state, optimizer, termination)
        program = run.devices.compile_training_step(step)
        step = compiled_at_first(program, hosts.say)
        first_step = int(state.step) + 1
        with Profile(run.workdir / "profile", run.profiled, first_step=first_step, say=hosts.say) as profile:
            state = train_loop(
                state,
                batches,
                step=Step(
                    take=profile.around(lambda state, batch: step(state, run.devices.shard_batch(batch))),
                    replicate=run.devices.replicate,
                    merge_replicas=run.devices.merge_replicas,
                ),
                cadence=run.cadence,
                learning_rate=run.optimization.schedule,
                callbacks=Callbacks(
                    evaluate=evaluate,
                    checkpoints=run.checkpoints,
                    write=write,
                    interrupted=interrupted,
                ),
                plateau=run.optimization.plateau,
                evaluation_due=evaluation_due,
            )
        run.checkpoints.wait()
        _finish(run, state, evaluate, termination)
    for damage in batches.damaged:
        print(f"skipped in training: {damage}", file=sys.stderr, flush=True)
    if hosts.is_first():
        if run.reports:
            own.write(run.workdir, run.dataset, run.evaluation.split)
        print(summary(run, best=run.checkpoints.best(), seconds=time.perf_counter() - run.began))


def _initial_variables(run: Run) -> tuple[dict[str, Any], str]:
    """Returns what a run begins with, and one line on where that is from; for one that goes on, zeros in its shapes."""
    if run.checkpoints.steps():
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), models.template(run.network)), ""
    variables = run.draw_variables()
    if run.initial.source is None:
        return variables, ""
    return run.initial.fitted(run.description, variables)


def _begin(
    run: Run, variables: dict[str, Any], optimizer: optax.GradientTransformation, origin: str
) -> tuple[TrainState, bool]:
    """Returns the newest checkpoint's state, else that of the initial variables; and whether an evaluation is due."""
    plateau = run.optimization.plateau
    state = initial_state(variables, optimizer, average=run.optimization.averages, plateau=plateau)
    state = run.devices.place(state)
    steps = run.checkpoints.steps()
    hosts.refuse_different({"steps": steps}, what=f"checkpoints in {run.workdir}")
    if not steps:
        if origin:
            hosts.say(origin)
        return state, False
    stored = run.checkpoints.directory / str(steps[-1])
    checkpoint.refuse_other_labels(
        checkpoint.Description.read(stored).labels,
        run.dataset.labels,
        where=str(stored),
        other=str(run.dataset.directory),
    )
    state = run.checkpoints.restore(state)
    due = plateau is None and run.cadence.evaluates(steps[-1])
    evaluation_due = due and hosts.by_first(lambda: run.checkpoints.lacks_figures(steps[-1]))
    hosts.say(f"going on from step {steps[-1]} of {run.workdir}")
    return state, evaluation_due


def _tell_what_is_trained(run: Run, state: TrainState) -> None:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    hosts.say(
        f"{run.description.model}: {parameters:,} parameters, {len(run.dataset.labels)} classes; "
        f"{run.devices}, {run.clips.options.batch_size} clips a step"
    )
    hosts.say(run.optimization.rates)
    if warning := run.evaluation.seen_in_training(run.clips.split):
        hosts.warn(warning)


def _to_train(
    run: Run, state: TrainState, optimizer: optax.GradientTransformation, termination: Termination
) -> tuple[Callable, Batches | transfer.FeatureBatches]:
    """Returns the training step and its batches: of the network on clips, or of its classifiers on features."""
    if run.initial.protocol == transfer.FIXED:
        features = frozen_features.batches(run.evaluation, run.clips, run.description, state, termination.between)
        for scope, norm in features.norms().items():
            hosts.say(
                f"the features of {scope} have a norm of {norm:.3g} in the mean; they are standardised in training"
            )
        optimizer = transfer.standardised(optimizer, features.statistics)
        return run.make_step(transfer.Classifiers(run.network), optimizer), features
    return run.make_step(run.network, optimizer), run.clips.batches(first_clip=int(state.clips))


def _finish(
    run: Run, state: TrainState, evaluate: Callable[[TrainState], Mapping[str, float]], termination: Termination
) -> None:
    """Makes up for the last evaluation where the workdir lacks it; raises `Stopped` where the run is not finished."""
    step = int(state.step)
    evaluated = hosts.by_first(lambda: run.evaluation.is_stored(step))
    stopped = Stopped(f"stopped by SIGTERM after step {step}, which is saved; start again to go on")
    if not run.ends(step, float(state.rate_scale)) or (termination.told and not evaluated):
        raise stopped
    if not evaluated:
        try:
            evaluate(state)
        except EvaluationStopped:
            raise stopped from None
    if step < run.cadence.total_steps:
        hosts.say(f"training ends at step {step}: the learning rate has fallen as often as optimizer.plateau_stop says")


def _log(workdir: Path, *, after_step: int, total_steps: int) -> Callable[[int, str, Mapping[str, float]], None]:
    """Returns what takes a line of the log: on the first process for the file, the screen and TensorBoard."""
    writers = []
    if hosts.is_first():
        writers = [
            MetricsFile(workdir / "metrics.jsonl", after_step=after_step),
            ProgressLines(total_steps),
            *_tensorboard(workdir, after_step),
        ]

    def write(number: int, split: str, values: Mapping[str, float]) -> None:
        for writer in writers:
            writer.write(number, split, values)

    return write


def _tensorboard(workdir: Path, after_step: int) -> list:
    """Returns a writer of TensorBoard events, none where TensorBoard is not installed."""
    try:
        from i3d_jax.report.tensorboard import TensorBoard
    except ImportError:
        hosts.say("TensorBoard is not installed (extra `report`): metrics go to metrics.jsonl alone")
        return []
    return [TensorBoard(workdir / "tensorboard", after_step=after_step)]
