"""Mistakes of the user's, told in one sentence, and the exit codes of every command."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Sequence


class UserError(ValueError):
    """Something that the user can put right: one sentence that says what was expected, what was found and where."""


class Failure(RuntimeError):
    """Something that is nobody's mistake and that one sentence says better than a traceback."""


# As the shell tells of a process that SIGTERM ended, or SIGINT.
STOPPED_CODE = 143
INTERRUPTED_CODE = 130


class Stopped(BaseException):
    """A signal asked the process to end: one sentence that says what is saved.

    Like KeyboardInterrupt it is no Exception, so that nothing on its way takes it for a failure.
    """


def run(main: Callable[[Sequence[str]], int | None], *, leave: Callable[[int], None] = sys.exit) -> None:
    """Runs a command's `main(arguments)` and leaves the process with the exit code that the outcome calls for.

    0 (or what `main` returns) on success; 2 for a `UserError` and for a full disk, with one sentence on standard error;
    130 when interrupted; 143 when SIGTERM ended it (`Stopped`), with one sentence; 1 for a failure of our own: with the
    traceback, or for a `Failure` with one sentence.

    Args:
      main: the command.
      leave: ends the process with the code.
    """
    try:
        code = main(sys.argv[1:]) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED_CODE
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        code = STOPPED_CODE
    except Exception as error:
        if is_full_disk(error):
            # A library may tell of every array that it could not write.
            print(f"error: the disk is full: {' '.join(str(error).split())[:300]}", file=sys.stderr)
            code = 2
        else:
            traceback.print_exc()
            code = 1
    sys.stdout.flush()
    leave(code)


def is_full_disk(error: BaseException) -> bool:
    """Says whether an exception, or one that caused it, is a disk without room, as Python or Orbax tells it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
