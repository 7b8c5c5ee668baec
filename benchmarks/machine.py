"""Where, when and how figures are taken: what every benchmark says of itself."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

# The share of the cores that may be busy before: OpenMP gives each thread an equal part and waits for the slowest.
QUIET_LOAD = 0.1


def about(packages: Sequence[str], *, gpu: str | None) -> dict[str, Any]:
    """Returns the date, the command, the machine and the versions of Python and `packages`, ready for JSON.

    "tensorflow" is its CPU build, which has a name of its own, where that is installed.
    """
    builds = importlib.metadata.packages_distributions()
    packages = [builds.get(package, [package])[0] for package in packages]
    return {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "gpu": gpu,
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
    }


def print_about(about: dict[str, Any]) -> None:
    """Prints the same for people, with a warning where other work shares the cores."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    gpu = f"{about['gpu']}, " if about["gpu"] else ""
    print(f"{about['date']}, {gpu}{about['cpu']} with {about['cores']} cores (load {about['load_before']} before)")
    print(versions)
    print(f"`{about['command']}`")
    if about["load_before"] > QUIET_LOAD * about["cores"]:
        print("Other work shares the cores and slows the two down by different factors: quote none of these ratios.")


def _cpu_name() -> str:
    """The processor's name, as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def positive(text: str) -> int:
    """Reads a whole number of 1 or more from a command line, for `argparse`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of 1 or more was expected, found {text!r}")
    return int(text)
