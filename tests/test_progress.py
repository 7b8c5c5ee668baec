"""How far work has come: bars on a terminal, lines elsewhere, nothing for a quiet command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shutil
import struct
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

from i3d_jax import convert, export, features, main, predict, prepare
from i3d_jax.fvd import __main__ as fvd
from i3d_jax.ingest import process
from i3d_jax.report import __main__ as report
from i3d_jax.study import __main__ as study
from i3d_jax.system import hosts, progress, signals, terminal
from i3d_jax.system.progress import Bar
from i3d_jax.training.logs import ProgressLines
from i3d_jax.video.write import write_video

PACKAGE = Path(prepare.__file__).parent
FRAMES = 20
MEBI = 2**20
VALUES = {"loss": 1.0, "top1": 0.5}


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@contextlib.contextmanager
def on_a_terminal(monkeypatch, *, stdout: bool = False, columns: int = 100):
    """Puts a terminal of 40 rows in the place of standard error; yields what gives all that was written there."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40 if columns else 0, columns, 0, 0))
    found = bytearray()

    def written() -> str:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(ours, 1 << 16):
                found.extend(chunk)
        # A terminal's own end of a line.
        return found.decode().replace("\r\n", "\n")

    with open(theirs, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        if stdout:
            patch.setattr(sys, "stdout", stream)
        yield written
    os.close(ours)


def states(text: str) -> list[str]:
    """The lines and the states of a bar that a terminal was given."""
    return [state.strip() for state in re.split(r"[\r\n]", text) if state.strip()]


@pytest.fixture
def one_video(tmp_path):
    """The arguments of `prepare` for a dataset of one video."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    frames = np.stack([np.broadcast_to(np.roll(ramp, number)[None, :, None], (48, 64, 3)) for number in range(FRAMES)])
    write_video(tmp_path / "a.avi", frames, 25)
    (tmp_path / "labels.csv").write_text("video,label,split\na.avi,one,train\n")
    arguments = ["--annotations", tmp_path / "labels.csv", "--videos", tmp_path, "--output", tmp_path / "dataset"]
    return [str(one) for one in (*arguments, "--short_side", 32, "--processes", 1)]


def test_without_a_terminal_there_is_a_line_every_30_seconds_and_one_at_the_end(capsys):
    clock = Clock()
    with Bar("decoding", total=400, unit="videos", clock=clock) as bar:
        for _ in range(400):
            clock.now += 0.25
            bar.add()
    # A video takes a quarter of a second; the first one's is no part of the rate.
    assert capsys.readouterr().err == (
        "decoding: 120 of 400 videos, 4.0 videos/s, about 1 min 10 s left\n"
        "decoding: 240 of 400 videos, 4.0 videos/s, about 40 s left\n"
        "decoding: 360 of 400 videos, 4.0 videos/s, about 10 s left\n"
        "decoding: 400 of 400 videos in 1 min 40 s, 4.0 videos/s\n"
    )


def test_short_work_has_no_line_and_work_that_fails_no_last_one(capsys):
    clock = Clock()
    with Bar("decoding", total=2, unit="videos", clock=clock) as bar:
        clock.now += 29
        bar.add(2)
    with contextlib.suppress(KeyError), Bar("decoding", total=2, unit="videos", clock=clock):
        clock.now += 31
        raise KeyError
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("made", "first", "then", "words"),
    [
        ({"total": 1, "unit": "videos"}, 0.05, 0.25, "0.2 of 1 video, 1.2 videos/min, about 38 s left"),
        ({"total": 20, "unit": "videos"}, 2, 2.5, "2 of 20 videos, 3.0 videos/min, about 5 min 50 s left"),
        ({"total": None, "unit": "videos"}, 74, 1234, "1,234 videos, 116 videos/s"),
        (
            {"total": 100 * MEBI, "unit": "B", "done": 40 * MEBI},
            42 * MEBI,
            62 * MEBI,
            "62.0 MiB of 100.0 MiB, 2.0 MiB/s, about 19 s left",
        ),
    ],
)
def test_rates_and_estimates(made, first, then, words):
    """Of what is done in 10 seconds after a first part of it, which has taken long."""
    clock = Clock()
    bar = Bar("at it", clock=clock, **made)
    clock.now += 100
    bar.to(first)
    clock.now += 10
    bar.to(then)
    assert bar.words() == words


def test_what_has_ended_short_of_all_has_no_estimate():
    clock = Clock()
    bar = Bar("at it", total=4, unit="videos", clock=clock)
    for done in (1, 2, 3):
        clock.now += 10
        bar.to(done)
    assert bar.words() == "3 of 4 videos, 6.0 videos/min, about 10 s left"
    assert bar.words(finished=True) == "3 of 4 videos in 30 s, 6.0 videos/min"


def test_the_rate_may_be_of_what_videos_are_made_of():
    clock = Clock()
    bar = Bar("at it", total=4, unit="videos", rate_of="frames", clock=clock)
    bar.to(0, frames=20, skipped=0)
    clock.now += 10
    bar.to(1.5, frames=50, skipped=1)
    assert bar.words() == "1.5 of 4 videos, 3.0 frames/s, about 17 s left (50 frames, 1 skipped)"


def test_within_one_video_the_bar_moves_and_frames_are_counted(one_video, monkeypatch, capsys):
    monkeypatch.setattr(process, "SHORT_SECONDS", 0)
    monkeypatch.setattr(progress, "BAR_SECONDS", 0)
    with on_a_terminal(monkeypatch) as written:
        prepare.main(one_video)
        drawn = [state for state in states(written()) if state.startswith("preparing: ")]
    positions = [float(re.findall(r"\| ([\d.]+) of ", state)[0]) for state in drawn]
    assert positions == sorted(positions)
    assert len({position for position in positions if 0 < position < 1}) > 5
    assert positions[-1] == 1
    assert f"{FRAMES} frames" in drawn[-1]
    assert max(map(len, drawn)) < 100
    assert capsys.readouterr().out.startswith(f"train: 1 videos with {FRAMES} frames")


def test_where_there_is_no_terminal_no_state_returns_to_the_beginning_of_the_line(one_video, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    prepare.main([*one_video, "--flow", "tvl1"])
    said = capsys.readouterr().err
    assert "\r" not in said
    lines = [line for line in said.splitlines() if line.startswith("preparing: ")]
    assert len(lines) > FRAMES
    assert re.fullmatch(rf"preparing: 1 of 1 video in \d+ s, .* \({FRAMES} frames, {FRAMES - 1} fields\)", lines[-1])


def test_a_quiet_command_says_nothing(one_video, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    folder = Path(one_video[3])
    shutil.copy(folder / "a.avi", folder / "b.avi")
    with open(folder / "labels.csv", "a") as file:
        file.write("b.avi,two,train\n")
    prepare.main([*one_video, "--flow", "tvl1", "--quiet"])
    hosts.say("step 3")
    ProgressLines(5).write(3, "train", VALUES)
    assert capsys.readouterr().err == ""
    hosts.warn("a warning")
    assert capsys.readouterr().err == "a warning\n"


@pytest.mark.parametrize("verb", [main, prepare, predict, features, fvd, convert, export, report, study])
def test_every_command_with_progress_can_be_quiet(verb):
    parser = verb._parser()
    required = [action for action in parser._actions if action.required]
    words = [word for one in required for word in (*one.option_strings[:1], next(iter(one.choices or "x")))]
    words += {convert: ["--source", "x"], report: ["--workdir", "x"]}.get(verb, [])
    assert not terminal.is_quiet()
    options, _ = parser.parse_known_args([*words, "--quiet"])
    assert terminal.is_quiet()
    assert "quiet" not in vars(options)


def test_what_is_printed_beside_a_bar_has_lines_of_its_own(monkeypatch):
    monkeypatch.setattr(progress, "BAR_SECONDS", 0)
    with on_a_terminal(monkeypatch, stdout=True) as written:
        for item in progress.over(range(3), "doing", total=3, unit="things"):
            print(f"result {item}")
            print(f"note {item}", file=sys.stderr)
        print("after")
        text = written()
    shown = states(text)
    for number in range(3):
        assert f"result {number}" in shown
        assert f"note {number}" in shown
    # The bar that stays, and what comes after it.
    assert re.match(r"doing: 100%\|.*\| 3 of 3 things", shown[-2])
    assert shown[-1] == "after"
    assert "\x1b" not in text


def test_a_terminal_that_does_not_say_its_size_has_bars(monkeypatch):
    with on_a_terminal(monkeypatch, columns=0) as written:
        for _ in progress.over(range(3), "doing", total=3, unit="things"):
            pass
        last = states(written())[-1]
    assert re.fullmatch(r"doing: 100%\|█+\| 3 of 3 things in \d+ s, [\d.,]+ things/s", last)
    assert len(last) == 80


def test_an_interrupted_bar_ends_its_line(monkeypatch):
    with on_a_terminal(monkeypatch) as written:
        with contextlib.suppress(KeyboardInterrupt), Bar("doing", total=3, unit="things") as bar:
            bar.add()
            assert terminal.open_line
            raise KeyboardInterrupt
        print("interrupted", file=sys.stderr)
        assert not terminal.open_line
        *_, last, interrupted = written().splitlines()
    assert last.endswith("1 of 3 things")
    assert interrupted == "interrupted"


@pytest.mark.parametrize("open_line", [False, True])
def test_last_words_do_not_stand_behind_a_bar(monkeypatch, open_line):
    written = []
    monkeypatch.setattr(os, "write", lambda number, text: written.append((number, text)))
    monkeypatch.setattr(terminal, "open_line", open_line)
    monkeypatch.setattr(signals, "_telling", type("Lock", (), {"acquire": lambda self, blocking: True})())
    signals.tell("interrupted")
    assert written == [(2, b"\n" * open_line + b"interrupted\n")]


def test_all_bars_are_of_one_place():
    drawing = {path.name for path in PACKAGE.rglob("*.py") if re.search(r"import tqdm|tqdm\(", path.read_text())}
    assert drawing == {"progress.py"}
