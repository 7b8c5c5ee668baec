"""How far a piece of work has come: on a terminal a bar, elsewhere a line now and then, for a quiet command nothing.

All of it goes to standard error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TextIO, TypeVar

from i3d_jax.system import terminal

Item = TypeVar("Item")

# Between two states that are shown, in seconds: of a bar, and of lines, which may be a log's.
BAR_SECONDS = 0.1
LINE_SECONDS = 30.0

# The time before the first of the work is done, in which processes start and programs are compiled, says nothing of the
# rest: rates and estimates are of the time since, once it is so many seconds.
_MEASURED_SECONDS = 1.0

# A rate is told by the first of these by which it is 1 or more.
_PER = (("s", 1), ("min", 60), ("h", 3600))
_PREFIXES = ("", "Ki", "Mi", "Gi", "Ti")


class Bar:
    """Shows how far a piece of work has come; a context manager.

    Args:
      doing: what is done, such as "decoding".
      total: how much there is to do; None where nobody knows, and then there is no estimate.
      unit: of what, in the plural: "videos"; "B" for bytes, which are told as KiB, MiB, ….
      done: how much of it was done before: no part of the rate.
      rate_of: the count (`to`) whose rate is told; None for that of the whole.
      shown: whether there is anything to see at all, such as on one process of several.
      stays: whether a bar that has come to its end stays on the terminal.
      clock: seconds, for tests.
    """

    def __init__(
        self,
        doing: str,
        *,
        total: float | None,
        unit: str,
        done: float = 0,
        rate_of: str | None = None,
        shown: bool = True,
        stays: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._doing, self._total, self._unit, self._rate_of, self._clock = doing, total, unit, rate_of, clock
        self._done = self._begun_at = done
        self._counts: dict[str, int] = {}
        # When the first of it was done, how much, and what the rate is told of.
        self._first: tuple[float, float, float] | None = None
        self._began = self._shown_at = clock()
        self._shown = shown and total != 0 and not terminal.is_quiet() and sys.stderr is not None
        # Whether parts of a unit are told: of few, and from the first one on.
        self._parts = False
        self._drawn = _Drawn(sys.stderr, stays) if self._shown and terminal.is_watched() else None
        self._every = LINE_SECONDS if self._drawn is None else BAR_SECONDS
        if self._drawn is not None:
            self._show()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close(finished=kind is None)

    def to(self, done: float, **counts: int) -> None:
        """Says how much is done by now, a part of a unit too, and how many there are of other things."""
        self._done = done
        self._parts = self._parts or (self._total is not None and self._total < 10 and done != int(done))
        self.count(**counts)

    def add(self, amount: float = 1) -> None:
        """Says that so much more is done."""
        self.to(self._done + amount)

    def count(self, **counts: int) -> None:
        """Says how many there are of other things by now, such as `frames=120`; 0 is not shown."""
        self._counts.update(counts)
        if self._first is None and (self._done > self._begun_at or self._rated() > 0):
            self._first = self._clock(), self._done, self._rated()
        if self._shown and self._clock() - self._shown_at >= self._every:
            self._show()

    def close(self, *, finished: bool = True) -> None:
        """Ends it: a bar stays as it is, a line comes if the work is finished and took longer than there is to wait."""
        if self._drawn is not None:
            self._show(finished=finished)
            self._drawn.close()
        elif self._shown and finished and self._clock() - self._began > LINE_SECONDS:
            self._show(finished=True)
        self._shown, self._drawn = False, None

    def _show(self, *, finished: bool = False) -> None:
        self._shown_at = self._clock()
        words = self.words(finished=finished)
        if self._drawn is None:
            terminal.say(f"{self._doing}: {words}")
        else:
            share = min(1.0, self._done / self._total) if self._total else None
            self._drawn.draw(self._doing, share, words)

    def words(self, *, finished: bool = False) -> str:
        """Returns what there is to say: "120 of 400 videos, 31 videos/s, about 9 s left"."""
        now = self._clock()
        said = [self._amount()]
        rate = 0.0
        if finished:
            said = [f"{said[0]} in {terminal.duration(now - self._began)}"]
            rate = self._rated() / max(now - self._began, 1e-9)
        elif self._first is not None and now - self._first[0] >= _MEASURED_SECONDS:
            rate = (self._rated() - self._first[2]) / (now - self._first[0])
        if rate > 0:
            said.append(_rate(rate, self._rate_of or self._unit))
            first, total = self._first, None if finished else self._total
            if first is not None and total is not None and first[1] < self._done < total:
                left = (total - self._done) * (now - first[0]) / (self._done - first[1])
                said.append(f"about {terminal.duration(left)} left")
        counts = ", ".join(_counted(number, name) for name, number in self._counts.items() if number)
        return ", ".join(said) + (f" ({counts})" if counts else "")

    def _rated(self) -> float:
        return self._counts.get(self._rate_of, 0) if self._rate_of else self._done - self._begun_at

    def _amount(self) -> str:
        if self._unit == "B":
            return _bytes(self._done) if self._total is None else f"{_bytes(self._done)} of {_bytes(self._total)}"
        done = f"{self._done:.1f}" if self._parts and self._done != self._total else f"{int(self._done):,}"
        if self._total is None:
            return f"{done} {self._unit}"
        return f"{done} of {_counted(round(self._total), self._unit)}"


def over(items: Iterable[Item], doing: str, *, total: float | None, unit: str, shown: bool = True) -> Iterator[Item]:
    """Yields the items, and shows how many were taken and done with; the arguments are those of `Bar`."""
    with Bar(doing, total=total, unit=unit, shown=shown) as bar:
        for item in items:
            yield item
            bar.add()


def _counted(number: int, plural: str) -> str:
    return f"{number:,} {plural.removesuffix('s') if number == 1 else plural}"


def _rate(a_second: float, unit: str) -> str:
    if unit == "B":
        return f"{_bytes(a_second)}/s"
    name, seconds = next((one for one in _PER if a_second * one[1] >= 1), _PER[-1])
    rate = a_second * seconds
    return f"{rate:,.0f} {unit}/{name}" if rate >= 10 else f"{rate:.1f} {unit}/{name}"


def _bytes(number: float) -> str:
    power = 0
    while number >= 1000 and power < len(_PREFIXES) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.1f} {_PREFIXES[power]}B" if power else f"{number:.0f} B"


def _size(stream: TextIO) -> dict[str, Any]:
    """Returns how large tqdm is to take a terminal: as it says at any time, or as usual ones where it does not say."""
    try:
        told = min(os.get_terminal_size(stream.fileno())) > 0
    except OSError:
        told = False
    # In one of no columns or rows, as containers and `script` have them, it would draw nothing.
    return {"dynamic_ncols": True} if told else {"ncols": 80, "nrows": 24}


class _Drawn:
    """A bar on a terminal; what others print there goes above it."""

    def __init__(self, stream: TextIO, stays: bool):
        # Imported here: without a terminal it is not needed.
        from tqdm import tqdm

        self._drawing = self._there = False
        # By an attribute, as `terminal.tolerate` does it.
        streams = {id(one): one for one in (sys.stdout, stream) if one is not None and one.isatty()}
        self._streams = list(streams.values())
        self._writes = [one.write for one in self._streams]
        for one, write in zip(self._streams, self._writes, strict=True):
            setattr(one, "write", self._above(write))  # noqa: B010
        self._drawing = True
        self._tqdm = tqdm(file=stream, bar_format="{desc}", mininterval=0, miniters=0, leave=stays, **_size(stream))
        self._drawing = False

    def draw(self, doing: str, share: float | None, words: str) -> None:
        """Draws a state: the share that is done, 0 to 1; None where nobody knows it."""
        bar = self._tqdm
        # The place that tqdm has for words of one's own begins with a comma.
        bar.set_description_str(doing, refresh=False)
        bar.unit = words
        bar.bar_format = "{desc}: {unit}" if share is None else "{desc}: {percentage:3.0f}%|{bar}| {unit}"
        bar.total, bar.n = (None, 0) if share is None else (1, share)
        self._do(bar.refresh)
        self._there = terminal.open_line = True

    def close(self) -> None:
        """Leaves the last state where it is and gives the streams back."""
        self._do(self._tqdm.close)
        terminal.open_line = False
        for one, write in zip(self._streams, self._writes, strict=True):
            setattr(one, "write", write)  # noqa: B010

    def _do(self, action: Callable[[], Any]) -> None:
        self._drawing = True
        try:
            action()
        finally:
            self._drawing = False

    def _above(self, write: Callable[[str], int]) -> Callable[[str], int]:
        def clears_first(text: str) -> int:
            if self._there and not self._drawing:
                # It is drawn again with the next state.
                self._there = terminal.open_line = False
                self._do(self._tqdm.clear)
            return write(text)

        return clears_first
