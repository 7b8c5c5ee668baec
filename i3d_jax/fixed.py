"""The protocol `fixed`: the features of the training videos, computed once and kept in the workdir, to train on."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from i3d_jax import checkpoint, experiment
from i3d_jax.data.dataset import Dataset
from i3d_jax.errors import UserError
from i3d_jax.evaluation.features import Features, compute, read
from i3d_jax.models.network import CLASSIFIER, Network
from i3d_jax.training import distributed
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import TrainState
from i3d_jax.training.transfer import FeatureBatches, features_step


def batches(
    config: ml_collections.ConfigDict,
    workdir: Path,
    dataset: Dataset,
    description: checkpoint.Description,
    model: Network,
    state: TrainState,
    devices: Devices,
    between: Callable[[], None] = lambda: None,
) -> FeatureBatches:
    """Returns this host's training batches of features of the training split's windows, from the state's position on.

    They are read from WORKDIR/features/SPLIT.npz if that holds those that this run asks for, else computed with the
    state's variables, on the devices of all hosts, and kept there. `between` is called before each batch of them.

    Raises:
      UserError: the run is under way, and the features that are kept are others than it asks for; or they cannot be
        computed or read.
    """
    path = workdir / "features" / f"{config.data.train_split}.npz"
    variables = devices.whole(state.variables)
    provenance = _provenance(config, dataset, description, variables)
    features = _kept(path, provenance, begun=int(state.step) > 0)
    # All compute or none: a network file system may show the file to some alone.
    if not all(distributed.gather(features is not None)):
        features = _compute(config, dataset, model, variables, devices, provenance, between)
        if distributed.is_first():
            features.save(path)
        distributed.say(f"the features are in {path}")
    # A window is a clip to train on.
    windows = {scope: values.reshape(-1, *values.shape[2:]) for scope, values in features.features.items()}
    return FeatureBatches(
        windows,
        np.repeat(features.label, config.evaluation.windows),
        batch_size=config.batch_size,
        seed=config.seed,
        first_row=int(state.clips),
        damaged=features.damaged if distributed.is_first() else (),
        host=jax.process_index(),
        hosts=jax.process_count(),
    )


def _kept(path: Path, provenance: Mapping[str, Any], *, begun: bool) -> Features | None:
    """Returns the features that a file holds if they are those asked for, else None; refuses others in a run begun."""
    if not path.is_file():
        return None
    features = read(path)
    different = [
        f"{name} was {features.provenance.get(name, 'absent')!r} and is {provenance.get(name, 'absent')!r}"
        for name in {**features.provenance, **provenance}
        # It changes when things are computed, and nothing of what.
        if name != "model.rematerialise" and features.provenance.get(name, "absent") != provenance.get(name, "absent")
    ]
    if not different:
        distributed.say(f"training on the features of {len(features.video)} videos in {path}")
        return features
    if begun:
        raise UserError(
            f"the run is under way on the features in {path}, which are others than are asked for now: "
            f"{'; '.join(different)}; choose another --workdir or go back"
        )
    distributed.say(f"{path} holds other features, which are computed again: {'; '.join(different)}")
    return None


def _compute(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    model: Network,
    variables: Mapping[str, Any],
    devices: Devices,
    provenance: Mapping[str, Any],
    between: Callable[[], None],
) -> Features:
    step = devices.compile_evaluation_step(features_step(model))
    clips = experiment.clips_to_evaluate(config, dataset, model, config.data.train_split)
    videos = dataset.videos(config.data.train_split)
    progress = tqdm(
        clips,
        total=-(-videos // experiment.evaluation_batch_size(config)),
        desc=f"features of {config.data.train_split}",
        unit=" batches",
        file=sys.stderr,
        disable=not distributed.is_first(),
    )

    def features_of(batch):
        between()
        return jax.tree.map(devices.local_rows, step(variables, devices.shard_batch(batch)))

    found = compute(features_of, progress, videos=videos)
    damaged = [damage for own in distributed.gather(list(clips.damaged)) for damage in own]
    if not len(found[0]):
        raise UserError(f"all {videos} records are damaged, among them {damaged[0]}")
    return Features(*found, tuple(damaged), provenance)


def _provenance(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    description: checkpoint.Description,
    variables: Mapping[str, Any],
) -> dict[str, Any]:
    """Says what features are of: a name for each thing that they depend on."""
    shards = [(path.name, path.stat().st_size) for path in dataset.shard_paths(config.data.train_split)]
    return {
        "dataset": dataset.name,
        "split": config.data.train_split,
        "shards": _digest(repr(shards).encode()),
        **{f"preprocessing.{name}": value for name, value in description.preprocessing.items()},
        "model": description.model,
        **{f"model.{name}": value for name, value in description.options.items() if name != "dropout_rate"},
        "network": _digest(*_frozen_bytes(variables)),
    }


def _frozen_bytes(variables: Mapping[str, Any]):
    flat = flax.traverse_util.flatten_dict(dict(variables))
    for path in sorted(flat):
        if CLASSIFIER not in path:
            yield "/".join(path).encode()
            yield np.asarray(jax.device_get(flat[path])).tobytes()


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
