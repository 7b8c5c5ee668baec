"""The protocol `fixed`: the features of the training videos, computed once and kept in the workdir, to train on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from i3d_jax import checkpoint
from i3d_jax.data.dataset import Dataset
from i3d_jax.evaluation.features import Features, compute, read
from i3d_jax.models.network import CLASSIFIER
from i3d_jax.run.evaluate import Evaluation
from i3d_jax.run.training_clips import TrainingClips
from i3d_jax.system import hosts, progress
from i3d_jax.system.errors import UserError
from i3d_jax.system.files import is_file
from i3d_jax.training.state import TrainState
from i3d_jax.training.transfer import FeatureBatches, features_step


def batches(
    evaluation: Evaluation,
    clips: TrainingClips,
    description: checkpoint.Description,
    state: TrainState,
    between: Callable[[], None] = lambda: None,
) -> FeatureBatches:
    """Returns this host's training batches of features of the training split's windows, from the state's position on.

    They are read from WORKDIR/features/SPLIT.npz if that holds those that this run asks for, else computed with the
    state's variables, on the devices of all hosts, and kept there.

    Args:
      evaluation: of the run: its windows are what features are computed of, and its devices compute them.
      clips: which split is trained on, in which batches and by which seed.
      description: of the run's checkpoints.
      state: where the training begins.
      between: called before each batch of features that is computed.

    Raises:
      UserError: the run is under way, and the features that are kept are others than it asks for; or they cannot be
        computed or read.
    """
    evaluation = dataclasses.replace(evaluation, split=clips.split)
    path = evaluation.workdir / "features" / f"{clips.split}.npz"
    variables = evaluation.devices.whole(state.variables)
    provenance = _provenance(evaluation.dataset, clips.split, description, variables)
    features = _kept(path, provenance, begun=int(state.step) > 0)
    # All compute or none: a network file system may show the file to some alone.
    known_to_all = all(hosts.gather(features is not None))
    if features is None or not known_to_all:
        features = _compute(evaluation, variables, provenance, between)
        if hosts.is_first():
            features.save(path)
        hosts.say(f"the features are in {path}")
    # A window is a clip to train on.
    windows = {scope: values.reshape(-1, *values.shape[2:]) for scope, values in features.features.items()}
    return FeatureBatches(
        windows,
        np.repeat(features.label, evaluation.protocol.windows),
        batch_size=clips.options.batch_size,
        seed=clips.seed,
        first_row=int(state.clips),
        damaged=features.damaged if hosts.is_first() else (),
        host=clips.options.host,
        hosts=clips.options.hosts,
    )


def _kept(path: Path, provenance: Mapping[str, Any], *, begun: bool) -> Features | None:
    """Returns the features that a file holds if they are those asked for, else None; refuses others in a run begun."""
    if not is_file(path):
        return None
    features = read(path)
    different = [
        f"{name} was {features.provenance.get(name, 'absent')!r} and is {provenance.get(name, 'absent')!r}"
        for name in {**features.provenance, **provenance}
        # It changes when things are computed, and nothing of what.
        if name != "model.rematerialise" and features.provenance.get(name, "absent") != provenance.get(name, "absent")
    ]
    if not different:
        hosts.say(f"training on the features of {len(features.video)} videos in {path}")
        return features
    if begun:
        raise UserError(
            f"the run is under way on the features in {path}, which are others than are asked for now: "
            f"{'; '.join(different)}; choose another --workdir or go back"
        )
    hosts.say(f"{path} holds other features, which are computed again: {'; '.join(different)}")
    return None


def _compute(
    evaluation: Evaluation,
    variables: Mapping[str, Any],
    provenance: Mapping[str, Any],
    between: Callable[[], None],
) -> Features:
    """Computes the features of the windows that an evaluation sees."""
    devices, split = evaluation.devices, evaluation.split
    step = devices.compile_evaluation_step(features_step(evaluation.network))
    clips = evaluation.batches()
    videos = evaluation.dataset.videos(split)
    shown = progress.over(
        clips,
        f"features of {split}",
        total=evaluation.options.rounds(videos),
        unit="steps",
        shown=hosts.is_first(),
    )

    def features_of(batch):
        between()
        return jax.tree.map(devices.local_rows, step(variables, devices.shard_batch(batch)))

    found = compute(features_of, shown, videos=videos)
    damaged = [damage for own in hosts.gather(list(clips.damaged)) for damage in own]
    if not len(found[0]):
        raise UserError(f"all {videos} records are damaged, among them {damaged[0]}")
    return Features(*found, tuple(damaged), provenance)


def _provenance(
    dataset: Dataset, split: str, description: checkpoint.Description, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Says what features are of: a name for each thing that they depend on."""
    shards = [(path.name, path.stat().st_size) for path in dataset.shard_paths(split)]
    return {
        "dataset": dataset.name,
        "split": split,
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
