"""Runs the training runs of a study, each in its own workdir, and reads what they found."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ml_collections

from i3d_jax import checkpoint, experiment
from i3d_jax import config as configuration
from i3d_jax.data.dataset import Dataset, open_dataset
from i3d_jax.errors import UserError
from i3d_jax.evaluation import results
from i3d_jax.evaluation.accuracy import top_k
from i3d_jax.evaluation.fusion import fuse
from i3d_jax.evaluation.predictions import Predictions
from i3d_jax.study.plan import Cell, Run
from i3d_jax.training import distributed


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

    def workdir(self, run: Run) -> Path:
        """The workdir of a run."""
        return self.output / "runs" / run.name

    def last_checkpoint(self, run: Run) -> Path:
        """The checkpoint that a run leaves at its end, by its step, so that one trained longer is not taken for it."""
        return self.workdir(run) / "checkpoints" / str(self.configuration(run).total_steps)

    def configuration(self, run: Run) -> ml_collections.ConfigDict:
        """The configuration of a run; a `UserError` says why it cannot be read."""
        return configuration.load(self.recipe(run), self.changes(run))

    def recipe(self, run: Run) -> str:
        """The recipe of a run."""
        return f"experiments/{run.dataset}.py:{run.variant}{'-miniature' * self.miniature}"

    def changes(self, run: Run) -> list[str]:
        """What the command line of a run changes in its recipe."""
        changes = [f"--config.data.directory={self.datasets[run.dataset]}"]
        if run.split is not None:
            changes.append(f"--config.data.train_split=train0{run.split}")
        if run.start == "imagenet":
            changes.append(f"--config.init_from={self.imagenet}")
        elif run.start is not None:
            changes.append(f"--config.init_from={self.last_checkpoint(run.start)}")
        # Runs of one network are compiled once.
        return [*changes, f"--config.compilation_cache={self.output / 'compiled'}", *self.overrides]

    def command(self, run: Run) -> list[str]:
        """The arguments of `i3d_jax.main` for a run."""
        return ["--config", self.recipe(run), "--workdir", str(self.workdir(run)), *self.changes(run)]


def check(study: Study, runs: Sequence[Run], *, asked: Mapping[str, str]) -> None:
    """Looks for what the runs need, before any of them begins.

    Args:
      study: where it should be.
      runs: all of them.
      asked: the flags that name the datasets and the image network, for messages.

    Raises:
      UserError: a dataset or the image network is not named, is not there, lacks a split or lacks flow; a recipe has no
        such key as is changed; or a workdir was made by another configuration.
    """
    for name in dict.fromkeys(run.dataset for run in runs):
        own = [run for run in runs if run.dataset == name]
        if name not in study.datasets:
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
    if from_images and study.imagenet is None:
        raise UserError(
            f"the chosen cells start from ImageNet, as {from_images[0].name}{_and_more(from_images)}: expected "
            f"{asked['imagenet']} CHECKPOINT, made by `python -m i3d_jax.convert --format slim_inception_v1`"
        )
    if from_images and checkpoint.load(study.imagenet)[2]["model"] != "inception_v1":
        raise UserError(f"{asked['imagenet']}: {study.imagenet} is no image network (inception_v1)")
    for run in runs:
        configuration.refuse_other(study.configuration(run), study.workdir(run))


def _check_splits(dataset: Dataset, runs: Sequence[Run]) -> None:
    for split in dict.fromkeys(run.split for run in runs if run.split is not None):
        for half in (f"train0{split}", f"test0{split}"):
            if half not in dataset.split_names:
                raise UserError(
                    f"{dataset.directory} has no split {half}, which --splits {split} needs; it has "
                    f"{', '.join(dataset.split_names)}"
                )


def _and_more(runs: Sequence[Run]) -> str:
    return f" and {len(runs) - 1} more" if len(runs) > 1 else ""


def train_all(study: Study, runs: Sequence[Run], *, train: Callable[[list[str]], None]) -> dict[Run, str]:
    """Trains the runs that are not finished, one after the other; which it is stands on standard error.

    Args:
      study: where and how.
      runs: each behind the one that it starts from.
      train: `i3d_jax.main.main`; what it prints goes to standard error.

    Returns:
      Why each run that failed has failed; the others are finished. With several processes, the same on all.

    Raises:
      UserError: a run failed in one of several processes, and the others cannot go on without it.
    """
    failures: dict[Run, str] = {}
    for number, run in enumerate(runs, 1):
        title = f"run {number} of {len(runs)}: {run.name}"
        if run.start in failures:
            failures[run] = f"it starts from {run.start.name}, which failed"
            distributed.say(f"{title} is left out: {failures[run]}")
            continue
        try:
            reason = None
            _train(study, run, title, train)
        except UserError as error:
            reason = str(error)
        if (reason := distributed.failure_of_any(reason)) is not None:
            failures[run] = reason
            distributed.say(f"{title} failed: {reason}")
    return failures


def _train(study: Study, run: Run, title: str, train: Callable[[list[str]], None]) -> None:
    if _is_finished(study, run):
        distributed.say(f"{title} is finished")
        return
    distributed.say(title)
    with contextlib.redirect_stdout(sys.stderr):
        train(study.command(run))
    if not _is_finished(study, run):
        raise UserError(f"{study.workdir(run)} holds no checkpoint of the last step with its result")
    # The next run may start from it.
    distributed.refuse_unshared(study.last_checkpoint(run) / "tree")


def _is_finished(study: Study, run: Run) -> bool:
    # All look, so that what is wrong is an error on all, and process 0 decides: a network file system may not show the
    # others yet what it has just written.
    return distributed.gather(figures(study, run) is not None)[0]


def figures(study: Study, run: Run) -> Mapping[str, float] | None:
    """The figures of a run at its last step, as its `results.json` holds them; None if it is not finished.

    It is finished with the checkpoint of that step: a run that was killed may have the figures without it.

    Raises:
      UserError: its workdir was made by another configuration, or its recipe cannot be read.
    """
    config, split = _configured(study, run)
    configuration.refuse_other(config, study.workdir(run))
    if not checkpoint.is_whole(study.last_checkpoint(run)):
        return None
    found = results.read(study.workdir(run) / "results.json").get(split, {})
    return found if experiment.recorded_under(config, config.total_steps).items() <= found.items() else None


def _configured(study: Study, run: Run) -> tuple[ml_collections.ConfigDict, str]:
    config = study.configuration(run)
    return config, experiment.evaluation_split(config, open_dataset(study.datasets[run.dataset]))


def accuracy(study: Study, cell: Cell, failures: Mapping[Run, str]) -> float | str:
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


def _of_split(study: Study, summed: Sequence[Run]) -> float:
    if len(summed) == 1:
        return figures(study, summed[0])["top1"]
    files = [study.workdir(run) / "predictions" / f"{_configured(study, run)[1]}.npz" for run in summed]
    fused = fuse(*map(Predictions.load, files), names=[os.fspath(file) for file in files])
    return top_k(fused.logits, fused.label, 1)
