"""What a configuration stands for: its data, its model, its optimizer, its evaluation. The commands wire these."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from i3d_jax import checkpoint, models
from i3d_jax.clips import Sampling
from i3d_jax.data.dataset import Dataset, open_dataset
from i3d_jax.data.pipeline import Batches, BatchOptions, evaluation_batches, training_batches
from i3d_jax.data.sources import open_source
from i3d_jax.errors import UserError
from i3d_jax.evaluation import results
from i3d_jax.evaluation.accuracy import score
from i3d_jax.evaluation.predictions import predict
from i3d_jax.models.network import Network
from i3d_jax.training import distributed
from i3d_jax.training.loop import Cadence
from i3d_jax.training.optimizer import SCHEDULES, make_optimizer, make_plateau, rate_factor
from i3d_jax.training.partition import Devices
from i3d_jax.training.profile import ProfiledSteps
from i3d_jax.training.step import evaluation_step

# The same objects for the same settings, so that runs in one process, as a study makes them, share compiled programs.
_optimizer_of = functools.lru_cache(maxsize=16)(make_optimizer)
devices_of = functools.lru_cache(maxsize=16)(Devices)

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


def create_optimizer(
    config: ml_collections.ConfigDict,
) -> tuple[optax.GradientTransformation, optax.Schedule, optax.GradientTransformationExtraArgs | None]:
    """Makes (optimizer, step to learning rate, the schedule "plateau" or None) of a configuration.

    Raises:
      UserError: a value of the section `optimizer` is out of range or does not go with the schedule.
    """
    section = config.optimizer
    optimizer, schedule = _optimizer_of(
        name=section.name,
        learning_rates=tuple(section.learning_rates),
        boundaries=tuple(section.boundaries),
        momentum=section.momentum,
        weight_decay=section.weight_decay,
        warmup_steps=section.warmup_steps,
        rate_factor=rate_factor(config.batch_size, section.reference_batch_size),
    )
    if section.schedule not in SCHEDULES:
        raise UserError(f"optimizer.schedule must be one of {', '.join(SCHEDULES)}, found {section.schedule!r}")
    if section.schedule == "stepwise":
        return optimizer, schedule, None
    if len(section.learning_rates) > 1:
        raise UserError(
            "optimizer.schedule 'plateau' begins with one learning rate and has no boundaries, found learning_rates "
            f"{tuple(section.learning_rates)} and boundaries {tuple(section.boundaries)}"
        )
    if config.evaluation.every < 1:
        raise UserError("optimizer.schedule 'plateau' waits for evaluations: evaluation.every must be above 0, found 0")
    return optimizer, schedule, make_plateau(patience=section.plateau_patience, factor=section.plateau_factor)


def step_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the options of `training_step` and `check_options` that a configuration has."""
    return {
        "accumulation_steps": config.accumulation_steps,
        "label_smoothing": config.label_smoothing,
        "average_decay": config.optimizer.average_decay,
    }


def profiled_steps(config: ml_collections.ConfigDict) -> ProfiledSteps:
    """Returns the steps to trace; a `UserError` names a value out of range."""
    return ProfiledSteps(**config.profile, total_steps=config.total_steps)


def open_data(config: ml_collections.ConfigDict, workdir: Path, *, flow: bool) -> Dataset:
    """Opens the run's dataset; the embedded dataset is made in the workdir first, as far as it is missing.

    Args:
      config: the run's.
      workdir: where the embedded dataset is made.
      flow: whether the embedded dataset needs flow.

    Raises:
      UserError: no dataset is named, or what is named is not one.
    """
    if config.data.synthetic_videos_per_action > 0:
        if config.data.source != "prepared":
            raise UserError("data.synthetic_videos_per_action above 0 draws the videos: data.source must be 'prepared'")
        return open_dataset(distributed.by_first(lambda: _draw_data(config, workdir, flow=flow)))
    return open_source(
        config.data.source,
        directory=config.data.directory,
        tfds_name=config.data.tfds_name,
        labels=config.data.labels,
        stated=config.data.stated,
    )


def _draw_data(config: ml_collections.ConfigDict, workdir: Path, *, flow: bool) -> str:
    # Imported here: training on a prepared dataset needs neither PyAV nor OpenCV.
    from i3d_jax.ingest.embedded import make_dataset

    return str(
        make_dataset(
            workdir / "synthetic",
            videos_per_action=config.data.synthetic_videos_per_action,
            crop=config.data.crop,
            seed=config.seed,
            flow=flow,
        )
    )


def evaluation_split(config: ml_collections.ConfigDict, dataset: Dataset) -> str:
    """Returns the split to evaluate: the configuration's, else the usual one that has videos, else the training split.

    Of numbered splits, as UCF-101 and HMDB-51 have them, the usual one after train01 is test01.
    """
    if config.evaluation.split is not None:
        return config.evaluation.split
    train_split = config.data.train_split
    numbered = ["test" + number for number in re.findall(r"^train(\d+)$", train_split)]
    candidates = (*numbered, *EVALUATION_SPLITS, train_split)
    return next((split for split in candidates if split in dataset.split_names and dataset.videos(split)), train_split)


def create_model(config: ml_collections.ConfigDict, num_classes: int) -> Network:
    """Makes the model that a configuration names; a `UserError` names an option that it does not have."""
    options = config.model.to_dict()
    return models.create(options.pop("name"), num_classes, **options)


def describe(config: ml_collections.ConfigDict, dataset: Dataset, model: Network) -> checkpoint.Description:
    """Returns what the run's checkpoints say of themselves."""
    options = config.model.to_dict()
    return checkpoint.Description(
        model=options.pop("name"),
        options=options,
        num_classes=model.num_classes,
        labels=dataset.labels,
        preprocessing={
            **dataset.preprocessing.of_streams(model.streams).to_json(),
            "crop": config.data.crop,
            "frames": config.evaluation.frames,
            "stride": config.data.stride,
            "flow_per_frame": model.flow_per_frame,
            "windows": config.evaluation.windows,
        },
        provenance={
            "dataset": dataset.name,
            "split": config.data.train_split,
            "init_from": config.init_from,
            "protocol": config.transfer.protocol,
        },
    )


def check_clips(config: ml_collections.ConfigDict, model: Network) -> None:
    """Raises a `UserError` for a model that sees no videos, or for clips that it cannot take."""
    if isinstance(model, models.InceptionV1):
        raise UserError(f"model.name {config.model.name!r} is a network of single images: recipes train on videos")
    for frames, train in ((config.data.frames, True), (config.evaluation.frames, False)):
        clip = _clip(config, model, frames)
        _check_shapes(model, tuple((stream, shape.shape) for stream, shape in clip.items()), train)


@functools.lru_cache(maxsize=64)
def _check_shapes(model: Network, shapes: tuple[tuple[str, tuple[int, ...]], ...], train: bool) -> None:
    """Follows a clip through the network by shapes alone; that takes seconds, and a study asks for each ten times."""
    clip = {stream: jax.ShapeDtypeStruct(shape, jnp.float32) for stream, shape in shapes}
    jax.eval_shape(lambda clip: model.init(jax.random.key(0), clip, train=train), clip)


def draw_variables(config: ml_collections.ConfigDict, model: Network) -> dict[str, Any]:
    """Draws the model's initial variables."""
    return model.init(jax.random.key(config.seed), _clip(config, model, config.data.frames))


def _clip(config: ml_collections.ConfigDict, model: Network, frames: int) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = model.input_shapes(frames, config.data.crop)
    return {stream: jax.ShapeDtypeStruct((1, *shape), jnp.float32) for stream, shape in shapes.items()}


def clips_to_train_on(
    config: ml_collections.ConfigDict, dataset: Dataset, model: Network, *, first_clip: int
) -> Batches:
    """Returns this host's training batches from clip number `first_clip` on."""
    options = _batch_options(config, model, config.batch_size, config.data.frames)
    return training_batches(
        dataset, config.data.train_split, options, flip=config.data.flip, seed=config.seed, first_clip=first_clip
    )


def clips_to_evaluate(config: ml_collections.ConfigDict, dataset: Dataset, model: Network, split: str) -> Batches:
    """Returns this host's batches of every video of a split: the windows of the evaluation, the centre crop."""
    options = _batch_options(config, model, evaluation_batch_size(config), config.evaluation.frames)
    return evaluation_batches(dataset, split, options, windows=config.evaluation.windows)


def evaluation_batch_size(config: ml_collections.ConfigDict) -> int:
    """The videos of a batch, all hosts together: as many as the configuration has, or a few more for equal shares."""
    if config.evaluation.batch_size < 1:
        raise UserError(f"evaluation.batch_size must be 1 or more, found {config.evaluation.batch_size}")
    return -(-config.evaluation.batch_size // jax.process_count()) * jax.process_count()


def recorded_under(config: ml_collections.ConfigDict, step: int | None) -> dict[str, Any]:
    """Returns what `results.json` says of its figures: of which training step they are, and by which windows."""
    return {"step": step, "frames": config.evaluation.frames, "windows": config.evaluation.windows}


class Evaluation:
    """Scores a split and leaves `predictions/SPLIT.npz` and `results.json` in the workdir.

    With several hosts each scores its share of the videos; all get the figures and process 0 writes the files.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, workdir: Path, dataset: Dataset, model: Network, devices: Devices
    ):
        self.split = evaluation_split(config, dataset)
        self._workdir = workdir
        self._dataset = dataset
        self._devices = devices
        self._step = devices.compile_evaluation_step(evaluation_step(model))
        self._config = config
        self._options = _batch_options(config, model, evaluation_batch_size(config), config.evaluation.frames)
        # Opened once here, so that a split that is not there is found before hours of training.
        self._batches()

    def _batches(self) -> Batches:
        return evaluation_batches(self._dataset, self.split, self._options, windows=self._config.evaluation.windows)

    def is_stored(self, step: int) -> bool:
        """Says whether the workdir holds the figures of a training step, by the windows of this configuration."""
        return recorded_under(self._config, step).items() <= self.stored().items()

    def stored(self) -> Mapping[str, Any]:
        """The figures that the workdir holds for the split, {} if none."""
        return results.read(self._workdir / "results.json").get(self.split, {})

    def __call__(
        self, variables: Mapping[str, Any], step: int | None, between: Callable[[], None] = lambda: None
    ) -> Mapping[str, Any]:
        """Scores every video with variables on the devices, and returns top1, top5, mean_class_accuracy, …

        `results.json` gets besides, as `streams`, the same of each stream alone, where the network's logits are made
        from those of its streams.

        Args:
          variables: {"params", "batch_stats"}.
          step: the training step that they come from, None if not known.
          between: called by every process before each batch.
        """
        batches = self._batches()
        variables = self._devices.whole(variables)

        def score_batch(batch):
            between()
            return jax.tree.map(self._devices.local_rows, self._step(variables, self._devices.shard_batch(batch)))

        own = predict(score_batch, batches, len(self._dataset.labels))
        predictions = own.of_all_hosts(self._options.global_row)
        damaged = [damage for own in distributed.gather(list(batches.damaged)) for damage in own]
        if not len(predictions.video):
            raise UserError(
                f"no video of {self.split!r} could be scored, all {len(damaged)} are damaged, among them {damaged[0]}"
            )
        figures = {**score(predictions.logits, predictions.label), "damaged": len(damaged)}
        if not distributed.is_first():
            return figures
        predictions.save(self._workdir / "predictions" / f"{self.split}.npz")
        recorded = {**figures, **recorded_under(self._config, step)}
        if predictions.stream_logits:
            recorded["streams"] = {
                stream: score(predictions.stream_logits[stream], predictions.label) for stream in self._options.streams
            }
        results.record(self._workdir / "results.json", self.split, recorded)
        return figures


def _batch_options(config: ml_collections.ConfigDict, model: Network, batch_size: int, frames: int) -> BatchOptions:
    return BatchOptions(
        batch_size=batch_size,
        sampling=Sampling(frames=frames, stride=config.data.stride, flow_per_frame=model.flow_per_frame),
        streams=model.streams,
        crop=config.data.crop,
        max_damaged_share=config.data.max_damaged_share,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
