"""Scores a split and leaves its predictions and figures in the workdir: on the way of a training, and by itself."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from i3d_jax import checkpoint
from i3d_jax.clips import AS_STORED, CONSECUTIVE_FRAMES
from i3d_jax.data.batches import Batches
from i3d_jax.data.dataset import Dataset
from i3d_jax.data.dense_batches import DenseBatches, dense_batches
from i3d_jax.data.labels import spelt
from i3d_jax.data.pipeline import BatchOptions, evaluation_batches
from i3d_jax.data.preprocessing import refuse_mismatch
from i3d_jax.evaluation import dense, protocol, results
from i3d_jax.evaluation.accuracy import bootstrap_interval, class_accuracy, score
from i3d_jax.evaluation.predictions import Batch, Predictions, predict
from i3d_jax.evaluation.protocol import DENSE, Protocol
from i3d_jax.models.network import CLASSIFIER, Network
from i3d_jax.run.summary import figures_text, stream_rows
from i3d_jax.system import hosts, lock, signals
from i3d_jax.system.errors import UserError, did_you_mean
from i3d_jax.system.files import is_folder
from i3d_jax.system.preemption import Termination
from i3d_jax.system.progress import Bar
from i3d_jax.training.partition import Devices
from i3d_jax.training.precision import of_dtype
from i3d_jax.training.step import evaluation_step

# What the log calls the figures of the training's own steps, whatever its split is called.
TRAINING_TAG = "train"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores a split and leaves `predictions/SPLIT.npz` and `results.json` in the workdir.

    With several hosts each scores its share of the videos; all get the figures and process 0 writes the files.

    Attributes:
      workdir: of the run.
      dataset, split: what is scored.
      network: what scores it.
      devices: what computes.
      options: of the batches.
      protocol: by which a video gets its scores.
      precision: "highest" or "default", as `training.precision` says.
      classes: what the network's scores are of, where they are not the dataset's own.
    """

    workdir: Path
    dataset: Dataset
    split: str
    network: Network
    devices: Devices
    options: BatchOptions
    protocol: Protocol
    precision: str
    classes: tuple[str, ...] | None = None

    @property
    def tag(self) -> str:
        """What the log, `metrics.jsonl` and TensorBoard call its figures: "train" are those of the training itself."""
        return "train_evaluation" if self.split == TRAINING_TAG else self.split

    def seen_in_training(self, split: str) -> str | None:
        """Returns a warning where the split that is scored holds videos of one that is trained on, else None."""
        if not {*self.dataset.parts(self.split)} & {*self.dataset.parts(split)}:
            return None
        return (
            f"warning: the evaluation is of the split {self.split!r}, whose videos the network is trained on: its "
            "figures tell how well it has learnt them, not how well it does on others; evaluation.split names another"
        )

    def seen_in_training_of(self, provenance: Mapping[str, Any]) -> str | None:
        """Returns the warning of `seen_in_training` for a checkpoint that says what it was trained on."""
        if provenance.get("dataset") != self.dataset.name or provenance.get("split") not in self.dataset.split_names:
            return None
        return self.seen_in_training(provenance["split"])

    def batches(self, *, crops: int = 1) -> Batches:
        """Returns this host's batches of every video of the split: its windows, and so many crops of each."""
        return evaluation_batches(self.dataset, self.split, self.options, windows=self.protocol.windows, crops=crops)

    def of_network(self, network: Network) -> Evaluation:
        """Returns the same evaluation of another network."""
        sampling = dataclasses.replace(self.options.sampling, flow_per_frame=network.flow_per_frame)
        options = dataclasses.replace(self.options, sampling=sampling, streams=network.streams)
        return dataclasses.replace(self, network=network, options=options)

    def is_stored(self, step: int) -> bool:
        """Says whether the workdir holds the figures of a training step, by this protocol."""
        stored = {**protocol.OF_BEFORE, "stride": self.options.sampling.stride, **self.stored()}
        return {"step": step, **self.described()}.items() <= stored.items()

    def stored(self) -> Mapping[str, Any]:
        """The figures that the workdir holds for the split, {} if none."""
        return results.read(self.workdir / "results.json").get(self.split, {})

    def described(self) -> dict[str, Any]:
        """The protocol, as `results.json` and the predictions say it."""
        return self.protocol.described(self.options.sampling)

    def __call__(
        self, variables: Mapping[str, Any], step: int | None, between: Callable[[], None] = lambda: None
    ) -> Mapping[str, Any]:
        """Scores every video with variables on the devices, and returns top1, top5, mean_class_accuracy, …

        `results.json` gets besides what they follow from and, as `streams`, the same of each stream alone, where the
        network's logits are made from those of its streams.

        Args:
          variables: {"params", "batch_stats"}.
          step: the training step that they come from, None if not known.
          between: called by every process before each batch.
        """
        variables = self.devices.whole(variables)
        classes = self.classes or self.dataset.labels
        predictions, batches = self._predict(variables, len(classes), between)
        numbers = np.array([classes.index(label) for label in self.dataset.labels], np.int32)
        predictions = dataclasses.replace(
            predictions,
            label=numbers[predictions.label],
            classes=np.array(classes, np.str_),
            protocol=self.described(),
        )
        damaged = [damage for own in hosts.gather(list(batches.damaged)) for damage in own]
        if not len(predictions.video):
            raise UserError(
                f"no video of {self.split!r} could be scored, all {len(damaged)} are damaged, among them {damaged[0]}"
            )
        figures = {
            **score(predictions.logits, predictions.label),
            "expected": self.dataset.videos(self.split),
            "damaged": len(damaged),
        }
        if not hosts.is_first():
            return figures
        predictions.save(self.workdir / "predictions" / f"{self.split}.npz")
        recorded = {
            **figures,
            "top1_interval": bootstrap_interval(predictions.logits, predictions.label),
            "step": step,
            **self.described(),
            "precision": of_dtype(self.precision, self.network.dtype),
        }
        if predictions.stream_logits:
            recorded["streams"] = {
                stream: score(predictions.stream_logits[stream], predictions.label) for stream in self.options.streams
            }
        accuracies = class_accuracy(predictions.logits, predictions.label)
        recorded["class_accuracy"] = {str(classes[number]): share for number, share in accuracies.items()}
        results.record(self.workdir / "results.json", self.split, recorded)
        return figures

    def _predict(
        self, variables: Mapping[str, Any], classes: int, between: Callable[[], None]
    ) -> tuple[Predictions, Batches | DenseBatches]:
        """Returns the predictions of all hosts by the protocol, and this host's batches, which know what is damaged."""
        if self.protocol.name == DENSE:
            return self._predict_dense(variables, classes, between)
        batches = self.batches(crops=self.protocol.crops)
        apply = self.devices.compile_evaluation_step(
            evaluation_step(self.network, average=self.protocol.average, precision=self.precision)
        )

        def score_batch(batch):
            between()
            return apply(variables, self.devices.shard_batch(batch))

        def fetch(scores):
            return jax.tree.map(self.devices.local_rows, scores)

        own = predict(score_batch, self._shown(batches), classes, fetch=fetch)
        return own.of_all_hosts(self.options.global_row), batches

    def _predict_dense(
        self, variables: Mapping[str, Any], classes: int, between: Callable[[], None]
    ) -> tuple[Predictions, DenseBatches]:
        """As `_predict`, of all frames of every video."""
        cut = dense.pieces(self.network, self.options.sampling.frames)
        batches = dense_batches(self.dataset, self.split, self.options, cut)
        apply = self.devices.compile_evaluation_step(dense.dense_step(self.network, cut, precision=self.precision))
        flat = flax.traverse_util.flatten_dict(dict(variables["params"]))
        classifiers = flax.traverse_util.unflatten_dict(
            {path: jax.device_put(hosts.whole(leaf)) for path, leaf in flat.items() if CLASSIFIER in path}
        )
        finish = jax.jit(functools.partial(dense.finish, self.network))

        def score_batch(batch):
            between()
            return apply(variables, self.devices.shard_batch(batch))

        own = dense.predict(
            score_batch,
            self._shown(batches),
            classes,
            cut=cut,
            finish=lambda features: finish(classifiers, features),
            fetch=lambda sums: jax.tree.map(self.devices.local_rows, sums),
        )
        return own.of_all_hosts(lambda records: records), batches

    def _shown(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields the batches and shows how many of all hosts' videos are scored: each host has its share of a batch."""
        videos = self.dataset.videos(self.split)
        done = 0
        with Bar(f"scoring {self.split}", total=videos, unit="videos", shown=hosts.is_first(), stays=False) as bar:
            for batch in batches:
                yield batch
                if "record" in batch:
                    # Pieces, of which a video has many; the videos come in order.
                    done = max(done, int(batch["record"].max()) + 1)
                else:
                    done = min(videos, done + len(batch["mask"]) * self.options.hosts)
                bar.to(done)


def evaluate(evaluation: Evaluation, source: Path | None) -> None:
    """Scores a checkpoint, as `Run.evaluate` says."""
    directory = checkpoint.find(source or evaluation.workdir)
    if source is not None:
        _refuse_own_folder(evaluation.workdir, directory)
    with (
        lock.held(evaluation.workdir) if hosts.is_first() else contextlib.nullcontext(),
        signals.advised(lambda: "start again to go on"),
        Termination() as termination,
    ):
        network, variables, metadata = checkpoint.load(directory)
        dataset = evaluation.dataset
        if source is None:
            checkpoint.refuse_other_labels(
                metadata["labels"], dataset.labels, where=str(directory), other=str(dataset.directory)
            )
        else:
            evaluation = _among_classes(evaluation, metadata["labels"], directory)
        of_recipe = {
            "crop": evaluation.options.crop,
            "stride": evaluation.options.sampling.stride,
            "network_short_side": evaluation.options.network_short_side,
        }
        refuse_mismatch(
            {**CONSECUTIVE_FRAMES, **AS_STORED, **metadata["preprocessing"]},
            {**dataset.preprocessing.to_json(), **of_recipe},
            expected_by=str(directory),
            found_in=f"{dataset.directory} as the recipe takes them",
        )
        warning = evaluation.seen_in_training_of(metadata["provenance"])
        if warning:
            hosts.warn(warning)
        evaluation = evaluation.of_network(network)
        variables = evaluation.devices.place(variables)
        evaluation(variables, metadata["provenance"].get("step"), termination.between)
    if hosts.is_first():
        print(figures_text(evaluation.split, evaluation.stored()))
        print(f"  {'protocol':12s} {protocol.text(evaluation.described())}")
        for name, text in stream_rows(evaluation.stored()):
            print(f"  {name:12s} {text}")
        print(
            f"of {directory}; the predictions are in {evaluation.workdir / 'predictions' / f'{evaluation.split}.npz'}"
        )


def _refuse_own_folder(workdir: Path, directory: Path) -> None:
    """Raises a `UserError` for a workdir that holds checkpoints, whose own figures would be written over."""
    found = workdir.resolve()
    if found in (directory, *directory.parents) or is_folder(found / "checkpoints"):
        raise UserError(
            f"--workdir {workdir} holds checkpoints of its own: another folder was expected for the figures of "
            f"{directory}"
        )


def _among_classes(evaluation: Evaluation, classes: Sequence[str], directory: Path) -> Evaluation:
    """Returns the evaluation among a checkpoint's classes, of which the dataset's are some, by their names."""
    named = {_name(label): label for label in classes}
    labels = evaluation.dataset.labels
    if lacking := [label for label in labels if _name(label) not in named]:
        raise UserError(
            f"{len(lacking)} of the {len(labels)} classes of {evaluation.dataset.directory} are none of {directory}, "
            f"the first {lacking[0]!r}{did_you_mean(lacking[0], classes)}"
        )
    if len(named) < len(classes) or len({_name(label) for label in labels}) < len(labels):
        raise UserError(f"{directory} and {evaluation.dataset.directory}: two classes have one name but for its case")
    # As the dataset spells those that it has.
    own = {_name(label): label for label in labels}
    return dataclasses.replace(evaluation, classes=tuple(own.get(name, label) for name, label in named.items()))


def _name(label: str) -> str:
    """A class's name as far as two files of one dataset agree on it: in any case, with blanks or underscores."""
    return spelt(label.replace("_", " ")).casefold()
