"""What the processes of one run, usually one on each host, do together: wait, gather, agree, and let the first one act.

All of it does nothing, or the obvious, where there is one process. `cluster` is how they come together and part.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from i3d_jax.system import terminal
from i3d_jax.system.errors import UserError

# A process that has not been heard of for so long counts as dead.
HEARTBEAT_SECONDS = 60

# While process 0 draws and prepares a dataset, the others wait.
_LONGEST_WAIT_SECONDS = 7 * 24 * 3600
# Network file systems show a file that another machine wrote only after a while.
_SEEN_WITHIN_SECONDS = 60

_waits = itertools.count()
_outcomes = itertools.count()


def is_first() -> bool:
    """Says whether this is process 0: the one that writes files and tells of progress."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Tells of progress, a line on standard error, where this is process 0 and was not told to be quiet."""
    if is_first():
        terminal.say(text)


def warn(text: str) -> None:
    """Says what is wrong, a line on standard error, where this is process 0."""
    if is_first():
        print(text, file=sys.stderr, flush=True)


def wait() -> None:
    """Waits until every process has come here, for days if need be; all must come by the same way."""
    if jax.process_count() > 1:
        barrier(f"i3d_jax {next(_waits)}", _LONGEST_WAIT_SECONDS)


def barrier(name: str, seconds: int) -> None:
    """Waits until every process has come to the barrier of that name; a `RuntimeError` says that time was up."""
    ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=seconds * 1000)


def gather_bytes(value: bytes) -> list[bytes]:
    """Returns what every process gave, by its number."""
    if jax.process_count() == 1:
        return [value]
    wait()
    lengths = np.asarray(multihost_utils.process_allgather(np.array(len(value), np.int32))).reshape(-1)
    padded = np.frombuffer(value.ljust(int(lengths.max()), b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def gather(value: Any) -> list[Any]:
    """Returns what every process gave, a value that JSON holds, by its number."""
    return [json.loads(one) for one in gather_bytes(json.dumps(value).encode())]


def gather_rows(array: np.ndarray) -> np.ndarray:
    """Returns the rows of every process's array, in the order of the processes; all have one shape and dtype."""
    if jax.process_count() == 1:
        return array
    if array.dtype.kind == "U":
        return np.concatenate([np.array(own, np.str_) for own in gather(array.tolist())])
    wait()
    return np.concatenate(np.asarray(multihost_utils.process_allgather(array)))


def whole(array: Any) -> np.ndarray:
    """Returns an array, also one whose parts lie on the devices of several processes: then every one asks for it."""
    if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def by_first(make: Callable[[], Any]) -> Any:
    """Lets process 0 alone make something, while the others wait, and returns on all what it gave: JSON's values."""
    return gather(make() if is_first() else None)[0]


def failure_of_any(reason: str | None) -> str | None:
    """Returns on every process why one of them failed, None where none did.

    Args:
      reason: why this process failed, None if it did not. Who failed waits for `HEARTBEAT_SECONDS`: others that have
        not come by then are amid what needs this process.

    Raises:
      UserError: it failed, and the others do not come.
    """
    if jax.process_count() == 1:
        return reason
    seconds = _LONGEST_WAIT_SECONDS if reason is None else HEARTBEAT_SECONDS
    try:
        barrier(f"i3d_jax outcome {next(_outcomes)}", seconds)
    except RuntimeError:
        if reason is None:
            raise
        raise UserError(reason) from None
    return next((one for one in gather(reason) if one is not None), None)


def refuse_different(values: Mapping[str, Any], *, what: str) -> None:
    """Raises a `UserError` on every process unless all of them have the same values.

    Args:
      values: by key, values that JSON holds.
      what: they are, for the sentence.
    """
    everyone = gather(dict(values))
    keys = list(dict.fromkeys(key for own in everyone for key in own))
    different = []
    for key in keys:
        found = [json.dumps(own[key]) if key in own else "absent" for own in everyone]
        other = next((process for process, value in enumerate(found) if value != found[0]), None)
        if other is not None:
            different.append(f"{key} ({found[0]} in process 0, {found[other]} in process {other})")
    if different:
        raise UserError(f"all processes of a run need the same {what}, but these differ: {'; '.join(different)}")


def refuse_unshared(path: Path, text: str | None = None) -> None:
    """Raises a `UserError` on all processes unless all see a file or folder which process 0 wrote before.

    Args:
      path: where.
      text: what the file holds; None for any.
    """
    wait()
    deadline = time.monotonic() + _SEEN_WITHIN_SECONDS
    while not (seen := _shows(path, text)) and time.monotonic() < deadline:
        time.sleep(1)
    blind = [process for process, sees in enumerate(gather(seen)) if not sees]
    if blind:
        raise UserError(
            f"process {blind[0]} does not see {path} as process 0 has written it: expected a folder that all hosts "
            "share"
        )


def _shows(path: Path, text: str | None) -> bool:
    try:
        return path.exists() if text is None else path.read_text() == text
    except OSError:
        return False
