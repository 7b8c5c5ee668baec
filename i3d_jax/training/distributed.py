"""Several processes that compute as one run, usually one on each host: they meet, agree, wait for each other and stop.

They meet at process 0, the coordinator (`jax.distributed`), and need one another's arrays in every step. So a process
that fails must not leave the others waiting: `leave` ends it without the handshake that would wait for them, and what
they notice (a connection that closes at once, or heartbeats that stay away for `HEARTBEAT_SECONDS`) ends them too. JAX
itself ends a process that has lost the coordinator, with a message of its own and SIGABRT.

Everything here does nothing, or the obvious, where there is one process.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from i3d_jax.errors import STOPPED_CODE, Failure, UserError

# A process that has not been heard of for so long counts as dead.
HEARTBEAT_SECONDS = 60

# While process 0 draws and prepares a dataset, the others wait.
_LONGEST_WAIT_SECONDS = 7 * 24 * 3600
# Several that stop for one reason may each say so before the first one's end ends the others.
_FAREWELL_SECONDS = 5
# Network file systems show a file that another machine wrote only after a while.
_SEEN_WITHIN_SECONDS = 60

_LOST = re.compile("gloo|nccl|coordination|barrier|heartbeat|socket closed|connection (closed|reset)", re.IGNORECASE)

# What `add_flags` adds.
FLAGS = ("distributed", "coordinator", "num_processes", "process_id", "join_timeout")

_waits = itertools.count()
_outcomes = itertools.count()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `join` reads."""
    group = parser.add_argument_group(
        "several processes",
        "one on each host, started with the same command and an output folder that all of them share",
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="this process is one of several; Cloud TPU, SLURM and Open MPI tell it which",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="or, elsewhere: where process 0 listens for the others"
    )
    group.add_argument(
        "--num_processes", metavar="N", type=int, help="with --coordinator: how many processes there are"
    )
    group.add_argument("--process_id", metavar="I", type=int, help="with --coordinator: which one this is, from 0")
    group.add_argument(
        "--join_timeout",
        metavar="SECONDS",
        type=int,
        default=300,
        help="how long to wait until all processes are there (default: %(default)s)",
    )


def join(options: argparse.Namespace) -> None:
    """Joins the other processes, if the command line says that there are any; to be called before any computation.

    Where they are not all there in time the process ends: one sentence with the coordinator's address, exit code 2.

    Raises:
      UserError: the flags do not fit each other, or no cluster is recognised.
    """
    explicit = {name: getattr(options, name) for name in ("coordinator", "num_processes", "process_id")}
    given = [f"--{name}" for name, value in explicit.items() if value is not None]
    if not (given or options.distributed):
        return
    if given:
        _check(options, given)
    if options.join_timeout < 1:
        raise UserError(f"--join_timeout must be at least 1 second, found {options.join_timeout}")
    # JAX would end the process with a stack trace.
    deadline = threading.Timer(options.join_timeout, _give_up, [options])
    deadline.daemon = True
    deadline.start()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            # Where the command line says which process this is, the surroundings are not asked.
            cluster_detection_method="deactivate" if given else None,
            initialization_timeout=options.join_timeout + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())[:300]
        if given:
            raise UserError(
                f"process {options.process_id} cannot meet others at {options.coordinator}: {text}"
            ) from error
        raise UserError(
            "--distributed recognises Cloud TPU, SLURM and Open MPI, and found none of them: say --coordinator "
            f"HOST:PORT --num_processes N --process_id I instead ({text})"
        ) from error
    finally:
        deadline.cancel()
    _connect()


def _connect() -> None:
    """Lets every device hear of every other once, while all processes are here.

    Where they are connected by gloo, the first sum over a set of devices gives the others half a minute; once it was
    made, those that come to the next one wait as long as it takes the slowest to compile, or to read its clips.
    """
    wait()
    everyone = Mesh(np.array(jax.devices()), ("devices",))
    split, whole = (NamedSharding(everyone, spec) for spec in (PartitionSpec("devices"), PartitionSpec()))
    ones = jax.make_array_from_callback((everyone.size,), split, lambda index: np.ones(1, np.float32))
    jax.jit(jnp.sum, out_shardings=whole)(ones).block_until_ready()


def _check(options: argparse.Namespace, given: list[str]) -> None:
    needed = ("--coordinator", "--num_processes", "--process_id")
    if missing := [flag for flag in needed if flag not in given]:
        raise UserError(f"{', '.join(needed)} go together, found {', '.join(given)} without {', '.join(missing)}")
    if not re.fullmatch(r".+:\d+", options.coordinator):
        raise UserError(f"--coordinator must be HOST:PORT, found {options.coordinator!r}")
    if options.num_processes < 1:
        raise UserError(f"--num_processes must be at least 1, found {options.num_processes}")
    if not 0 <= options.process_id < options.num_processes:
        raise UserError(f"--process_id must be 0 to {options.num_processes - 1}, found {options.process_id}")


def _jax_state():
    """What JAX knows of the other processes; it tells nobody in public, so only several processes rest on this."""
    from jax._src import distributed as jax_distributed

    return jax_distributed.global_state


def _give_up(options: argparse.Namespace) -> None:
    state = _jax_state()
    address = options.coordinator or state.coordinator_address or "an address that the cluster did not tell"
    if state.service is not None:
        told = f"not all of the {options.num_processes or 'other'} processes came to {address}, where process 0 waits,"
    else:
        told = f"the coordinator (process 0) at {address} did not answer, or not all processes came to it,"
    print(f"error: {told} within {options.join_timeout} s (--join_timeout)", file=sys.stderr, flush=True)
    os._exit(2)


def leave(code: int) -> None:
    """Ends the process, `errors.run`'s way: after a failure at once, without waiting for the other processes.

    Where all of them stop together (`Stopped`), each waits for the others, as at the end of the training.
    """
    if code not in (0, STOPPED_CODE) and jax.distributed.is_initialized():
        with contextlib.suppress(Exception):
            _jax_state().client.wait_at_barrier("farewell", _FAREWELL_SECONDS * 1000)
            # All leave for a reason of their own: none is to find the coordinator gone and give that as the reason.
            jax.distributed.shutdown()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def is_first() -> bool:
    """Says whether this is process 0: the one that writes files and tells of progress."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Tells of progress, a line on standard error, where this is process 0."""
    if is_first():
        print(text, file=sys.stderr, flush=True)


def wait() -> None:
    """Waits until every process has come here, for days if need be; all must come by the same way."""
    if jax.process_count() > 1:
        name = f"i3d_jax {next(_waits)}"
        _jax_state().client.wait_at_barrier(name, _LONGEST_WAIT_SECONDS * 1000)


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
        _jax_state().client.wait_at_barrier(f"i3d_jax outcome {next(_outcomes)}", seconds * 1000)
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


def lost_another(error: BaseException) -> bool:
    """Says whether an error is what a process sees of the death of another, or of the network between them."""
    of_users = isinstance(error, (UserError, Failure))
    return jax.process_count() > 1 and not of_users and _LOST.search(str(error)) is not None


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raises a `Failure` that says what it means in place of an error that is the death of another process."""
    try:
        yield
    except Exception as error:
        if not lost_another(error):
            raise
        raise Failure(
            f"process {jax.process_index()} of {jax.process_count()} stops, because another one has stopped or cannot "
            "be reached: see what that one printed last; training that is started again goes on from its newest "
            f"checkpoint ({' '.join(str(error).split())[:300]})"
        ) from error
