"""Mutants of every kind of input, read by the very functions that the commands read them with: many in one process.

    python -m benchmarks.faults.reading MATERIALS FOLDER SEED NUMBER …

It is started by the campaign, and prints a line of JSON when it begins a mutant and one when it has read it. Whatever
an error is, it is told; what ends the process, or hangs, is told by the line that is missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import mutants
from .materials import ACTIONS, Materials
from .processes import MOST_BYTES

SECONDS = 60
# Beyond what the libraries take of addresses when they are imported.
MORE_ADDRESSES = 6 << 30
# So often nothing is damaged, and the input has to be used: refused for another reason, no mutant would tell anything.
UNDAMAGED = 25
UNTOUCHED = "nothing"


class Wrong(Exception):
    """A mutant was used, and something else than what was written came out."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
      folder: of the materials, copied for each mutant.
      files: a pattern of those of which one is damaged.
      mutate: damages it.
      read: reads the copy, given the name of the damaged file; raises what the commands tell in a sentence, or `Wrong`.
      used: whether an undamaged one is used to the end.
    """

    folder: str
    files: str
    mutate: Callable[[bytes, random.Random], tuple[bytes | None, str]]
    read: Callable[[Path, Path, Mapping[str, Any], random.Random], None]
    used: bool = True


def _video(folder: Path, damaged: Path, original: Mapping[str, Any], draw: random.Random) -> None:
    from i3d_jax.data.preprocessing import Preprocessing
    from i3d_jax.video.windows import read_windows

    prepared = Preprocessing(frame_rate=10.0, short_side=40).to_json()
    preprocessing = {**prepared, "crop": 32, "frames": 9, "windows": 2}
    windows = read_windows(damaged, preprocessing, streams=("rgb",), where="the campaign")["rgb"]
    if windows.shape != (2, 9, 32, 32, 3) or windows.dtype != "uint8":
        raise Wrong(f"windows of {windows.shape}, {windows.dtype}")


def _batches(folder: Path, share: float) -> dict[str, bytes]:
    from i3d_jax import clips
    from i3d_jax.data.dataset import open_dataset
    from i3d_jax.data.pipeline import BatchOptions, evaluation_batches, training_batches

    sampling = clips.Sampling(frames=4, stride=1, flow_per_frame=0)
    options = BatchOptions(batch_size=4, sampling=sampling, streams=("rgb",), crop=32, max_damaged_share=share)
    dataset = open_dataset(folder)
    found = {}
    for split in dataset.split_names:
        for batch in evaluation_batches(dataset, split, options, windows=1):
            for row in batch["mask"].nonzero()[0]:
                found[str(batch["video"][row])] = batch["rgb"][row].tobytes() + batch["label"][row].tobytes()
    batches = training_batches(dataset, "train", options, flip=False, seed=0)
    for _ in range(2):
        next(batches)
    return found


def _dataset(folder: Path, damaged: Path, original: Mapping[str, Any], draw: random.Random) -> None:
    for video, pixels in _batches(folder, draw.choice((0.05, 1.0))).items():
        if original["dataset"].get(video) != pixels:
            raise Wrong(f"other pixels or another label of {video!a}")


def _sequence_examples(folder: Path, damaged: Path, original: Mapping[str, Any], draw: random.Random) -> None:
    from i3d_jax import clips
    from i3d_jax.data.foreign import Stated
    from i3d_jax.data.foreign_records import open_records
    from i3d_jax.data.pipeline import BatchOptions, evaluation_batches

    for own in ("dataset.json", "skipped.csv", "notes.csv"):
        (folder / own).unlink(missing_ok=True)
    sampling = clips.Sampling(frames=4, stride=1, flow_per_frame=0)
    options = BatchOptions(batch_size=4, sampling=sampling, streams=("rgb",), crop=32, max_damaged_share=1.0)
    dataset = open_records(folder, labels=None, stated=Stated())
    for split in dataset.split_names:
        for _ in evaluation_batches(dataset, split, options, windows=1):
            pass


def _checkpoint(folder: Path, damaged: Path, original: Mapping[str, Any], draw: random.Random) -> None:
    from i3d_jax import checkpoint
    from i3d_jax.video.view import completed

    model, variables, metadata = checkpoint.load(folder)
    completed(metadata["preprocessing"], streams=model.streams, where="the campaign")
    # Where the digests themselves are gone, a note says that damage goes unseen.
    if damaged.name not in ("model.json", "digests.json"):
        _refuse_others(original["checkpoint"], variables)


def _hub(folder: Path, damaged: Path, original: Mapping[str, Any], draw: random.Random) -> None:
    from i3d_jax.importers import hub

    _, variables, _ = hub.read(folder)
    if damaged.suffix == ".safetensors":
        _refuse_others(original["checkpoint"], variables)


def _refuse_others(expected: Any, found: Any) -> None:
    import jax

    theirs, ours = (jax.tree.leaves(tree) for tree in (expected, found))
    if len(theirs) != len(ours) or any(a.tobytes() != b.tobytes() for a, b in zip(theirs, ours, strict=True)):
        raise Wrong("other arrays than were saved")


def _statistics(folder: Path, damaged: Path, original: Mapping[str, Any], draw: random.Random) -> None:
    from i3d_jax.fvd import saved

    if not saved.are_at(damaged):
        return
    moments = saved.read(damaged).moments
    if len(moments.mean) != 4:
        raise Wrong(f"a mean of {len(moments.mean)} features")


def _features(folder: Path, damaged: Path, original: Mapping[str, Any], draw: random.Random) -> None:
    from i3d_jax.inference.feature_files import Folder
    from i3d_jax.inference.presets import PRESETS

    # Those of another video say what is asked for.
    other = next(path for path in sorted(folder.glob("*.json")) if path != damaged)
    of_the_video = ("files", "shape", "frames", "frames_a_second")
    settings = {key: value for key, value in json.loads(other.read_text()).items() if key not in of_the_video}
    Folder(folder, next(iter(PRESETS.values())), settings).is_done(damaged.stem)


def _recipe(folder: Path, damaged: Path, original: Mapping[str, Any], draw: random.Random) -> None:
    from i3d_jax.run import build, recipe

    # A process has one recipe; the library keeps the names of the one before.
    sys.modules.pop("config_config", None)
    config = recipe.load(str(folder / "own.py"), [f"--config.data.directory={original['directory']}"])
    build(config, folder / "workdir")


def _small(folder: Path, damaged: Path, original: Mapping[str, Any], draw: random.Random) -> None:
    _SMALL[damaged.name.partition(".data-")[0]](damaged)


def _annotations(dialect: str) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        from i3d_jax.ingest import annotations

        named = path.with_name("trainlist01.txt") if path.name == "classInd.txt" else path
        annotations.read(dialect, named, path.parent)

    return read


def _classes(path: Path) -> None:
    from i3d_jax.importers.labels import read_labels
    from i3d_jax.ingest.annotations import ClassList

    ClassList.read([path])
    read_labels(path, len(ACTIONS))


def _metrics(path: Path) -> None:
    from i3d_jax.training.logs import MetricsFile

    MetricsFile(path, after_step=5).write(6, "train", {"loss": 1.0})
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise Wrong(f"{name} in JSON")


def _read_by(module: str, function: str, **arguments: Any) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        import importlib

        found: Any = importlib.import_module(f"i3d_jax.{module}")
        for name in function.split("."):
            found = getattr(found, name)
        found(path, **arguments)

    return read


_SMALL: dict[str, Callable[[Path], object]] = {
    "predictions.npz": _read_by("evaluation.predictions", "Predictions.load"),
    "features.npz": _read_by("evaluation.features", "read"),
    "results.json": _read_by("evaluation.results", "record", split="test", figures={"top1": 1.0}),
    "metrics.jsonl": _metrics,
    "kinetics.csv": _annotations("kinetics"),
    "trainlist01.txt": _annotations("ucf101"),
    "classInd.txt": _annotations("ucf101"),
    "growing_test_split1.txt": _annotations("hmdb51"),
    "labels.csv": _annotations("csv"),
    "classes.txt": _classes,
    "arrays.ckpt": _read_by("importers.flax_i3d", "read", stream=None),
    "arrays.tar.gz": _read_by("importers.flax_i3d", "read", stream=None),
    "arrays.pt": _read_by("importers.torch_i3d", "read", stream=None),
    "arrays.safetensors": _read_by("importers.torch_i3d", "read", stream=None),
    "model.ckpt": _read_by("importers.sonnet_i3d", "read", stream=None),
    "model.ckpt.index": _read_by("importers.sonnet_i3d", "read", stream=None),
}


def _configuration(folder: Path, damaged: Path, original: Mapping[str, Any], draw: random.Random) -> None:
    from pathlib import Path

    from i3d_jax.run import build, recipe

    keys = sorted(recipe.flat(recipe.load("custom.py:small", [])))
    odd = [*mutants.ODD_TEXTS, "True", "(1,)", "(-1.0,)", "(None,)", "()", "(nan,)", "-1", "1000000000000000000", "0.5"]
    changes = [f"--config.{draw.choice(keys)}={draw.choice(odd)}" for _ in range(draw.choice((1, 1, 2)))]
    given = [f"--config.data.directory={folder}", "--config.data.crop=32", "--config.data.frames=9"]
    config = recipe.load("custom.py:small", [*given, *changes])
    build(config, Path(folder / "workdir"))


KINDS = {
    "video": Kind("videos", "*.[am]*", mutants.mutated, _video),
    "shard": Kind("dataset", "*.tfrecord", mutants.mutated, _dataset),
    "shard index": Kind("dataset", "index/*", mutants.mutated_json, _dataset),
    "dataset.json": Kind("dataset", "dataset.json", mutants.mutated_json, _dataset),
    "SequenceExamples": Kind("dataset", "*.tfrecord", mutants.mutated, _sequence_examples),
    "checkpoint": Kind("checkpoint", "tree/**/*", mutants.mutated, _checkpoint),
    "model.json": Kind("checkpoint", "*.json", mutants.mutated_json, _checkpoint),
    "annotations": Kind("tables", "*", mutants.mutated_table, _small),
    "archive (npz)": Kind("small", "[pf]*.npz", mutants.mutated_arrays, _small),
    "statistics": Kind("small", "statistics*.npz", mutants.mutated_arrays, _statistics),
    "features": Kind("features", "*.json", mutants.mutated_json, _features),
    "hub folder": Kind("hub", "[cdm]*.*", mutants.mutated_json, _hub),
    "recipe": Kind("recipes", "*.py", mutants.mutated_recipe, _recipe),
    "results and metrics": Kind("small", "*.json*", mutants.mutated_json, _small),
    "foreign checkpoint": Kind("small", "[am][ro]*.*", mutants.mutated, _small, used=False),
    "configuration": Kind(
        "dataset", "dataset.json", lambda content, draw: (content, "values"), _configuration, used=False
    ),
}


def materials_of(kind: Kind, materials: Materials) -> Path:
    """Returns the folder that is copied for a mutant of a kind."""
    if kind.folder == "checkpoint":
        return materials.newest()
    if kind.folder == "tables":
        return materials.small()
    found: Path = getattr(materials, kind.folder)()
    return found


def prepared(number: int, seed: int, materials: Materials, folder: Path) -> tuple[str, Path, str, random.Random]:
    """Makes a mutant: returns its kind, the damaged file, what was done to it and the source of what is drawn next."""
    draw = random.Random(f"{seed} read {number}")
    name = list(KINDS)[number % len(KINDS)]
    kind = KINDS[name]
    source = materials_of(kind, materials)
    # By links: what is read is never written in place.
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, copy_function=os.link)
    files = sorted(path for path in folder.glob(kind.files) if path.is_file())
    if kind.folder == "tables":
        os.link(materials.videos() / "labels.csv", folder / "labels.csv")
        files = [path for path in [*files, folder / "labels.csv"] if path.suffix in (".txt", ".csv")]
    if kind.read is _small:
        files = [path for path in files if path.name.partition(".data-")[0] in _SMALL]
    damaged = draw.choice(files)
    before = damaged.read_bytes()
    mutate = kind.mutate
    if damaged.suffix == ".jsonl":
        mutate = _mutated_lines
    if damaged.suffix == ".safetensors":
        mutate = mutants.mutated
    if damaged.suffix == ".npz":
        mutate = mutants.mutated_arrays
    after, done = (before, UNTOUCHED) if draw.randrange(UNDAMAGED) == 0 else mutate(before, draw)
    damaged.unlink()
    if after is not None:
        damaged.write_bytes(after)
    return name, damaged, f"{damaged.relative_to(folder)}: {done}", draw


def _mutated_lines(content: bytes, draw: random.Random) -> tuple[bytes | None, str]:
    lines = content.splitlines(keepends=True)
    number = draw.randrange(len(lines))
    after, done = mutants.mutated_json(lines[number], draw)
    return b"".join([*lines[:number], (after or b"") + b"\n", *lines[number + 1 :]]), f"line {number + 1}, {done}"


@functools.cache
def _originals(materials: Materials) -> dict[str, Any]:
    from i3d_jax import checkpoint

    steps = materials_of(KINDS["checkpoint"], materials)
    dataset = materials.dataset()
    return {"dataset": _batches(dataset, 0.05), "directory": dataset, "checkpoint": checkpoint.load(steps)[1]}


def forget_peak() -> None:
    """Lets `peak_bytes` count from what this process holds now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Reads the most memory that this process has had since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def read(number: int, seed: int, materials: Materials, folder: Path) -> dict[str, Any]:
    """Makes a mutant and reads it; returns its kind, what it is, what came of it and in what way that is wrong."""
    from i3d_jax.system.errors import UserError

    originals = _originals(materials)
    name, damaged, what, draw = prepared(number, seed, materials, folder)
    forget_peak()
    violated, outcome = None, "used"
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            KINDS[name].read(folder, damaged, originals, draw)
    except UserError as error:
        outcome = f"refused: {error}"
        if what.endswith(f": {UNTOUCHED}") and KINDS[name].used:
            violated = f"undamaged, it is refused: {error}"
        elif "\n" in str(error) or not str(error).strip():
            violated = f"not one sentence: {str(error)!r:.300}"
    except Wrong as error:
        violated = f"used silently: {error}"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        violated = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error!s:.200}"
    if peak_bytes() > MOST_BYTES:
        violated = f"it needed {peak_bytes() / 1e9:.1f} GB"
    return {"number": number, "kind": name, "what": what, "outcome": outcome[:300], "violated": violated}


def main() -> None:
    """Reads the mutants of the numbers on the command line."""
    materials, folder, seed, *numbers = sys.argv[1:]
    # Of two recipes at one path, written in one second, Python might take the bytecode of the other.
    sys.dont_write_bytecode = True
    # What is missing there is the campaign's to make.
    kept = Materials(Path(materials))
    _originals(kept)
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MORE_ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))
    output = sys.stdout
    for number in map(int, numbers):
        print(json.dumps({"begun": number}), file=output, flush=True)
        # Without a handler, so that it also ends what does not come back to Python.
        signal.alarm(SECONDS)
        found = read(number, int(seed), kept, Path(folder))
        signal.alarm(0)
        print(json.dumps(found), file=output, flush=True)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
