"""Results reach every terminal: of any encoding, with file names that are no text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from i3d_jax.system.terminal import json_text

ROOT = Path(__file__).resolve().parents[1]
# A name as macOS, Windows and a camera may leave it: two bytes that are no UTF-8.
NO_TEXT = os.fsdecode(b"caf\xe9\xff.mp4")
LABELS = ["喝水", "\U0001f3c3", "a – b", NO_TEXT]


def run(body: str, encoding: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs a command whose `main` has this body, with streams of an encoding."""
    program = (
        "from i3d_jax.system.errors import run, UserError\n"
        "from i3d_jax.system.terminal import print_json\n"
        f"def main(arguments):\n    {body}\nrun(main)\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", r"#. ... \u559d \U0001f3c3 caf\xe9\xff.mp4"),
        ("iso8859-1:strict", r"#· ... \u559d \U0001f3c3 caf\xe9\xff.mp4"),
        ("cp1252", r"#· … \u559d \U0001f3c3 caf\xe9\xff.mp4"),
        ("utf-8", r"█· … 喝 🏃 caf\xe9\xff.mp4"),
        ("utf-16-le", r"█· … 喝 🏃 caf\xe9\xff.mp4"),
    ],
)
def test_text_is_shown_as_far_as_it_can_be_and_nothing_is_lost(encoding, shown):
    done = run('print("█· … 喝 🏃", arguments[0]); raise UserError(f"it was {arguments[0]}")', encoding, NO_TEXT)
    name = encoding.partition(":")[0]
    assert done.returncode == 2
    assert done.stdout.decode(name) == f"{shown}\n"
    assert done.stderr.decode(name) == "error: it was caf\\xe9\\xff.mp4\n"


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1", "cp1252", "utf-8", "utf-16-le"])
def test_json_gives_every_string_back(encoding):
    done = run(f"print_json({LABELS!r})", encoding)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode(encoding)) == LABELS


def test_no_name_or_label_gives_a_terminal_commands():
    hostile = "\x1b]0;title\x07 \x9b31m \x08\x7f \x00 two\r lines"
    shown = r"\x1b]0;title\x07 \x9b31m \x08\x7f \x00 two"
    body = f"print({hostile!r}); sys.stdout.writelines([{hostile!r}]); raise UserError({hostile!r})"
    done = run(f"import sys; {body}", "utf-8")
    expected = f"{shown}\r lines"
    assert done.stdout.decode() == f"{expected}\n{expected}"
    assert done.stderr.decode() == f"error: {expected}\n"
    done = run(f"print_json([{hostile!r}])", "utf-8")
    assert json.loads(done.stdout) == [hostile]
    assert not set(done.stdout) & {*range(10), *range(11, 32), *range(0x7F, 0xA0)}


def test_json_in_files_is_utf8_and_readable():
    text = json_text({"name": NO_TEXT, "label": "喝水"}, indent=1)
    assert "喝水" in text.encode().decode()
    assert json.loads(text)["name"] == NO_TEXT


def test_a_command_without_standard_output_ends_well():
    program = "from i3d_jax.system.errors import run; run(lambda arguments: print('lost'))"
    shell = f'{sys.executable} -c "{program}" >&-'
    assert subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, check=False).returncode == 0
