"""Standard output and standard error, whatever their encoding and whatever is written there.

Names of files and labels come from anywhere: what a terminal would take for a command is shown as an escape. A command
that was told to be quiet tells nothing of its progress.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import json
import re
import sys
from collections.abc import Callable
from typing import Any

# Of our own drawing: what a terminal without it shows instead.
_PLAIN = {"█": "#", "·": ".", "…": "...", "–": "-"}
# Python decodes the bytes of file names that are no text to these code points, which are no characters (PEP 383).
_BYTES = range(0xDC80, 0xDD00)
_UNSEEN = re.compile(r"[\x7f-\x9f\ud800-\udfff]")
# Commands to a terminal: all control characters but tabs, the ends of lines, and the return of progress bars.
_COMMANDS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_quiet = False
# Whether a progress bar stands where the cursor is, so that who writes by other ways than Python's begins a new line.
open_line = False


def be_quiet() -> None:
    """Lets this process tell nothing of its progress from now on; results, warnings and errors stay."""
    global _quiet
    _quiet = True


def is_quiet() -> bool:
    """Says whether the process was told to be quiet."""
    return _quiet


def is_watched() -> bool:
    """Says whether standard error is a terminal, where somebody may look on."""
    return sys.stderr is not None and sys.stderr.isatty()


def say(text: str) -> None:
    """Tells of progress, a line on standard error, unless the process was told to be quiet."""
    if not _quiet:
        print(text, file=sys.stderr, flush=True)


def tolerate() -> None:
    """Lets both streams write every text, for a result must not be lost to a terminal that lacks a character.

    What an encoding lacks is written as Python escapes it, so that it can still be told: `\\u559d`, and a byte of a
    file name that is no text as `\\xe9`. Bars and dots of our own become plain ones. Control characters, which may
    stand in names and labels and which a terminal would obey, are written as `\\x1b`.
    """
    codecs.register_error("i3d_jax", _escaped)
    for stream in (sys.stdout, sys.stderr):
        # Tests and notebooks put other objects in their places.
        if isinstance(stream, io.TextIOWrapper):
            # One that is closed, or whose file has become a pipe since, stays as it is.
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="i3d_jax")
            # By an attribute: an object in the stream's place would share its buffer with whoever else holds it.
            setattr(stream, "write", functools.partial(_write_shown, stream.write))  # noqa: B010


def _write_shown(write: Callable[[str], int], text: str) -> int:
    write(_COMMANDS.sub(lambda found: f"\\x{ord(found[0]):02x}", text))
    return len(text)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escape, error.object[error.start : error.end])), error.end


def _escape(letter: str) -> str:
    number = ord(letter)
    if number in _BYTES:
        return f"\\x{number - 0xDC00:02x}"
    return _PLAIN.get(letter) or (f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}")


def json_text(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """Returns a value as JSON that can be encoded in UTF-8 and shown, whatever its strings hold.

    A byte of a file name that is no text is written as `\\udce9`: Python reads that back as the same name. So are
    control characters.

    Args:
      value: what `json` takes.
      indent: blanks of each level; None for a single line.
      ascii_only: whether all other letters are escaped, too.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Prints a value as JSON, at once, with escapes for what the encoding of standard output may lack."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(json_text(value, indent=indent, ascii_only=codecs.lookup(encoding).name != "utf-8"), flush=True)


def duration(seconds: float) -> str:
    """Writes seconds as people say them: "45 s", "3 min 20 s", "2 h 05 min", "4 d 03 h"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600:02d} h"
