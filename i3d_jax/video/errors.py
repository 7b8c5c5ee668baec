"""Why a video cannot be read."""

from __future__ import annotations


class UnreadableVideo(Exception):
    """The video cannot be read from start to end; its text is a short reason that says how far it came."""


class UnusableTimestamps(Exception):
    """Timestamps go backwards or are missing: the video has to be decoded again with `decode(by_timestamps=False)`."""
