"""The checkpoints of a run: written beside the training, the best and the last few kept.

Orbax's `CheckpointManager` has policies for that, but writes folders of its own: `STEP/ITEM/`, with its metrics and its
metadata. The published format is `STEP/model.json` beside `STEP/tree/` (`checkpoint`), the same for a run's checkpoint
and for one that `convert` wrote, and the manager has no place for a file beside its items. Nor can it add the figures
of an evaluation to a step that was kept without them, as a run that was stopped in an evaluation needs it. So what is
kept is decided here, in a few lines, and the writing is Orbax's `AsyncCheckpointer`. Into a bucket process 0 writes
them alone (`checkpoint.save_in_bucket`): the arrays of all processes, which it needs for the checksums anyway.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from i3d_jax import checkpoint
from i3d_jax.system import files, hosts
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import make_folder
from i3d_jax.training.state import TrainState


def check_keep_last(keep_last: int) -> None:
    """Raises a `UserError` unless at least one of the newest checkpoints is kept."""
    if keep_last < 1:
        raise UserError(f"checkpoints.keep_last must be at least 1, found {keep_last}")


class Checkpoints:
    """The checkpoints of a run: written beside the training, the best and the last few kept.

    The best is the one whose `provenance.metrics.top1` is highest (the later of equals); only those saved with metrics
    can be it.
    """

    def __init__(self, directory: Path, description: checkpoint.Description, *, keep_last: int):
        """Names a folder of checkpoints; nothing is written before the `with` block begins.

        Args:
          directory: `WORKDIR/checkpoints`.
          description: what every checkpoint's model.json says, besides the step and its metrics.
          keep_last: how many of the newest are kept, at least 1.
        """
        check_keep_last(keep_last)
        self.directory = files.path(directory).resolve()
        # The newest that is whole, None before the `with` block and where there is none: for whoever may not look.
        self.newest: int | None = None
        self._in_bucket = files.is_in_bucket(self.directory)
        self._description = description
        self._keep_last = keep_last
        self._begun: int | None = None

    def __enter__(self) -> Checkpoints:
        """Makes the folder, or takes it over: what a crash left half-written in it is removed."""
        checkpoint.tell_once()
        self._writer: ocp.AsyncCheckpointer | _BucketWriter
        if self._in_bucket:
            self._writer = _BucketWriter()
        else:
            self._writer = ocp.AsyncCheckpointer(
                ocp.CompositeCheckpointHandler(),
                async_options=ocp.options.AsyncOptions(post_finalization_callback=self._finished),
            )
        make_folder(self.directory)
        if hosts.is_first():
            for entry in self.directory.iterdir():
                if entry.name.isdigit() and not checkpoint.is_whole(entry):
                    files.remove_folder(entry)
        hosts.wait()
        self.newest = max(self.steps(), default=None)
        return self

    def __exit__(self, _, error: BaseException | None, __) -> None:
        # A write needs every process; one that fails may be the only one that comes here.
        if error is None or jax.process_count() == 1:
            self._writer.close()

    def steps(self) -> list[int]:
        """The steps of the whole checkpoints, rising."""
        return checkpoint.steps_in(self.directory)

    def best(self) -> int | None:
        """The step of the best checkpoint, None where none was saved with metrics."""
        return checkpoint.best_in(self.directory)

    def _metrics(self, step: int) -> Mapping[str, float] | None:
        return checkpoint.Description.read(self.directory / str(step)).provenance["metrics"]

    def save(self, state: TrainState, metrics: Mapping[str, float] | None) -> None:
        """Begins to write a checkpoint; training may go on at once.

        Args:
          state: the state to keep.
          metrics: the figures of an evaluation of this very state, or None.
        """
        self.wait()
        step = int(state.step)
        directory = self.directory / str(step)
        if checkpoint.is_whole(directory):
            return
        # The step that follows uses this state's memory again, while the writer still reads.
        state = jax.tree.map(jnp.copy, state)
        provenance = {**self._description.provenance, "step": step, "metrics": metrics}
        if state.plateau is not None:
            provenance["rate_scale"] = float(state.rate_scale)
        description = dataclasses.replace(self._description, provenance=provenance)
        items = {"variables": state.variables, "training": _training(state)}
        self._begun = step
        if isinstance(self._writer, _BucketWriter):
            whole = {item: jax.tree.map(hosts.whole, tree) for item, tree in items.items()}
            self._writer.save(directory, description, whole)
            return
        if hosts.is_first():
            directory.mkdir(exist_ok=True)
            description.write(directory)
        checkpoint.write_digests(directory, items)
        self._writer.save(
            directory / "tree",
            ocp.args.Composite(**{item: ocp.args.StandardSave(tree) for item, tree in items.items()}),
        )

    def _finished(self) -> None:
        if self._begun is not None:
            self.newest = self._begun

    def rate_scale(self, step: int) -> float:
        """What the schedule "plateau" had brought the learning rate down to at a checkpoint, as a share: 0 to 1."""
        return checkpoint.Description.read(self.directory / str(step)).provenance.get("rate_scale", 1.0)

    def lacks_figures(self, step: int) -> bool:
        """Says whether a checkpoint was saved without the figures of an evaluation."""
        return self._metrics(step) is None

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the figures of an evaluation to a checkpoint that was saved without them."""
        if hosts.is_first():
            description = checkpoint.Description.read(self.directory / str(step))
            provenance = {**description.provenance, "metrics": metrics}
            dataclasses.replace(description, provenance=provenance).write(self.directory / str(step))
        hosts.wait()

    def wait(self) -> None:
        """Waits until the last checkpoint is whole, then removes those that need not be kept."""
        self._writer.wait_until_finished()
        self._finished()
        if hosts.is_first():
            steps = self.steps()
            kept = {*steps[-self._keep_last :], self.best()}
            for step in steps:
                if step not in kept:
                    # Without model.json it is no checkpoint any more, however far the removal comes.
                    (self.directory / str(step) / "model.json").unlink()
                    files.remove_folder(self.directory / str(step))

    def restore(self, state: TrainState) -> TrainState:
        """Reads the newest checkpoint into the shapes and onto the devices of `state`.

        Raises:
          UserError: the checkpoint is of another model or optimizer, or damaged.
        """
        *earlier, newest = self.steps()
        directory = self.directory / str(newest)
        try:
            stored = checkpoint.restore(directory, ["variables", "training"])
        except UserError as error:
            remedy = f"; without that folder the run goes on from step {earlier[-1]}" if earlier else ""
            raise UserError(f"{error}{remedy}") from error
        ours = {"variables": state.variables, "training": _training(state)}
        if "batch_stats" not in stored["training"]:
            # It has an average of parameters alone, or none.
            ours["training"].pop("batch_stats", None)
        target = f"this run, of the model {self._description.model!r}"
        fitted = {
            item: jax.tree.map(_placed, checkpoint.fit(stored[item], tree, source=str(directory), target=target), tree)
            for item, tree in ours.items()
        }
        variables, training = fitted["variables"], fitted["training"]
        if state.average is not None:
            # The live network's statistics, where they were not averaged, are those that it was evaluated with.
            variables = {"average": variables, "batch_stats": jax.tree.map(jnp.copy, variables["batch_stats"])}
        return TrainState(**{**variables, **training})


class _BucketWriter:
    """Writes checkpoints into a bucket in a thread of process 0, as far as a run uses Orbax's writer."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future | None = None

    def save(self, directory: Path, description: checkpoint.Description, items: dict[str, Any]) -> None:
        if hosts.is_first():
            self._written = self._thread.submit(checkpoint.save_in_bucket, directory, description, items)

    def wait_until_finished(self) -> None:
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        self.wait_until_finished()
        self._thread.shutdown()


def _placed(value: np.ndarray, like: jax.Array) -> jax.Array:
    """Puts what every host has read onto the devices of an array, as its parts lie there."""
    value = value.astype(like.dtype, copy=False)
    return jax.make_array_from_callback(value.shape, like.sharding, lambda index: value[index])


def _training(state: TrainState) -> dict[str, Any]:
    """What a state holds besides its `variables`."""
    training = {"step": state.step, "clips": state.clips, "optimizer_state": state.optimizer_state}
    if state.average is not None:
        training |= {"params": state.params, "batch_stats": state.batch_stats}
    if state.plateau is not None:
        training["plateau"] = state.plateau
    return training
