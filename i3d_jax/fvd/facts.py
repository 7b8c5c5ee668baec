"""What is known of a set's files beside their content: where two sets differ in it, that alone moves their distance."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from i3d_jax.system.errors import UserError

_KINDS = {"sizes": "frame size", "frame_rates": "frame rate", "compressions": "compression"}
# Of two sets of the same codec: how many times the bits of the other one's pixels are worth a word.
_MANY_TIMES = 2.0


@dataclasses.dataclass
class Facts:
    """Counts over a set's clips.

    Attributes:
      sizes: clips by the size of their frames, "320x240".
      frame_rates: by frames a second, "29.97"; those of which it is not known are left out.
      compressions: by what the frames were read from: a codec, an image format or "array".
      bits: of the files for each pixel, summed over the clips of which it is known.
      bits_count: how many these are.
    """

    sizes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    frame_rates: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    compressions: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    bits: float = 0.0
    bits_count: int = 0

    def add(self, size: tuple[int, int], frame_rate: float | None, compression: str, bits: float | None) -> None:
        """Counts one clip: (width, height), frames a second, the codec, bits a pixel; None for what is not known."""
        self.sizes[f"{size[0]}x{size[1]}"] += 1
        self.compressions[compression] += 1
        if frame_rate is not None:
            self.frame_rates[f"{frame_rate:.4g}"] += 1
        if bits is not None:
            self.bits += bits
            self.bits_count += 1

    def __add__(self, other: Facts) -> Facts:
        return Facts(
            **{kind: getattr(self, kind) + getattr(other, kind) for kind in _KINDS},
            bits=self.bits + other.bits,
            bits_count=self.bits_count + other.bits_count,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns it as a file of statistics holds it."""
        counts = {kind: dict(getattr(self, kind)) for kind in _KINDS}
        return {**counts, "bits": self.bits, "bits_count": self.bits_count}

    @classmethod
    def from_json(cls, fields: Any, *, where: str) -> Facts:
        """Reads what `to_json` gave; a `UserError` says that it is something else."""
        try:
            counts: dict[str, Any] = {
                kind: collections.Counter({str(name): int(count) for name, count in fields[kind].items()})
                for kind in _KINDS
            }
            if any(count < 1 for kind in _KINDS for count in counts[kind].values()):
                raise ValueError("counts are of one clip at least")
            return cls(**counts, bits=float(fields["bits"]), bits_count=int(fields["bits_count"]))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"{where}: 'facts' of a set were expected, found something else") from None

    def differences(self, other: Facts, ours: str, theirs: str) -> list[str]:
        """Returns a sentence for each thing in which most clips of one set are unlike those of the other."""
        found = []
        for kind, word in _KINDS.items():
            a, b = getattr(self, kind), getattr(other, kind)
            if a and b and _apart(a, b) > 0.5:
                found.append(
                    f"the {word} of {ours} is {_most(a)}, of {theirs} {_most(b)}: that alone moves the distance"
                )
        if self.bits_count and other.bits_count and self.compressions.keys() & other.compressions.keys():
            a, b = self.bits / self.bits_count, other.bits / other.bits_count
            if max(a, b) > _MANY_TIMES * min(a, b):
                found.append(
                    f"the files of {ours} have {a:.3g} bits a pixel, those of {theirs} {b:.3g}: that alone moves the "
                    "distance"
                )
        return found


def _apart(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    """Returns the share of clips that would have to change for both to have the same shares: 0 to 1."""
    all_a, all_b = sum(a.values()), sum(b.values())
    return sum(abs(a.get(name, 0) / all_a - b.get(name, 0) / all_b) for name in {*a, *b}) / 2


def _most(counts: collections.Counter[str]) -> str:
    (name, _), *others = counts.most_common()
    return f"{name} and {len(others)} more" if others else name
