"""Ctrl-C and SIGTERM end a command, whatever it is at: with one sentence, with 130 or 143, and soon.

The handlers raise in the main thread, so that what is open is closed on the way out. That is not enough: Python
discards what is raised while the garbage collector calls back, libraries swallow it, and a main thread that compiles or
waits does not come to it. So a thread that Python wakes by a byte at the very signal ends the process where it has not
ended by itself in a second. What is written then is whole or not at all, as after SIGKILL.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from i3d_jax.system import terminal
from i3d_jax.system.errors import INTERRUPTED_CODE, STOPPED_CODE, Stopped

GRACE_SECONDS = 1.0

CODES = {signal.SIGINT: INTERRUPTED_CODE, signal.SIGTERM: STOPPED_CODE}
_BEGINNINGS = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}

# The signal that has come, None before.
_come: signal.Signals | None = None
_words = ""
# Whether SIGTERM is to wait for what will be saved.
_held = False
# Whether what was raised for it has been discarded.
_unheard = False
_advice: list[Callable[[], str]] = []
_telling = threading.Lock()


def watch() -> None:
    """Lets signals end this process from now on; to be called in the main thread, once."""
    global _come, _words
    _come, _words = None, ""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(woken,), name="signals", daemon=True).start()
    sys.unraisablehook = _note_unheard
    for number in CODES:
        # Who starts a command in the background of a shell lets it ignore Ctrl-C.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, raised)


def end_imports() -> None:
    """Lets signals end this process at once from now on, until it calls `watch`: there is nothing yet to close."""
    for number in CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: object) -> None:
    tell(sentence(signal.Signals(number)))
    os._exit(CODES[signal.Signals(number)])


def come() -> signal.Signals | None:
    """The signal that has come, None where none has."""
    return _come


def raised(number: int, frame: object = None) -> None:
    """Raises what a signal is in Python: `KeyboardInterrupt` or `Stopped`; a handler."""
    global _come, _words
    _come = signal.Signals(number)
    _words = _words or sentence(_come)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(_words)


def last_words() -> str:
    """The sentence of the signal that has come, with the advice of the place where it came."""
    return _words


def sentence(number: signal.Signals) -> str:
    """What a command says when a signal ends it, and what to do next where that is known."""
    return "; ".join([_BEGINNINGS[number], *(advice() for advice in _advice[-1:])])


@contextlib.contextmanager
def advised(advice: Callable[[], str]) -> Iterator[None]:
    """Within, the sentence of a signal ends with what `advice` says.

    It is called in any thread, in the main thread wherever that is, by the handler: so it takes no lock and calls no
    library that may. A lock that the main thread holds would never be given back.
    """
    _advice.append(advice)
    try:
        yield
    finally:
        _advice.remove(advice)


def hold_sigterm(held: bool) -> None:
    """Says whether SIGTERM lets the process live until it has saved what there is."""
    global _held
    _held = held


def tell(text: str) -> None:
    """Writes a command's last sentence, where nothing has been said yet."""
    if _telling.acquire(blocking=False):
        # Not by print: the main thread may be at work in it.
        begin = "\n" if terminal.open_line else ""
        os.write(2, f"{begin}{text}\n".encode(errors="backslashreplace"))


def _end_in_time(woken: int) -> None:
    while True:
        for number in os.read(woken, 16):
            if number in CODES and not (number == signal.SIGTERM and _held):
                _wait_for_the_end(number)
                tell(_words or sentence(signal.Signals(number)))
                os._exit(CODES[signal.Signals(number)])


def _wait_for_the_end(number: int) -> None:
    """Gives the main thread its second to end the process, and raises the signal again where it was not heard."""
    global _unheard
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.02)
        if _unheard:
            _unheard = False
            _thread.interrupt_main(signal.Signals(number))


def _note_unheard(unraisable: sys.UnraisableHookArgs) -> None:
    """Python's hook for what was raised where nobody could hear it."""
    global _unheard
    if _come is not None and isinstance(unraisable.exc_value, (KeyboardInterrupt, Stopped)):
        # Raised again here, it would end no more than this.
        _unheard = True
    elif str(unraisable.exc_value) != "Event loop is closed":
        # That is what each further array of a checkpoint says when one could not be written or read, which is told.
        sys.__unraisablehook__(unraisable)
