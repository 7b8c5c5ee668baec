"""Runs the training runs of a study, each in its own workdir, and reads what they found."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from i3d_jax import checkpoint
from i3d_jax.data.dataset import Dataset, open_dataset
from i3d_jax.evaluation.accuracy import top_k
from i3d_jax.evaluation.fusion import fuse
from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.run import Run, build
from i3d_jax.run import recipe as configuration
from i3d_jax.study.plan import Cell, PlannedRun
from i3d_jax.system import hosts
from i3d_jax.system.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Where things are, and what is changed in every run.

    Attributes:
      output: the folder of the study; a run's workdir is OUTPUT/runs/NAME.
      datasets: the prepared dataset folders by name.
      imagenet: a checkpoint of an image network, None if there is none.
      overrides: changes of every recipe, such as "--config.batch_size=96".
      miniature: whether the recipes are the miniature ones.
    """

    output: Path
    datasets: Mapping[str, Path]
    imagenet: Path | None
    overrides: Sequence[str]
    miniature: bool

    def workdir(self, run: PlannedRun) -> Path:
        """The workdir of a run."""
        return self.output / "runs" / run.name

    def last_checkpoint(self, run: PlannedRun) -> Path:
        """The checkpoint that a run leaves at its end, by its step, so that one trained longer is not taken for it.

        Where the schedule "plateau" may end it before, that is not known: the workdir, whose newest it is.
        """
        recipe = _loaded(self.recipe(run), tuple(self.changes(run)))
        if recipe.optimizer.plateau_stop:
            return self.workdir(run)
        return self.workdir(run) / "checkpoints" / str(recipe.total_steps)

    def check(self, run: PlannedRun) -> None:
        """Raises a `UserError` if its recipe cannot be read, or its workdir was made by another configuration."""
        configuration.refuse_other(_loaded(self.recipe(run), tuple(self.changes(run))), self.workdir(run))

    def build(self, run: PlannedRun) -> Run:
        """Resolves its recipe; a `UserError` says what it lacks."""
        return build(_loaded(self.recipe(run), tuple(self.changes(run))), self.workdir(run))

    def recipe(self, run: PlannedRun) -> str:
        """The recipe of a run."""
        return f"experiments/{run.dataset}.py:{run.variant}{'-miniature' * self.miniature}"

    def changes(self, run: PlannedRun) -> list[str]:
        """What the command line of a run changes in its recipe."""
        changes = [f"--config.data.directory={self.datasets[run.dataset]}"]
        if run.split is not None:
            changes.append(f"--config.data.train_split=train0{run.split}")
        if run.start == "imagenet":
            changes.append(f"--config.init_from={self.imagenet}")
        elif isinstance(run.start, PlannedRun):
            changes.append(f"--config.init_from={self.last_checkpoint(run.start)}")
        return [*changes, *self.overrides]

    def command(self, run: PlannedRun) -> list[str]:
        """The arguments of `i3d_jax.main` for a run."""
        return ["--config", self.recipe(run), "--workdir", str(self.workdir(run)), *self.changes(run)]


def check(study: Study, runs: Sequence[PlannedRun], *, asked: Mapping[str, str], all_named: bool = True) -> None:
    """Looks for what the runs need, before any of them begins.

    Args:
      study: where it should be.
      runs: all of them.
      asked: the flags that name the datasets and the image network, for messages.
      all_named: whether what is not named is missing; else it is passed over, and the workdirs with it.

    Raises:
      UserError: a dataset or the image network is not named, is not there, lacks a split or lacks flow; a recipe has no
        such key as is changed; or a workdir was made by another configuration.
    """
    for name in dict.fromkeys(run.dataset for run in runs):
        own = [run for run in runs if run.dataset == name]
        if name not in study.datasets:
            if not all_named:
                continue
            raise UserError(
                f"the chosen cells need {name}, for {own[0].name}{_and_more(own)}: expected {asked[name]} DIR, "
                "a folder that `python -m i3d_jax.prepare` wrote"
            )
        dataset = open_dataset(study.datasets[name])
        seeing = [run for run in own if run.needs_flow]
        if seeing and dataset.preprocessing.flow is None:
            raise UserError(
                f"{study.datasets[name]} has no flow, which is needed by {seeing[0].name}{_and_more(seeing)}: "
                "add it with `python -m i3d_jax.prepare --flow_only`, or choose cells of RGB"
            )
        _check_splits(dataset, own)
    from_images = [run for run in runs if run.start == "imagenet"]
    if from_images and (all_named or study.imagenet is not None):
        if study.imagenet is None:
            raise UserError(
                f"the chosen cells start from ImageNet, as {from_images[0].name}{_and_more(from_images)}: expected "
                f"{asked['imagenet']} CHECKPOINT, made by `python -m i3d_jax.convert --format slim_inception_v1`"
            )
        if checkpoint.load(study.imagenet)[2]["model"] != "inception_v1":
            raise UserError(f"{asked['imagenet']}: {study.imagenet} is no image network (inception_v1)")
    for run in runs if all_named else ():
        study.check(run)


def _check_splits(dataset: Dataset, runs: Sequence[PlannedRun]) -> None:
    for split in dict.fromkeys(run.split for run in runs if run.split is not None):
        for half in (f"train0{split}", f"test0{split}"):
            if half not in dataset.split_names:
                raise UserError(
                    f"{dataset.directory} has no split {half}, which --splits {split} needs; it has "
                    f"{', '.join(dataset.split_names)}"
                )


def _and_more(runs: Sequence[PlannedRun]) -> str:
    return f" and {len(runs) - 1} more" if len(runs) > 1 else ""


def train_all(study: Study, runs: Sequence[PlannedRun]) -> dict[PlannedRun, str]:
    """Trains the runs that are not finished, one after the other; which it is stands on standard error.

    Args:
      study: where and how.
      runs: each behind the one that it starts from.

    Returns:
      Why each run that failed has failed; the others are finished. With several processes, the same on all.

    Raises:
      UserError: a run failed in one of several processes, and the others cannot go on without it.
    """
    failures: dict[PlannedRun, str] = {}
    for number, run in enumerate(runs, 1):
        title = f"run {number} of {len(runs)}: {run.name}"
        if run.start in failures:
            failures[run] = f"it starts from {run.start.name}, which failed"
            hosts.warn(f"{title} is left out: {failures[run]}")
            continue
        try:
            reason = None
            _train(study, run, title)
        except UserError as error:
            reason = str(error)
        if (reason := hosts.failure_of_any(reason)) is not None:
            failures[run] = reason
            hosts.warn(f"{title} failed: {reason}")
    return failures


def _train(study: Study, run: PlannedRun, title: str) -> None:
    built = study.build(run)
    if _is_finished(built):
        hosts.say(f"{title} is finished")
        return
    hosts.say(title)
    # The tables alone are printed to standard output.
    with contextlib.redirect_stdout(sys.stderr):
        built.train()
    if not _is_finished(built):
        raise UserError(f"{study.workdir(run)} holds no checkpoint of the last step with its result")
    # The next run may start from it.
    hosts.refuse_unshared(checkpoint.find(study.last_checkpoint(run)) / "tree")


def _is_finished(run: Run) -> bool:
    # All look, so that what is wrong is an error on all, and process 0 decides: a network file system may not show the
    # others yet what it has just written.
    return hosts.gather(run.figures() is not None)[0]


@functools.lru_cache(maxsize=256)
def _loaded(name: str, changes: tuple[str, ...]):
    """Reads a recipe once."""
    return configuration.load(name, changes)


def accuracy(study: Study, cell: Cell, failures: Mapping[PlannedRun, str]) -> float | str:
    """The top-1 accuracy of a cell in percent, the mean over its splits; or why there is none.

    Where a cell is of several runs, their logits are added.
    """
    for run in (run for one_sum in cell.sums for run in one_sum):
        if run in failures:
            return f"{run.name}: {failures[run]}"
    try:
        return 100 * sum(_of_split(study, one_sum) for one_sum in cell.sums) / len(cell.sums)
    except UserError as error:
        return str(error)


def _of_split(study: Study, summed: Sequence[PlannedRun]) -> float:
    if len(summed) == 1:
        # The run has ended, or it would be among the failures.
        return cast(Mapping[str, Any], study.build(summed[0]).figures())["top1"]
    files = [study.workdir(run) / "predictions" / f"{study.build(run).evaluation.split}.npz" for run in summed]
    first, second = map(Predictions.load, files)
    fused = fuse(first, second, names=[str(file) for file in files])
    return top_k(fused.logits, fused.label, 1)
