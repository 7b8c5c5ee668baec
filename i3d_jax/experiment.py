"""What a configuration stands for: its data, its model, its optimizer, its evaluation. The commands wire these."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from i3d_jax import checkpoint
from i3d_jax.data.dataset import Dataset, open_dataset
from i3d_jax.data.pipeline import Batches, BatchOptions, evaluation_batches, training_batches
from i3d_jax.data.preprocessing import refuse_mismatch
from i3d_jax.errors import UserError
from i3d_jax.evaluation import results
from i3d_jax.evaluation.accuracy import score
from i3d_jax.evaluation.predictions import predict
from i3d_jax.training import partition
from i3d_jax.training.loop import Cadence
from i3d_jax.training.state import initial_variables
from i3d_jax.training.step import evaluation_step

# Tried in this order where the configuration names no split to evaluate.
EVALUATION_SPLITS = ("validation", "validate", "val", "test")


def cadence(config: ml_collections.ConfigDict) -> Cadence:
    """Returns how long and how often; a `UserError` names a value out of range."""
    return Cadence(
        total_steps=config.total_steps,
        log_every=config.log_every,
        evaluate_every=config.evaluation.every,
        checkpoint_every=config.checkpoints.every,
    )


def open_data(config: ml_collections.ConfigDict, workdir: Path) -> Dataset:
    """Opens the dataset folder; the embedded dataset is made in the workdir first, as far as it is missing.

    Raises:
      UserError: no dataset is named, or what is named is not one.
    """
    if config.data.synthetic_videos_per_action > 0:
        # Imported here: training on a prepared dataset needs neither PyAV nor OpenCV.
        from i3d_jax.ingest.embedded import make_dataset

        return open_dataset(
            make_dataset(
                workdir / "synthetic",
                videos_per_action=config.data.synthetic_videos_per_action,
                crop=config.data.crop,
                seed=config.seed,
            )
        )
    if config.data.directory is None:
        raise UserError("no dataset is named: expected --config.data.directory=DIR, a folder that `prepare` wrote")
    return open_dataset(config.data.directory)


def evaluation_split(config: ml_collections.ConfigDict, dataset: Dataset) -> str:
    """Returns the split to evaluate: the configuration's, else a usual name, else the training split."""
    if config.evaluation.split is not None:
        return config.evaluation.split
    usual = [split for split in EVALUATION_SPLITS if split in dataset.splits and dataset.splits[split].videos]
    return usual[0] if usual else config.data.train_split


def describe(config: ml_collections.ConfigDict, dataset: Dataset) -> checkpoint.Description:
    """Returns what the run's checkpoints say of themselves."""
    options = config.model.to_dict()
    return checkpoint.Description(
        model=options.pop("name"),
        options=options,
        num_classes=len(dataset.labels),
        labels=dataset.labels,
        preprocessing={
            **dataset.preprocessing.to_json(),
            "crop": config.data.crop,
            "frames": config.evaluation.frames,
            "windows": config.evaluation.windows,
        },
        provenance={"dataset": dataset.name, "split": config.data.train_split, "init_from": config.init_from},
    )


def check_clips(config: ml_collections.ConfigDict, model: nn.Module) -> None:
    """Raises the model's `UserError` for clips that it cannot take, in training or in evaluation."""
    for frames in (config.data.frames, config.evaluation.frames):
        jax.eval_shape(model.init, jax.random.key(config.seed), _clip(config, model, frames))


def draw_variables(config: ml_collections.ConfigDict, model: nn.Module) -> dict[str, Any]:
    """Draws the model's initial variables."""
    return initial_variables(model, jax.random.key(config.seed), _clip(config, model, config.data.frames))


def _clip(config: ml_collections.ConfigDict, model: nn.Module, frames: int) -> dict[str, jax.ShapeDtypeStruct]:
    shape = (1, frames, config.data.crop, config.data.crop, 3)
    return {model.stream: jax.ShapeDtypeStruct(shape, jnp.float32)}


def initial_from(directory: str, description: checkpoint.Description, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Reads another run's variables to start from.

    Raises:
      UserError: they are of another model or number of classes, or were trained on other pixels.
    """
    _, stored, metadata = checkpoint.load(directory)
    for key in ("model", "num_classes"):
        if metadata[key] != getattr(description, key):
            raise UserError(
                f"init_from: {key} of {directory} is {metadata[key]!r}, this run's {getattr(description, key)!r}"
            )
    # The crop and the windows are this run's to choose.
    stored_frames = {key: metadata["preprocessing"].get(key) for key in ("frame_rate", "short_side", "interpolation")}
    refuse_mismatch(
        {key: value for key, value in stored_frames.items() if value is not None},
        description.preprocessing,
        expected_by=directory,
        found_in="this run's dataset",
    )
    return checkpoint.fit(stored, variables, source=directory, target="this run's model")


def refuse_other_labels(labels, dataset: Dataset, *, where: str) -> None:
    """Raises a `UserError` unless a checkpoint's labels are the dataset's, in its order."""
    if list(labels) == list(dataset.labels):
        return
    if len(labels) != len(dataset.labels):
        raise UserError(f"{where} knows {len(labels)} classes, {dataset.directory} has {len(dataset.labels)}")
    index = next(i for i, (one, other) in enumerate(zip(labels, dataset.labels, strict=True)) if one != other)
    raise UserError(
        f"{where} and {dataset.directory} have other classes: number {index} is {labels[index]!r} against "
        f"{dataset.labels[index]!r}"
    )


def clips_to_train_on(config: ml_collections.ConfigDict, dataset: Dataset, *, first_clip: int) -> Batches:
    """Returns this host's training batches from clip number `first_clip` on."""
    options = _batch_options(config, config.batch_size, config.data.frames)
    return training_batches(
        dataset, config.data.train_split, options, flip=config.data.flip, seed=config.seed, first_clip=first_clip
    )


class Evaluation:
    """Scores a split and leaves `predictions/SPLIT.npz` and `results.json` in the workdir."""

    def __init__(
        self, config: ml_collections.ConfigDict, workdir: Path, dataset: Dataset, model: nn.Module, mesh: Mesh
    ):
        self.split = evaluation_split(config, dataset)
        self._workdir = workdir
        self._dataset = dataset
        self._mesh = mesh
        self._step = partition.compile_evaluation_step(evaluation_step(model), mesh)
        self._windows = config.evaluation.windows
        self._options = _batch_options(config, config.evaluation.batch_size, config.evaluation.frames)
        # Opened once here, so that a split that is not there is found before hours of training.
        self._batches()

    def _batches(self) -> Batches:
        return evaluation_batches(self._dataset, self.split, self._options, windows=self._windows)

    def stored(self) -> Mapping[str, Any]:
        """The figures that the workdir holds for the split, {} if none."""
        return results.read(self._workdir / "results.json").get(self.split, {})

    def __call__(self, variables: Mapping[str, Any], step: int | None) -> Mapping[str, Any]:
        """Scores every video with variables on the mesh's devices, and returns top1, top5, mean_class_accuracy, …

        Args:
          variables: {"params", "batch_stats"}.
          step: the training step that they come from, None if not known.
        """
        batches = self._batches()
        predictions = predict(
            lambda batch: self._step(variables, partition.shard_batch(batch, self._mesh)),
            batches,
            len(self._dataset.labels),
        )
        figures = {**score(predictions.logits, predictions.label), "damaged": len(batches.damaged)}
        predictions.save(self._workdir / "predictions" / f"{self.split}.npz")
        results.record(self._workdir / "results.json", self.split, {**figures, "step": step})
        return figures


def _batch_options(config: ml_collections.ConfigDict, batch_size: int, frames: int) -> BatchOptions:
    return BatchOptions(
        batch_size=batch_size,
        frames=frames,
        crop=config.data.crop,
        max_damaged_share=config.data.max_damaged_share,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
