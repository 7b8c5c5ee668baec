"""Mistakes of the user's, told in one sentence, and the exit codes of every command."""

from __future__ import annotations

import difflib
import errno
import gc
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence

from i3d_jax.system import terminal


class UserError(ValueError):
    """Something that the user can put right: one sentence that says what was expected, what was found and where."""


class Failure(RuntimeError):
    """Something that is nobody's mistake and that one sentence says better than a traceback."""


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Returns " (did you mean 'X'?)" for the known word that looks most like `word`, or nothing where none does.

    Args:
      word: what was found.
      known: what it may have been meant to be.
      cutoff: how alike two words must be, 0 (any) to 1 (equal).
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


def install_hint(*extras: str) -> str:
    """Returns what installs this project with extras of `setup.py`; on PyPI its import name is another project's."""
    return f'in a checkout of this project: pip install -e ".[{",".join(extras)}]"'


# As the shell tells of a process that SIGTERM ended, or SIGINT, or SIGPIPE: a write to who reads no more, as `head`.
STOPPED_CODE = 143
INTERRUPTED_CODE = 130
UNREAD_CODE = 141

# The extra of setup.py that brings a package.
_EXTRAS = {
    **dict.fromkeys(("tensorflow", "tqdm"), "data"),
    **dict.fromkeys(("av", "cv2"), "prepare"),
}


# What the system says of a path that is not ours to read or write: of the user's world, not of the program.
_OF_THE_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG)

# A disk that is full, and limits: of a user's share of it (quota) and of the size of a file (`ulimit -f`).
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# How many objects are made before Python looks for garbage, and how seldom it looks through the older ones. By its own
# measure it looks every few hundred; a network that is traced is millions, hardly any of them garbage, and up to a
# quarter of the time goes into looking.
_COLLECTED_AFTER = (50_000, 20, 100)


class Stopped(BaseException):
    """A signal asked the process to end: one sentence that says what is saved.

    Like KeyboardInterrupt it is no Exception, so that nothing on its way takes it for a failure.
    """


def leave_alone(code: int) -> None:
    """Ends a process that is the only one of its run: after a signal at once, without what libraries do at the end."""
    if code in (INTERRUPTED_CODE, STOPPED_CODE):
        os._exit(code)
    # Else Python looks through all that TensorFlow and JAX hold before it ends, which takes seconds.
    gc.freeze()
    sys.exit(code)


def run(main: Callable[[Sequence[str]], int | None], *, leave: Callable[[int], None] = leave_alone) -> None:
    """Runs a command's `main(arguments)` and leaves the process with the exit code that the outcome calls for.

    0 (or what `main` returns) on success; 2 for a `UserError`, a full disk, a path that may not be read or written, too
    few open files, too little memory and an extra that is not installed, with one sentence on standard error; 130 when
    interrupted and 143 when SIGTERM ended it (`signals`), with one sentence, whatever else came of it; 141 when nobody
    reads the output to its end; 1 for a failure of our own: with the traceback, or for a `Failure` with one sentence.

    Args:
      main: the command.
      leave: ends the process with the code.
    """
    # Imported here: it raises what is defined here.
    from i3d_jax.system import signals

    gc.set_threshold(*_COLLECTED_AFTER)
    terminal.tolerate()
    signals.watch()
    try:
        code = main(sys.argv[1:]) or 0
    except Stopped as stopped:
        signals.tell(str(stopped))
        code = STOPPED_CODE
    except BaseException as error:
        if signals.come() is None:
            code = _told(error)
    if (come := signals.come()) is not None:
        # Also of what a library, or the end of the work, has made of it.
        signals.tell(signals.last_words())
        code = signals.CODES[come]
    try:
        # A process may be started without it.
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = UNREAD_CODE
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    leave(code)


def _told(error: BaseException) -> int:
    """Says on standard error what ended a command, and returns its exit code."""
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_CODE
    if not isinstance(error, Exception):
        raise error
    if isinstance(error, (UserError, Failure)):
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    if is_full_disk(error):
        what = "a file may not be so large" if os.strerror(errno.EFBIG) in str(error) else "the disk is full"
        # A library may tell of every array that it could not write.
        print(f"error: {what}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 2
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        print(
            f"error: {error.name} was expected and is not installed; "
            + install_hint(*dict.fromkeys(("data", _EXTRAS[error.name]))),
            file=sys.stderr,
        )
        return 2
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return UNREAD_CODE
    if isinstance(error, OSError) and error.errno in _OF_THE_PATH and error.filename is not None:
        print(f"error: {os.fsdecode(error.filename)}: {error.strerror}", file=sys.stderr)
        return 2
    if scarce := _scarce(error):
        print(f"error: {scarce}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    return 1


def _scarce(error: BaseException) -> str:
    """Says of what the system gives no more, where an exception or one that caused it is that; else nothing."""
    for cause in all_causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            return "more files are open than the system allows: raise its limit (ulimit -n), or use fewer --processes"
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            return f"there is not enough memory: {' '.join(str(cause).split())[:300] or 'the system gives no more'}"
    return ""


def all_causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception, what it was raised from, what that was raised from, and so on."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def one_line(error: BaseException) -> str:
    """Returns the beginning of what an error says, in one line; its kind if it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _nobody_reads() -> bool:
    """Says whether standard output is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def is_full_disk(error: BaseException) -> bool:
    """Says whether an exception, or one that caused it, is a lack of room, as Python or Orbax tells it."""
    return any(
        (isinstance(cause, OSError) and cause.errno in _NO_ROOM)
        or any(os.strerror(number) in str(cause) for number in _NO_ROOM)
        for cause in all_causes(error)
    )
