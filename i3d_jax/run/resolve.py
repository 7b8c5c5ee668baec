"""A recipe becomes a `Run`, once: what each of its keys stands for. Behind `build` nobody sees a configuration."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from i3d_jax import checkpoint, clips, models
from i3d_jax.clips import Sampling
from i3d_jax.data.dataset import Dataset, open_dataset
from i3d_jax.data.pipeline import BatchOptions
from i3d_jax.data.sources import open_source
from i3d_jax.evaluation import dense
from i3d_jax.evaluation.protocol import DENSE, Protocol
from i3d_jax.models.network import Network
from i3d_jax.run import recipe
from i3d_jax.run.evaluate import Evaluation
from i3d_jax.run.initial_weights import InitialWeights
from i3d_jax.run.retention import Checkpoints, check_keep_last
from i3d_jax.run.run import Optimization, Run
from i3d_jax.run.training_clips import TrainingClips
from i3d_jax.system import hosts, lock, signals
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_folder
from i3d_jax.system.preemption import Termination
from i3d_jax.training.compilation import keep_compiled
from i3d_jax.training.loop import Cadence
from i3d_jax.training.optimizer import SCHEDULES, make_optimizer, make_plateau, rate_factor, rates_text
from i3d_jax.training.partition import Devices
from i3d_jax.training.precision import check_precision
from i3d_jax.training.profile import ProfiledSteps
from i3d_jax.training.step import check_options, training_step

# The same objects for the same settings, so that runs in one process, as a study makes them, share compiled programs.
_optimizer_of = functools.lru_cache(maxsize=16)(make_optimizer)
_devices_of = functools.lru_cache(maxsize=16)(Devices)

# Tried in this order where the configuration names no split to evaluate.
EVALUATION_SPLITS = ("validation", "validate", "val", "test")


def build(
    config: ml_collections.ConfigDict, workdir: Path, *, evaluates_only: bool = False, source: Path | None = None
) -> Run:
    """Resolves a recipe into a run in its workdir.

    The workdir gets nothing but the embedded dataset, where the recipe asks for it; what the user may have got wrong is
    found before that is drawn. JAX is told where to keep compiled programs.

    Args:
      config: as `recipe.load` gives it.
      workdir: of the run. To train, it need not exist, or must be of the same recipe.
      evaluates_only: whether the run is only to score the checkpoint that the workdir holds: what training needs
        besides (a batch that the devices divide, a split to train on, a network to start from) is not looked for.
      source: then, where the checkpoint to score stands if not in the workdir.

    Raises:
      UserError: something in the recipe, the dataset or the workdir is not as the run needs it.
      Stopped: SIGTERM ended the drawing of the embedded dataset.
    """
    began = time.perf_counter()
    checkpoint.refuse_no_text(workdir.resolve())
    keep_compiled(config.compilation_cache)
    devices = _devices_of(**config.parallel)
    if evaluates_only:
        checkpoint.find(source or workdir)
        initial = InitialWeights(source=None)
    else:
        initial = initial_weights(config)
        recipe.refuse_other(config, workdir)
        # First: what it says works for the microbatches works for the devices too.
        check_options(batch_size=config.batch_size, devices=devices.count, **_step_options(config))
        devices.check_batch_size(config.batch_size, key="batch_size")
    evaluation_protocol(config)
    check_precision(config.evaluation.precision)
    evaluation_batch_size(config, devices)
    cadence = cadence_of(config)
    profiled = ProfiledSteps(**config.profile, total_steps=config.total_steps)
    optimization = create_optimizer(config)
    if not evaluates_only:
        _check_beginning(initial, cadence, workdir)
    # What a network takes does not depend on its classes, which the dataset tells.
    network = create_model(config, num_classes=1)
    _check_ranges(config, network, devices)
    check_clips(config, network)
    dataset = open_data(config, workdir, flow="flow" in network.streams)
    if len(dataset.labels) == 1 and not evaluates_only:
        raise UserError(
            f"a dataset of two classes or more was expected, {dataset.directory} has {dataset.labels[0]!r} alone: "
            "a network that knows one class is always sure of it"
        )
    network = create_model(config, len(dataset.labels))
    description = describe(config, dataset, network)
    evaluation = evaluation_of(config, workdir, dataset, network, devices)
    clips = training_clips(config, dataset, network)
    # Opened once here, so that a split that is not there is found before anything is written.
    evaluation.batches()
    if not evaluates_only:
        clips.batches(first_clip=0)
    return Run(
        began=began,
        workdir=workdir,
        resolved=config.to_json(indent=2),
        network=network,
        dataset=dataset,
        description=description,
        devices=devices,
        initial=initial,
        seed=config.seed,
        frames=config.data.frames,
        clips=clips,
        optimization=optimization,
        make_step=functools.partial(
            training_step, seed=config.seed, replicas=devices.replicas, **_step_options(config)
        ),
        cadence=cadence,
        profiled=profiled,
        evaluation=evaluation,
        checkpoints=Checkpoints(workdir / "checkpoints", description, keep_last=config.checkpoints.keep_last),
        draws_its_data=config.data.synthetic_videos_per_action > 0,
        reports=config.report,
    )


def _step_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    return {
        "accumulation_steps": config.accumulation_steps,
        "label_smoothing": config.label_smoothing,
        "average_decay": config.optimizer.average_decay,
    }


def _check_beginning(initial: InitialWeights, cadence: Cadence, workdir: Path) -> None:
    """Raises a `UserError` where a workdir was trained for longer, or what a new run starts from is not there."""
    newest = max(checkpoint.steps_in(workdir / "checkpoints"), default=None)
    if newest is None:
        # A run that goes on needs it no more.
        if initial.source is not None:
            checkpoint.find(initial.source)
    elif newest > cadence.total_steps:
        raise UserError(
            f"total_steps is {cadence.total_steps}, and {workdir} was trained for {newest} steps already: expected as "
            "many or more, or another --workdir"
        )


def _check_ranges(config: ml_collections.ConfigDict, network: Network, devices: Devices) -> None:
    """Raises a `UserError` for what would be found out of range once the dataset is there, which may take minutes."""
    training = _batch_options(config, network, config.batch_size, config.data.frames)
    _refuse_larger_than_memory("data.frames", training, windows=1)
    protocol, frames = evaluation_protocol(config), config.evaluation.frames
    views = protocol.views
    if protocol.name == DENSE:
        frames, views = dense.pieces(network, frames).frames, 1
    evaluation = _batch_options(config, network, evaluation_batch_size(config, devices), frames)
    _refuse_larger_than_memory("evaluation.frames", evaluation, windows=views)
    check_keep_last(config.checkpoints.keep_last)


def _refuse_larger_than_memory(key: str, options: BatchOptions, *, windows: int) -> None:
    """Raises a `UserError` for batches of which this machine cannot hold one: they would be made after hours."""
    pixels = sum(options.sampling.count(stream) * clips.CHANNELS[stream] for stream in options.streams)
    taken = options.rows * windows * pixels * options.crop**2
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if taken > memory:
        raise UserError(
            f"{key} is {options.sampling.frames}: a batch of {options.rows} videos of {windows} windows takes "
            f"{taken / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f} GiB of memory"
        )


def initial_weights(config: ml_collections.ConfigDict) -> InitialWeights:
    """Returns what a run starts from; a `UserError` says what does not go together."""
    if config.model.batch_norm == "frozen" and config.init_from is None:
        raise UserError(
            "model.batch_norm 'frozen' normalises by the running statistics of a trained network: init_from must name "
            "its checkpoint or workdir"
        )
    return InitialWeights(source=config.init_from, profile=config.init_profile, protocol=config.transfer.protocol)


def cadence_of(config: ml_collections.ConfigDict) -> Cadence:
    """Returns how long and how often; a `UserError` names a value out of range."""
    return Cadence(
        total_steps=config.total_steps,
        log_every=config.log_every,
        evaluate_every=config.evaluation.every,
        checkpoint_every=config.checkpoints.every,
    )


def create_optimizer(config: ml_collections.ConfigDict) -> Optimization:
    """Makes the optimizer of a configuration and its learning rate.

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
    plateau = None
    if section.schedule == "plateau":
        if len(section.learning_rates) > 1:
            raise UserError(
                "optimizer.schedule 'plateau' begins with one learning rate and has no boundaries, found "
                f"learning_rates {tuple(section.learning_rates)} and boundaries {tuple(section.boundaries)}"
            )
        if config.evaluation.every < 1:
            raise UserError(
                "optimizer.schedule 'plateau' waits for evaluations: evaluation.every must be above 0, found 0"
            )
        plateau = make_plateau(
            patience=section.plateau_patience, factor=section.plateau_factor, stop=section.plateau_stop
        )
    return Optimization(
        optimizer=optimizer,
        schedule=schedule,
        plateau=plateau,
        averages=section.average_decay > 0,
        rates=rates_text(section.learning_rates, section.boundaries, config.batch_size, section.reference_batch_size),
    )


def open_data(config: ml_collections.ConfigDict, workdir: Path, *, flow: bool) -> Dataset:
    """Opens the run's dataset; the embedded dataset is made in the workdir first, as far as it is missing.

    Args:
      config: the run's.
      workdir: where the embedded dataset is made.
      flow: whether the embedded dataset needs flow.

    Raises:
      UserError: no dataset is named, or what is named is not one.
      Stopped: SIGTERM ended the making of the embedded dataset.
    """
    if config.data.synthetic_videos_per_action > 0:
        if config.data.source != "prepared":
            raise UserError("data.synthetic_videos_per_action above 0 draws the videos: data.source must be 'prepared'")
        # Of several processes the first writes the workdir, for all of them.
        with (
            lock.held(workdir) if hosts.is_first() else contextlib.nullcontext(),
            signals.advised(lambda: "start again to go on"),
            Termination(),
        ):
            return open_dataset(hosts.by_first(lambda: _draw_data(config, workdir, flow=flow)))
    return open_source(
        config.data.source,
        directory=config.data.directory,
        tfds_name=config.data.tfds_name,
        labels=config.data.labels,
        stated=config.data.stated,
    )


def dataset_of(workdir: Path) -> Dataset:
    """Opens the dataset of a run that is there, by what its workdir says of it; nothing is drawn.

    Raises:
      UserError: the workdir does not say it, or the dataset is not where it was.
    """
    values = recipe.kept(workdir)
    needed = ("source", "directory", "tfds_name", "labels", "synthetic_videos_per_action")
    stated = ("frame_rate", "interpolation", "jpeg_quality")
    if lacking := [key for key in (*needed, *(f"stated.{key}" for key in stated)) if f"data.{key}" not in values]:
        raise UserError(f"{workdir / 'config.json'} lacks data.{lacking[0]}")
    if values["data.synthetic_videos_per_action"]:
        folder = workdir / "synthetic"
        return open_dataset(next(filter(is_folder, (folder / "dataset_flow", folder / "dataset")), folder / "dataset"))
    return open_source(
        values["data.source"],
        directory=values["data.directory"],
        tfds_name=values["data.tfds_name"],
        labels=values["data.labels"],
        stated={key: values[f"data.stated.{key}"] for key in stated},
    )


def _draw_data(config: ml_collections.ConfigDict, workdir: Path, *, flow: bool) -> str:
    # Imported here: training on a prepared dataset needs neither PyAV nor OpenCV.
    from i3d_jax.drawn.embedded import make_dataset

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


def describe(config: ml_collections.ConfigDict, dataset: Dataset, network: Network) -> checkpoint.Description:
    """Returns what the run's checkpoints say of themselves."""
    options = config.model.to_dict()
    short_side = config.data.network_short_side
    return checkpoint.Description(
        model=options.pop("name"),
        options=options,
        num_classes=network.num_classes,
        labels=dataset.labels,
        preprocessing={
            **dataset.preprocessing.of_streams(network.streams).to_json(),
            "crop": config.data.crop,
            "frames": config.evaluation.frames,
            "stride": config.data.stride,
            "flow_per_frame": network.flow_per_frame,
            "windows": config.evaluation.windows,
            # Said only where there is one, as before it could be asked for.
            **({} if not short_side else {"network_short_side": short_side}),
        },
        provenance={
            "dataset": dataset.name,
            "split": config.data.train_split,
            "init_from": config.init_from,
            "protocol": config.transfer.protocol,
        },
    )


def check_clips(config: ml_collections.ConfigDict, network: Network) -> None:
    """Raises a `UserError` for a network that sees no videos, or for clips that it cannot take."""
    if not network.sees_videos:
        raise UserError(f"model.name {config.model.name!r} is a network of single images: recipes train on videos")
    for frames, train in ((config.data.frames, True), (config.evaluation.frames, False)):
        shapes = network.input_shapes(frames, config.data.crop)
        _check_shapes(network, tuple((stream, (1, *shape)) for stream, shape in shapes.items()), train)


@functools.lru_cache(maxsize=64)
def _check_shapes(network: Network, shapes: tuple[tuple[str, tuple[int, ...]], ...], train: bool) -> None:
    """Follows a clip through the network by shapes alone; that takes seconds, and a study asks for each ten times."""
    clip = {stream: jax.ShapeDtypeStruct(shape, jnp.float32) for stream, shape in shapes}
    jax.eval_shape(lambda clip: network.init(jax.random.key(0), clip, train=train), clip)


def training_clips(config: ml_collections.ConfigDict, dataset: Dataset, network: Network) -> TrainingClips:
    """Returns what the run trains on."""
    return TrainingClips(
        dataset=dataset,
        split=config.data.train_split,
        options=_batch_options(config, network, config.batch_size, config.data.frames),
        flip=config.data.flip,
        seed=config.seed,
    )


def evaluation_of(
    config: ml_collections.ConfigDict, workdir: Path, dataset: Dataset, network: Network, devices: Devices
) -> Evaluation:
    """Returns what scores the run's networks."""
    return Evaluation(
        workdir=workdir,
        dataset=dataset,
        split=evaluation_split(config, dataset),
        network=network,
        devices=devices,
        options=_batch_options(config, network, evaluation_batch_size(config, devices), config.evaluation.frames),
        protocol=evaluation_protocol(config),
        precision=config.evaluation.precision,
    )


def evaluation_protocol(config: ml_collections.ConfigDict) -> Protocol:
    """Returns by which rule a video gets its scores; a `UserError` names what is out of range or out of place."""
    section = config.evaluation
    return Protocol(name=section.protocol, windows=section.windows, crops=section.crops, average=section.average)


def evaluation_batch_size(config: ml_collections.ConfigDict, devices: Devices) -> int:
    """The videos of a batch, all hosts together: as many as the configuration has, or more for all devices to share."""
    if config.evaluation.batch_size < 1:
        raise UserError(f"evaluation.batch_size must be 1 or more, found {config.evaluation.batch_size}")
    return -(-config.evaluation.batch_size // devices.count) * devices.count


def _batch_options(config: ml_collections.ConfigDict, network: Network, batch_size: int, frames: int) -> BatchOptions:
    return BatchOptions(
        batch_size=batch_size,
        sampling=Sampling(frames=frames, stride=config.data.stride, flow_per_frame=network.flow_per_frame),
        streams=network.streams,
        crop=config.data.crop,
        network_short_side=config.data.network_short_side or None,
        max_damaged_share=config.data.max_damaged_share,
        order=config.data.order,
        parallel_reads=config.data.parallel_reads,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
