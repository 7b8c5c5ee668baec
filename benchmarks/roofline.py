"""The shortest time that a chip's datasheet leaves for a program: the longest of arithmetic, memory and links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Chip(NamedTuple):
    """A chip's datasheet.

    Attributes:
      flops: bfloat16 operations a second.
      memory_bandwidth: bytes a second.
      memory: bytes.
      link_bandwidth: bytes a second that it sends to other chips; as many come in at the same time.
    """

    flops: float
    memory_bandwidth: float
    memory: float
    link_bandwidth: float


# https://cloud.google.com/tpu/docs/v5e, /v5p and /v6e, "Key specifications"; what they say of links is for both
# directions together.
CHIPS = {
    "v5e": Chip(flops=197e12, memory_bandwidth=819e9, memory=16e9, link_bandwidth=400e9 / 2),
    "v5p": Chip(flops=459e12, memory_bandwidth=2765e9, memory=95 * 2**30, link_bandwidth=1200e9 / 2),
    "v6e": Chip(flops=918e12, memory_bandwidth=1638e9, memory=32e9, link_bandwidth=800e9 / 2),
}


class Times(NamedTuple):
    """The least seconds of a step for each part; all three may run at once, so the longest is the bound."""

    arithmetic: float
    memory: float
    links: float

    @property
    def bound(self) -> float:
        """The longest of the three."""
        return max(self)


def times(
    chip: Chip, *, flops: float, memory_bytes: float, collectives: Mapping[str, tuple[int, int]], devices: int
) -> Times:
    """The least time of a step.

    Args:
      chip: the datasheet.
      flops: operations of one chip in a step.
      memory_bytes: what it reads and writes in its memory.
      collectives: (count, bytes) by kind, as `hlo.collectives` gives them.
      devices: chips that take part.
    """
    sent = sum(ring_bytes(kind, size, devices) for kind, (_, size) in collectives.items())
    return Times(flops / chip.flops, memory_bytes / chip.memory_bandwidth, sent / chip.link_bandwidth)


def ring_bytes(kind: str, size: float, devices: int) -> float:
    """Bytes that each of `devices` chips in a ring sends for a collective over whole arrays of `size` bytes."""
    share = size * (devices - 1) / devices
    if kind == "all-reduce":
        # Each part goes round once to be summed and once more to be told.
        return 2 * share
    return size if kind == "collective-permute" else share
