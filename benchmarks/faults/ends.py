"""Kills and signals at random moments, with a restart that must end as if nothing had happened."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from .hosts import STEPS as STEPS_OF_TWO
from .hosts import arguments_of_main, launch
from .processes import TRACEBACK, Ended, Process, run, slowness, violation
from .tried import Campaign, Tried, differences, files, half_written, outcome_of_run

# How soon a signal ends a command, on a quiet machine, and SIGTERM one that saves its step first.
SIGNAL_SECONDS, SAVING_SECONDS = 2.0, 20.0
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# By the row of the table: what `main` says when it begins something, and how many seconds that may take.
PHASES = {
    "main, compilation": ("compiling the training step", 6.0),
    "main, evaluation": ("step  6/12  train", 1.0),
    "main, checkpoint": ("step  4/12  train", 0.5),
}
STUDY_SECONDS = 20.0
TWO = "main, two processes"
# Of so many starts one is of a new interpreter, with all its imports; the others are forked.
FRESH = 6


class _Verb:
    """A command that faults are tried on: its arguments for a new output, and how its results are compared."""

    def __init__(self, campaign: Campaign, arguments: Callable[[Path], list[str]], results: Callable | None):
        self._campaign, self.arguments, self._results = campaign, arguments, results
        self._whole: tuple[float, object] | None = None

    def start(self, output: Path, logs: Path, **options) -> Process:
        """Starts it, with the options of `Process`."""
        return Process(self.arguments(output), logs, **options)

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
                ended = self.start(output, self._campaign.folder / f"logs_whole_{name}").wait()
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


class _Two(_Verb):
    """The same by launch/local.sh, as two processes."""

    def start(self, output: Path, logs: Path, **options) -> Process:
        process, _ = launch(self.arguments(output), 2, logs)
        return process


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

        _verbs[id(campaign)] = {
            "prepare": _Verb(campaign, materials.prepare_arguments, files),
            "main": _Verb(campaign, lambda output: materials.main_arguments(output), outcome_of_run),
            "convert": _Verb(campaign, convert, lambda output: {"digests": (output / "digests.json").read_bytes()}),
            "predict": _Verb(campaign, predict, None),
            "features": _Verb(campaign, materials.features_arguments, files),
            "study": _Verb(campaign, study, None),
            TWO: _Two(campaign, lambda output: arguments_of_main(campaign, output), outcome_of_run),
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


KINDS = (
    "prepare", "main", "convert", "main, compilation", "prepare", "main, evaluation", "predict", "main, checkpoint",
    "prepare", "main", TWO, "features", "prepare", "main", "study",
)  # fmt: skip


def interrupt(campaign: Campaign, number: int) -> Tried:
    """Sends Ctrl-C or SIGTERM: the command ends in time, with its code and one sentence, and goes on when started."""
    draw = campaign.draw("signal", number)
    kind = KINDS[number % len(KINDS)]
    name = kind if kind == TWO else kind.partition(",")[0]
    verb = verbs(campaign)[name]
    seconds, expected = verb.whole(name)
    which = draw.choice((signal.SIGINT, signal.SIGTERM))
    folder = campaign.folder / f"signal_{number}"
    folder.mkdir(parents=True)
    output, logs = folder / "output", folder / "logs"
    fresh = draw.randrange(FRESH) == 0 and kind == name != TWO
    # Compiled anew.
    changes = {"XDG_CACHE_HOME": str(folder / "cache")} if kind == "main, compilation" else {}
    process = verb.start(output, logs, fresh=fresh, changes=changes)
    if kind in PHASES:
        words, span = PHASES[kind]
        process.says(words)
        moment = draw.uniform(0, span)
    else:
        # A new interpreter imports first.
        moment = draw.uniform(0.1, 0.85 * seconds) + (draw.uniform(0, 8) if fresh else 0)
    time.sleep(moment)
    over = process.is_over()
    sent, sent_at = time.monotonic(), time.time()
    process.send(which)
    ended = process.wait()
    took = time.monotonic() - sent
    since = f" after {PHASES[kind][0]!r}" if kind in PHASES else ""
    what = f"{which.name} {moment:.2f} s{since or ' after the start'}{', of a new interpreter' if fresh else ''}"
    # It may have done all of its work and be leaving.
    if over or (ended.code == 0 and _last_change(output) < sent_at):
        wrong = violation(ended, allowed=(0,)) or (None if over else verb.wrong(output, expected))
        return Tried(kind=kind, number=number, what=what, violated=wrong, missed=True)
    # What launch/local.sh has started gets SIGTERM for either.
    heard = signal.SIGTERM if name == TWO else which
    saves = heard == signal.SIGTERM and name in ("main", "study", TWO)
    wrong = _wrong_end(ended, heard, took, saves=saves, launched=name == TWO) or _left(name, output)
    if wrong is None and name == "convert" and (output / "tree").exists():
        # It was whole when the signal came, and stays: a second one would be refused.
        wrong = verb.wrong(output, expected)
    elif wrong is None and name == "study":
        # Started again it goes on with its datasets; the rest takes minutes.
        process = verb.start(output, folder / "logs_again")
        if not process.says("preparing"):
            last = " ".join(process.wait(0).errors.split())[-300:]
            wrong = f"started again, it prepares no dataset: {last}"
        process.send(signal.SIGKILL)
        process.wait()
    elif wrong is None:
        again = verb.start(output, folder / "logs_again").wait()
        wrong = violation(again, allowed=(0,)) or verb.wrong(output, expected, saves=saves)
        wrong = f"started again: {wrong}" if wrong else None
    return Tried(kind=kind, number=number, what=f"{what}, ended after {took:.2f} s", violated=wrong)


def _last_change(output: Path) -> float:
    """Returns when something below a folder, or the folder itself, was changed last, in seconds since 1970."""
    return max((path.lstat().st_mtime for path in (output, *output.rglob("*")) if path.exists()), default=0.0)


def _wrong_end(ended: Ended, which: signal.Signals, took: float, *, saves: bool, launched: bool) -> str | None:
    """Says what is wrong with how a command, or a launcher of two, ended after a signal; None where nothing is."""
    limit = (SAVING_SECONDS if saves else SIGNAL_SECONDS) * slowness()
    last = " ".join(ended.errors.split())[-300:]
    if TRACEBACK in ended.errors:
        return f"exit code {ended.code} with a traceback: {last}"
    # In the interpreter's first and last moments the signal's own way holds; launch/local.sh, a shell, passes it on.
    finished = f"step {STEPS_OF_TWO}/{STEPS_OF_TWO}  test" in ended.errors
    if ended.code == -which or (ended.code == CODES[which] and launched and finished):
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
