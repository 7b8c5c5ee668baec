"""Timestamps of which a few are bad: which they are, and where their frames stand instead."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Sequence
from fractions import Fraction

# So many bad ones in a row are errors; where more go backwards, time itself begins anew.
FEW = 10
# Of all timestamps: where more are bad, the others are not to be trusted either.
MOST_BAD = Fraction(1, 10)


@dataclasses.dataclass(frozen=True)
class Mended:
    """Times that increase strictly.

    Attributes:
      times: of each frame in ticks, not always whole ones.
      bad: how many frames stand elsewhere than their timestamps say, because those are missing or out of order.
      jumps: how often time began anew and was carried on.
    """

    times: tuple[Fraction, ...]
    bad: int
    jumps: int


def mend(timestamps: Sequence[int | None]) -> Mended | None:
    """Returns where frames stand in time if a few of their timestamps are bad; None where too many are.

    A bad one is missing, or lies before or beyond those around it: its frame stands evenly between its neighbours.
    Where all that follow lie before (as in recordings that were joined), they are moved to follow on.

    Args:
      timestamps: of the frames in the order in which they are shown, in ticks.
    """
    step = usual_step(timestamps)
    if step is None:
        return None
    kept: list[tuple[int, int]] = []  # (number of the frame, time)
    offset = jumps = 0
    for number, timestamp in enumerate(timestamps):
        if timestamp is None:
            continue
        time = timestamp + offset
        if kept and time <= kept[-1][1]:
            latest = kept[-1][1]
            before = _leading(kept_time >= time for _, kept_time in reversed(kept))
            following = timestamps[number : number + FEW + 1]
            after = _leading(later is None or later + offset <= latest for later in following)
            # At the end no later frame tells which of two is bad: the one that stands far from those before.
            leap = (
                after == len(following) and before < min(len(kept), FEW) and latest - kept[-1 - before][1] > FEW * step
            )
            # Repeated ones are the bad ones however many they are.
            if after <= (FEW if time == latest else min(before, FEW)) and not leap:
                continue
            if before <= FEW:  # They went too far.
                del kept[-before:]
            else:
                jumps += 1
                offset += latest + step - time
                time = timestamp + offset
        kept.append((number, time))
    bad = len(timestamps) - len(kept)
    if bad + jumps > max(Fraction(1), len(timestamps) * MOST_BAD):
        return None
    return Mended(tuple(_filled(kept, len(timestamps), step)), bad, jumps)


def usual_step(timestamps: Sequence[int | None]) -> int | None:
    """Returns the median of the steps forward, in ticks; None where there is none."""
    pairs = itertools.pairwise(timestamps)
    steps = [after - before for before, after in pairs if before is not None and after is not None and after > before]
    return statistics.median_low(steps) if steps else None


def _leading(backwards: Iterable[bool]) -> int:
    """Returns how many are true before the first one that is not, or `FEW` + 1 if there are more than `FEW`."""
    return sum(1 for _ in itertools.takewhile(bool, itertools.islice(backwards, FEW + 1)))


def _filled(kept: Sequence[tuple[int, int]], count: int, step: int) -> list[Fraction]:
    """Returns the times of all `count` frames: those kept, and the others evenly between them or a step apart."""
    first, last = kept[0], kept[-1]
    times = [Fraction(first[1] - (first[0] - number) * step) for number in range(first[0])]
    for (number, time), (next_number, next_time) in itertools.pairwise(kept):
        apart = Fraction(next_time - time, next_number - number)
        times += [time + between * apart for between in range(next_number - number)]
    return times + [Fraction(last[1] + after * step) for after in range(count - last[0])]
