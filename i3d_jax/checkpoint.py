"""Checkpoint directories: `model.json` beside an Orbax tree; saving, restoring, and fitting variables to a model.

    DIR/model.json     what the model is, how its pixels are prepared, where its weights come from
    DIR/digests.json   a checksum of every array of the tree, which is compared whenever one is read
    DIR/tree/          Orbax: `variables` {"params", "batch_stats"}; in training `training` too (optimizer, step, clips)

Where a run averages its parameters, `variables` holds the average and `training` the parameters themselves.

The tree appears by one rename, after the files: a directory with model.json and the tree is whole. In a bucket, where
nothing is renamed, all is written on this machine first and model.json, which goes there last, makes it whole. Those of
the time before there were digests have none.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import reprlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from i3d_jax import models
from i3d_jax.models.network import Network
from i3d_jax.system import copies, files, hosts
from i3d_jax.system.errors import UserError, one_line
from i3d_jax.system.files import entries, instead, is_file, is_folder, make_folder, read_object, written_whole
from i3d_jax.system.terminal import json_text

FORMAT_VERSION = 1
DIGESTS = "digests.json"
# Which of a workdir's checkpoints.
NEWEST, BEST = "newest", "best"
# Of the checksums: what processors compute in hardware and TFRecords use. It finds damage, and no forgery.
_ALGORITHM = "crc32c"
# What no array of a trained network comes near; a flipped bit of an exponent goes far beyond it.
_MOST_OF_A_NETWORK = 1e9
# After a failure: so often in a row nothing may have come back, of so many looks at the most.
_QUIET_LOOKS, _MOST_LOOKS, _LOOK_SECONDS = 4, 40, 0.05
# What model.json must hold.
_KINDS = {
    "format_version": int,
    "model": str,
    "options": dict,
    "num_classes": int,
    "labels": list,
    "preprocessing": dict,
    "provenance": dict,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What `model.json` says.

    Attributes:
      model: the architecture's name, as `models.create` takes it.
      options: its options, JSON values.
      num_classes: class scores it gives.
      labels: the classes' names in the order of the scores.
      preprocessing: how pixels are prepared: the fields of `data.preprocessing.Preprocessing`, and `crop` (pixels),
        `frames` (of a window), `stride`, `flow_per_frame` (`clips.Sampling`) and `windows` (of a video) of the
        evaluation.
      provenance: where the weights come from, free JSON values.
    """

    model: str
    options: Mapping[str, Any]
    num_classes: int
    labels: Sequence[str]
    preprocessing: Mapping[str, Any]
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def create_model(self) -> Network:
        """Makes the model that it describes; a `UserError` says what is wrong with its options."""
        try:
            return models.create(self.model, self.num_classes, **self.options)
        # Values of other kinds than expected are met with exceptions of many kinds.
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"the options {dict(self.options)} are none of {self.model!r}: {error}") from error

    def write(self, directory: Path, name: str = "model.json") -> None:
        """Writes `model.json`, or the same under another name, into a directory, whole or not at all."""
        text = json_text({"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}, indent=2)
        with written_whole(directory / name) as file:
            file.write(text.encode() + b"\n")

    @classmethod
    def read(cls, directory: Path, name: str = "model.json") -> Description:
        """Reads `model.json`, or the same under another name; a `UserError` names what is wrong with it."""
        path = directory / name
        fields = read_object(path)
        missing = [key for key in _KINDS if key not in fields]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}")
        for key, kind in _KINDS.items():
            if not isinstance(fields[key], kind) or isinstance(fields[key], bool):
                found = reprlib.repr(fields[key])
                raise UserError(f"{path}: {key!r} was expected to be a {kind.__name__}, found {found}")
        if fields["format_version"] != FORMAT_VERSION:
            raise UserError(f"{path} is of format version {fields['format_version']}, expected {FORMAT_VERSION}")
        if not all(isinstance(label, str) for label in fields["labels"]):
            raise UserError(f"{path}: 'labels' was expected to hold texts, found {reprlib.repr(fields['labels'])}")
        if len(fields["labels"]) != fields["num_classes"]:
            raise UserError(f"{path} names {len(fields['labels'])} labels for {fields['num_classes']} classes")
        return cls(**{field.name: fields[field.name] for field in dataclasses.fields(cls)})


def is_whole(directory: Path) -> bool:
    """Says whether a directory is a checkpoint that was written to the end."""
    if files.is_in_bucket(directory):
        return is_file(directory / "model.json")
    tree = directory / "tree"
    return is_file(directory / "model.json") and is_folder(tree) and ocp.utils.is_checkpoint_finalized(tree)


def steps_in(directory: Path) -> list[int]:
    """The steps of the whole checkpoints in a folder of them (`WORKDIR/checkpoints`), rising."""
    if not is_folder(directory):
        return []
    return sorted(int(entry.name) for entry in entries(directory) if entry.name.isdigit() and is_whole(entry))


def refuse_no_text(directory: Path) -> None:
    """Raises a `UserError` for a folder whose path is no text: what reads and writes arrays cannot name it."""
    try:
        str(directory).encode()
    except UnicodeEncodeError:
        raise UserError(f"a checkpoint's folder needs a path that is text in UTF-8, found {str(directory)!r}") from None


def best_in(directory: Path) -> int | None:
    """The step of the best checkpoint in a folder of them, the later of equals; None where none has metrics.

    The best is the one whose `provenance.metrics.top1` is highest; a `UserError` says that one has no number there.
    """
    found: list[tuple[float, int]] = []
    for step in steps_in(directory):
        metrics = Description.read(directory / str(step)).provenance.get("metrics")
        if not metrics:
            continue
        top1 = metrics.get("top1") if isinstance(metrics, dict) else None
        if not isinstance(top1, int | float):
            raise UserError(
                f"{directory / str(step) / 'model.json'}: a number was expected as top1 of the provenance's metrics, "
                f"found {reprlib.repr(metrics)}"
            )
        found.append((top1, step))
    return max(found)[1] if found else None


def find(directory: str | os.PathLike, step: str | int = NEWEST) -> Path:
    """Finds the checkpoint that a directory stands for: itself, or one of a workdir or of its `checkpoints`.

    Args:
      directory: a checkpoint directory, a workdir or its `checkpoints`.
      step: which of several: `NEWEST`, `BEST` (by top-1 of the evaluations while it was trained) or its number.

    Raises:
      UserError: there is none, or no such step.
    """
    directory = files.path(directory).resolve()
    refuse_no_text(directory)
    if (found := instead(directory)) not in ("a folder", "nothing"):
        raise UserError(f"a checkpoint directory was expected at {directory}, found {found}")
    if found == "nothing":
        raise UserError(f"the checkpoint directory {directory} does not exist")
    if is_whole(directory):
        if step != NEWEST:
            raise UserError(f"{directory} is one checkpoint: a workdir was expected, of which to take the step {step}")
        return directory
    for folder in (directory / "checkpoints", directory):
        if steps := steps_in(folder):
            taken = steps[-1] if step == NEWEST else best_in(folder) if step == BEST else step
            if taken not in steps:
                raise UserError(f"{directory} has no checkpoint {step!r}: there are {', '.join(map(str, steps))}")
            return folder / str(taken)
    raise UserError(
        f"{directory} holds no whole checkpoint: expected model.json and tree/, or a workdir with checkpoints/"
    )


def save(directory: str | os.PathLike, description: Description, variables: Mapping[str, Any]) -> None:
    """Writes a model's variables {"params", "batch_stats"} as a checkpoint directory, and waits until it is whole.

    Of several processes all call it, with the same. What an exception (a full disk, Ctrl-C) or a crash leaves
    half-written is removed, at once or by the next call.

    Raises:
      UserError: the directory exists and holds something else, or a whole checkpoint; or it cannot be made.
    """
    tell_once()
    directory = files.path(directory).resolve()
    if hosts.is_first():
        refuse_taken(directory)
        make_folder(directory)
        _empty(directory)
    if files.is_in_bucket(directory):
        variables = jax.tree.map(np.asarray, dict(variables))
        if hosts.is_first():
            save_in_bucket(directory, description, {"variables": variables})
        hosts.wait()
        return
    try:
        if hosts.is_first():
            description.write(directory)
        # As NumPy's: of several processes Orbax writes no array that is on one's own devices.
        variables = jax.tree.map(np.asarray, dict(variables))
        write_digests(directory, {"variables": variables})
        hosts.wait()
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
            writer.save(directory / "tree", ocp.args.Composite(variables=ocp.args.StandardSave(variables)))
    except BaseException:
        if hosts.is_first():
            _empty_for_good(directory)
        raise


def save_in_bucket(directory: Path, description: Description, items: Mapping[str, Any]) -> None:
    """Writes a checkpoint, of trees of NumPy arrays, into a bucket from this process alone, and waits for its end."""
    files.remove_folder(directory)
    with tempfile.TemporaryDirectory(prefix="i3d_jax-") as temporary:
        local = Path(temporary)
        write_digests(local, items)
        writes, alone = _alone()
        with ocp.Checkpointer(writes, multiprocessing_options=alone) as writer:
            kept = {item: ocp.args.StandardSave(tree) for item, tree in items.items()}
            writer.save(local / "tree", ocp.args.Composite(**kept))
        copies.upload(local, directory)
    description.write(directory)


def _alone() -> tuple[ocp.CompositeCheckpointHandler, ocp.options.MultiprocessingOptions]:
    """Returns what Orbax reads and writes with in this process: otherwise all of a run wait for one another there."""
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process {own} alone"
    )
    handlers = {
        name: ocp.StandardCheckpointHandler(multiprocessing_options=alone) for name in ("variables", "training")
    }
    options = ocp.CompositeOptions(multiprocessing_options=alone)
    return ocp.CompositeCheckpointHandler(composite_options=options, **handlers), alone


def _empty_for_good(directory: Path) -> None:
    """Empties a directory that threads of Orbax may still write to, until nothing has come back for a while."""
    quiet = 0
    for _ in range(_MOST_LOOKS):
        quiet = 0 if any(directory.iterdir()) else quiet + 1
        if quiet == _QUIET_LOOKS:
            break
        _empty(directory)
        time.sleep(_LOOK_SECONDS)


def refuse_taken(directory: Path) -> None:
    """Raises a `UserError` unless `save` may write there: a new folder, an empty one, or a checkpoint cut short."""
    refuse_no_text(directory)
    if instead(directory) == "nothing":
        return
    if not (is_folder(directory) and all(map(_is_own, entries(directory))) and not is_whole(directory)):
        raise UserError(f"{directory} exists and is no empty folder: a checkpoint is written to a new one")


def _is_own(entry: Path) -> bool:
    """Says whether something in a checkpoint's folder is what `save` writes, or was about to."""
    if entry.is_dir():
        return entry.name.partition(".orbax-checkpoint-tmp")[0] == "tree"
    return entry.name.partition(".tmp-")[0] in ("model.json", DIGESTS)


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir():
            files.remove_folder(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def load(directory: str | os.PathLike) -> tuple[Network, dict[str, Any], dict[str, Any]]:
    """Reads a checkpoint.

    Args:
      directory: a checkpoint directory, or a workdir (its newest checkpoint is read).

    Returns:
      (model, variables {"params", "batch_stats"} as NumPy arrays, metadata: the object of `model.json`).

    Raises:
      UserError: there is no whole checkpoint, its variables are not those of its model, or an array is damaged.
    """
    directory = find(directory)
    description = Description.read(directory)
    try:
        model = description.create_model()
    except UserError as error:
        raise UserError(f"{directory / 'model.json'}: {error}") from error
    stored = restore(directory, ["variables"])["variables"]
    variables = fit(stored, models.template(model), source=str(directory), target=f"the model {description.model!r}")
    return model, variables, read_object(directory / "model.json")


def refuse_other_labels(labels: Sequence[str], others: Sequence[str], *, where: str, other: str) -> None:
    """Raises a `UserError` unless two lists of labels, and what to call the places they are from, are the same."""
    if list(labels) == list(others):
        return
    if len(labels) != len(others):
        raise UserError(f"{where} knows {len(labels)} classes, {other} has {len(others)}")
    index = next(i for i, (one, another) in enumerate(zip(labels, others, strict=True)) if one != another)
    raise UserError(
        f"{where} and {other} have other classes: number {index} is {labels[index]!r} against {others[index]!r}"
    )


def tell_once() -> None:
    """Keeps Orbax and asyncio from printing a traceback for every array of a failure, which Orbax raises besides."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def restore(directory: Path, items: Sequence[str]) -> dict[str, Any]:
    """Reads trees of a checkpoint as NumPy arrays, whatever devices they were written from, in this process alone.

    Args:
      directory: a checkpoint directory.
      items: "variables" or "training", or both.

    Returns:
      The trees by item.

    Raises:
      UserError: one cannot be read, or an array is not the one that was written; it is named.
    """
    tell_once()
    with copies.on_this_machine(directory / "tree") as path:
        stored = _read(directory, path, items)
    refuse_damaged(directory, stored)
    return stored


def _read(directory: Path, path: Path, items: Sequence[str]) -> dict[str, Any]:
    """Reads trees of a checkpoint from where its tree stands on this machine."""
    try:
        reads, alone = _alone()
        with ocp.Checkpointer(reads, multiprocessing_options=alone) as reader:
            shapes = reader.metadata(path).item_metadata
            if any(shapes[item] is None for item in items):
                raise ValueError("its list of arrays is missing or damaged")
            targets = {
                item: jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes[item].tree) for item in items
            }
            args = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
            return dict(reader.restore(path, ocp.args.Composite(**args)).items())
    except Exception as error:
        # Orbax takes what it may not read for missing, and trusts what it reads: a damaged list of arrays fails where
        # it is used first, with whatever is raised there (NotImplementedError, AssertionError and TypeError were seen).
        files.refuse_unreadable_below(path)
        raise UserError(f"the checkpoint {directory} cannot be read: {one_line(error)}") from error


def write_digests(directory: Path, items: Mapping[str, Any]) -> None:
    """Writes `digests.json` of the trees that a checkpoint is to hold, by item; every process has to come here."""
    digests = {
        f"{item}/{name}": _digest(hosts.whole(leaf)) for item, tree in items.items() for name, leaf in named(tree)
    }
    if not hosts.is_first():
        return
    with written_whole(directory / DIGESTS) as file:
        file.write(json_text({"algorithm": _ALGORITHM, "arrays": digests}, indent=1).encode() + b"\n")


def _digest(array: np.ndarray) -> str:
    """The CRC-32C of an array's dtype, shape and bytes, as eight hexadecimal digits: "float32 [3, 4]" and then 48."""
    # Imported here: a network is made and applied without it.
    import google_crc32c

    kind = google_crc32c.value(f"{array.dtype} {list(array.shape)}".encode())
    return f"{google_crc32c.extend(kind, array.tobytes()):08x}"


def refuse_damaged(directory: Path, stored: Mapping[str, Any]) -> None:
    """Raises a `UserError` unless all arrays of these trees, by item, are those of the checkpoint's digests."""
    path = directory / DIGESTS
    if not is_file(path):
        hosts.warn(f"{directory} has no {DIGESTS}: it is of an earlier version, and damage to its arrays goes unseen")
        for name, leaf in named({"variables": stored.get("variables", {})}):
            if (sizes := np.abs(leaf))[sizes > _MOST_OF_A_NETWORK].size:
                raise UserError(f"the checkpoint {directory} is damaged: {name} holds {np.nanmax(sizes):.2g} in size")
        return
    fields = read_object(path)
    if fields.get("algorithm") != _ALGORITHM or not isinstance(fields.get("arrays"), dict):
        raise UserError(f"{path}: the algorithm {_ALGORITHM!r} and an object of arrays were expected, found others")
    found = {f"{item}/{name}": _digest(leaf) for item, tree in stored.items() for name, leaf in named(tree)}
    expected = {name: digest for name, digest in fields["arrays"].items() if name.split("/")[0] in stored}
    every = {**expected, **found}
    damaged = [name for name in every if expected.get(name) != found.get(name)]
    if damaged:
        raise UserError(
            f"the checkpoint {directory} is damaged: {len(damaged)} of its {len(every)} arrays are not as {DIGESTS} "
            f"says that they were written: {_some(damaged)}"
        )


def named(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a pytree with their names: "params/Logits/bias", "optimizer_state/1/0/trace/…"."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def fit(stored: Any, template: Any, *, source: str, target: str) -> Any:
    """Returns a pytree's arrays in the structure of a template, if they have its names and shapes.

    Args:
      stored: {"params", "batch_stats"} from somewhere else, or another pytree.
      template: the same of arrays or shapes.
      source, target: what to call the two sides.

    Raises:
      UserError: names that only one side has, and shapes that differ, of both sides.
    """
    theirs, ours = dict(named(stored)), dict(named(template))
    problems = [
        f"{name} {list(theirs[name].shape)} against {list(ours[name].shape)}"
        for name in ours
        if name in theirs and theirs[name].shape != ours[name].shape
    ]
    for only, one, other in ((ours, target, theirs), (theirs, source, ours)):
        if lacking := [name for name in only if name not in other]:
            problems.append(f"only {one} has {_some(lacking)}")
    if problems:
        raise UserError(f"the variables of {source} do not fit {target}: " + "; ".join(problems[:6]))
    return jax.tree.unflatten(jax.tree.structure(template), [theirs[name] for name in ours])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
