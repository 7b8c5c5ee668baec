"""A run's configuration: read from a recipe, changed on the command line, kept in the workdir and compared with it."""

from __future__ import annotations

import importlib
import json
import math
import re
import reprlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from i3d_jax import checkpoint, models
from i3d_jax.data.pipeline import RANDOM
from i3d_jax.evaluation.protocol import LOGITS, WHOLE_VIDEO
from i3d_jax.system.errors import UserError, all_causes, did_you_mean, one_line
from i3d_jax.system.files import is_file, is_folder, make_folder, read_object, refuse_unreadable, written_whole
from i3d_jax.training.precision import DEFAULT

# The recipes that are installed with the package; in a checkout, its own.
INSTALLED_RECIPES = Path(__file__).resolve().parents[2] / "experiments"

# Keys that say how long, how often, where and in how much memory, not what is computed: a run may go on with others.
_FREE_KEYS: tuple[str, ...] = ("total_steps", "log_every", "checkpoints.", "evaluation.", "profile.")
# What keys stand for that recipes have not always had: so the runs of before were computed.
_OF_BEFORE: dict[str, Any] = {
    "data.network_short_side": 0,
    "data.order": RANDOM,
    "optimizer.plateau_stop": 0,
    "evaluation.protocol": WHOLE_VIDEO,
    "evaluation.crops": 1,
    "evaluation.average": LOGITS,
    "evaluation.precision": DEFAULT,
    "report": True,
}
# Of the evaluation, what decides nothing of a training whose learning rate follows from it.
_FREE_WITH_PLATEAU = ("evaluation.batch_size", "evaluation.precision")
_FREE_KEYS += ("report", "compilation_cache", "data.parallel_reads", "model.rematerialise", "parallel.shard_state")
_RATES = ("optimizer.learning_rates", "optimizer.boundaries")
# What the embedded dataset in a workdir follows from.
_DRAWN_BY = ("seed", "data.")


def find(recipe: str) -> tuple[Path, str]:
    """Finds a recipe in the working directory, else among those that are installed with the package.

    Args:
      recipe: "FILE.py" or "FILE.py:VARIANT". The ending may be left out, and "quickstart" is short for
        "experiments/quickstart.py".

    Returns:
      (the file, its path with the variant).

    Raises:
      UserError: there is no such recipe; those that there are are listed.
    """
    name, colon, variant = recipe.partition(":")
    path = Path(name if name.endswith(".py") else f"{name}.py")
    candidates = [Path(name), path]
    if path.parent == Path():
        candidates.append(Path("experiments", path))
    if path.parent in (Path(), Path("experiments")):
        candidates.append(INSTALLED_RECIPES / path.name)
    for candidate in candidates:
        if is_file(candidate):
            refuse_unreadable(candidate)
            return candidate, f"{candidate}{colon}{variant}"
    folder = Path(name) if is_folder(name) else path.parent
    if folder == Path() or not is_folder(folder):
        folder = Path("experiments")
    # What is installed is told by the short names, which are found from everywhere.
    there = [str(file) for file in _recipes(folder)] or [file.stem for file in _recipes(INSTALLED_RECIPES)]
    hint = did_you_mean(str(folder / path.name), there, cutoff=0.8) or did_you_mean(path.stem, there, cutoff=0.8)
    raise UserError(f"there is no recipe {name}{hint}; there are: {', '.join(there)}")


def _recipes(folder: Path) -> list[Path]:
    """Returns the recipes of a folder."""
    return sorted(file for file in folder.glob("*.py") if file.stem not in ("__init__", "base", "cells"))


def load(recipe: str, overrides: Sequence[str]) -> ml_collections.ConfigDict:
    """Reads a recipe and applies the command line's changes.

    Args:
      recipe: as `find` takes it; the file defines `get_config()` or `get_config(variant)`.
      overrides: arguments such as "--config.data.crop=112"; a value is read as the type of the recipe's own.

    Raises:
      UserError: no such recipe (those beside it are listed) or variant, one that fails or lacks a key that all have,
        an unknown key (the nearest is named), or a value of another type or without a letter.
    """
    path, found = find(recipe)
    # Recipes import their base as `experiments.base`, from wherever the command is run.
    sys.path.insert(0, str(path.resolve().parent.parent))
    try:
        own = _parsed(found, ())
        if not isinstance(own, ml_collections.ConfigDict):
            raise UserError(f"get_config() of {recipe} was expected to return a ConfigDict, found {type(own).__name__}")
        known = flat(own)
        _refuse_incomplete(known, recipe)
        for argument in overrides:
            key = argument.partition("=")[0].removeprefix("--config.")
            if not argument.startswith("--config."):
                raise UserError(f"unknown argument {argument!r}; a key of the recipe is set by --config.KEY=VALUE")
            if key not in known:
                # The last word counts most: someone who forgets the section has still spelt the key.
                last = key.split(".")[-1]
                same = [name for name in known if name.split(".")[-1] == last]
                hint = did_you_mean(key, same or known, cutoff=0 if same else 0.5)
                raise UserError(f"{recipe} has no key {key!r}{hint}")
        config = _parsed(found, overrides)
        _refuse_odd_values(flat(config), known)
        if empty := [key for key, value in flat(config).items() if value == ""]:
            raise UserError(f"{recipe}: {empty[0]} is empty: a value was expected")
        return config
    finally:
        sys.path.pop(0)


def _parsed(recipe: str, overrides: Sequence[str]) -> ml_collections.ConfigDict:
    arguments = ["main", f"--config={recipe}", *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
        # In the place of a recipe that finds no file stands what raises its error now.
        _ = hasattr(values.config, "get_config")
    except SyntaxError as error:
        # What has bytes of zero in it has no place.
        where = f"{error.filename}, line {error.lineno}" if error.filename else recipe
        raise UserError(f"a recipe in Python was expected, found in {where}: {error.msg}") from error
    # A recipe is a program: whatever it raises, its end included, is a mistake in it.
    except (Exception, SystemExit) as error:
        # The flag wraps what the recipe says in errors of its own, of the same kind and with a traceback in their text.
        causes = list(all_causes(error))
        if said := [cause for cause in causes if isinstance(cause, UserError)]:
            raise said[-1] from None
        if told := _told_of(recipe, causes):
            raise UserError(told) from error
        text = " ".join(str(error).split())
        # One of several changes, where the flag says which.
        blamed = [change for change in overrides if f"flag {change}:" in text] or list(overrides)
        reason = text.rpartition(f"flag {blamed[-1]}: ")[2] if blamed else text
        if "Traceback" in reason:
            reason = f"{type(causes[-1]).__name__}: {one_line(causes[-1])}"
        changed = f" with {' '.join(blamed)}" if blamed else ""
        raise UserError(f"{recipe} cannot be used{changed}: {reason or type(error).__name__}") from error
    return values.config


def _told_of(recipe: str, causes: Sequence[BaseException]) -> str:
    """Says what a recipe's own code has raised and in which line; nothing where none of the errors came from there."""
    file = recipe.partition(":")[0]
    for cause in reversed(causes):
        lines = [frame.lineno for frame in traceback.extract_tb(cause.__traceback__) if frame.filename == file]
        if lines:
            text = one_line(cause)
            return f"{file}, line {lines[-1]}: the recipe fails: {type(cause).__name__}{text and f': {text}'}"
    return ""


def _refuse_incomplete(values: Mapping[str, Any], recipe: str) -> None:
    """Raises a `UserError` unless a recipe has every key of `experiments/base.py`, and a value where that has one."""
    base = importlib.import_module("experiments.base")
    # Of an architecture that there is not, the keys that all have.
    known = [name for name in models.MODELS if name == values.get("model.name")]
    expected = flat(base.get_config(*known))
    if missing := [key for key in expected if key not in values]:
        raise UserError(f"{recipe} lacks {', '.join(missing[:5])}: a recipe starts from experiments.base.get_config()")
    for key, usual in expected.items():
        if usual is not None and values[key] is None:
            raise UserError(f"{recipe}: {key} was expected to be a value such as {usual!r}, found None")
        # The library looks at the kind of a list, and not at what it holds.
        if isinstance(usual, list) and _are_numbers(usual) and not _are_numbers(values[key]):
            raise UserError(f"{recipe}: {key} was expected to hold numbers, found {tuple(values[key])}")


def _refuse_odd_values(values: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises a `UserError` for numbers with which nothing can be computed, and for texts that name nothing.

    Args:
      values: of a configuration, by key.
      own: those of the recipe itself, which say what a list holds.
    """
    for key, value in values.items():
        every = value if isinstance(value, list) else [value]
        if isinstance(value, list) and _are_numbers(own[key]) and not _are_numbers(value):
            raise UserError(f"{key} was expected to hold numbers, found {tuple(value)}")
        # JAX and NumPy count in 32 bits and take a seed of 64.
        most = 1 << (63 if key == "seed" else 31)
        for one in every:
            if isinstance(one, str) and "\0" in one:
                raise UserError(f"{key} was expected to be a text without characters of zero, found {one!r}")
            if isinstance(one, float) and not math.isfinite(one):
                raise UserError(f"{key} was expected to be finite, found {one}")
            if isinstance(one, int) and not -most <= one < most:
                raise UserError(f"{key} was expected to be below {most:,}, found {reprlib.repr(one)}")


def _are_numbers(values: Any) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a configuration's values, as JSON holds them, by keys such as "data.crop"."""
    return _flat(json.loads(config.to_json()))


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested objects: {"data": {"crop": 224}} to {"data.crop": 224}."""
    result = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            result.update(_flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def refuse_other(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Compares a configuration with the one that the workdir was made by, if there is one.

    `total_steps` and how often something happens may differ, and so may learning rates that no checkpoint has seen yet.
    With the schedule "plateau" what is evaluated, when and by which protocol may not: the learning rate follows from
    it. Before the first checkpoint all may differ but what the workdir's own dataset is drawn by.

    Raises:
      UserError: other keys differ; each is named with both values.
    """
    path = workdir / "config.json"
    if not is_file(path):
        return
    before = {**_OF_BEFORE, **_flat(read_object(path))}
    now = flat(config)
    free = _FREE_KEYS
    if config.optimizer.schedule == "plateau":
        free = (*(key for key in free if key != "evaluation."), *_FREE_WITH_PLATEAU)
    newest = max(checkpoint.steps_in(workdir / "checkpoints"), default=0)
    if _rates_before(newest, before) == _rates_before(newest, now):
        free += _RATES
    if newest == 0:
        free += tuple(key for key in {**before, **now} if not key.startswith(_DRAWN_BY))
    different = [
        f"{key} was {before.get(key, 'absent')!r} and is {now.get(key, 'absent')!r}"
        for key in {**before, **now}
        if before.get(key, "absent") != now.get(key, "absent") and not key.startswith(free)
    ]
    if different:
        raise UserError(
            f"{workdir} was made by another configuration: {'; '.join(different)}; choose another --workdir or go back"
        )


def _rates_before(step: int, values: Mapping[str, Any]) -> tuple[list[float], list[int]] | None:
    """Returns the learning rates of the steps before `step` and the boundaries between them; None where none are."""
    rates, boundaries = (values.get(key) for key in _RATES)
    if not (isinstance(rates, list) and isinstance(boundaries, list) and all(type(one) is int for one in boundaries)):
        return None
    passed = [boundary for boundary in boundaries if boundary < step]
    return rates[: len(passed) + 1], passed


def keep(resolved: str, workdir: Path) -> None:
    """Writes a configuration, as JSON, to `config.json` in the workdir, which is made if missing."""
    make_folder(workdir)
    with written_whole(workdir / "config.json") as file:
        file.write(resolved.encode() + b"\n")


def kept(workdir: Path) -> dict[str, Any]:
    """Returns what `keep` wrote, by keys such as "data.crop"; a key of which it says nothing is as it was before.

    Raises:
      UserError: there is no `config.json`, or it holds something else.
    """
    values = _flat(read_object(workdir / "config.json"))
    return {**values, **{key: value for key, value in _OF_BEFORE.items() if key not in values}}


def recipe_name(recipe: str) -> str:
    """A name for the runs of a recipe: "experiments/custom.py:small" gives "custom-small"."""
    path, _, variant = recipe.partition(":")
    return re.sub(r"[^\w.-]+", "-", "-".join(part for part in (Path(path).stem, variant) if part))
