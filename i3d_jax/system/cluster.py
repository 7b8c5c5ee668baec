"""How several processes that compute as one run, usually one on each host, come together and part.

They meet at process 0, the coordinator (`jax.distributed`), and need one another's arrays in every step. So a process
that fails must not leave the others waiting: `leave` ends it without the handshake that would wait for them, and what
they notice (a connection that closes at once, or a `heartbeat` that stays away for `hosts.HEARTBEAT_SECONDS`) ends them
too. JAX itself ends a process whose coordinator was killed, with a message of its own and SIGABRT.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from i3d_jax.system import heartbeat, hosts
from i3d_jax.system.errors import STOPPED_CODE, Failure, UserError, leave_alone

# Several that stop for one reason may each say so before the first one's end ends the others.
_FAREWELL_SECONDS = 5

# So many times as long as our heartbeat JAX's own waits.
_JAX_WAITS = 4

_LOST = re.compile("gloo|nccl|coordination|barrier|heartbeat|socket closed|connection (closed|reset)", re.IGNORECASE)

# What `add_flags` adds.
FLAGS = ("distributed", "coordinator", "num_processes", "process_id", "join_timeout")


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
            # Else on every address of the machine, which others need that come from elsewhere.
            coordinator_bind_address=options.coordinator if _of_this_machine(options.coordinator) else None,
            initialization_timeout=options.join_timeout + 60,
            # The last resort, behind our own.
            heartbeat_timeout_seconds=_JAX_WAITS * hosts.HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_JAX_WAITS * hosts.HEARTBEAT_SECONDS,
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
    heartbeat.watch(hosts.HEARTBEAT_SECONDS)
    _connect()


def _of_this_machine(address: str | None) -> bool:
    """Says whether an address, HOST:PORT, is one that this machine alone can reach."""
    host = (address or "").rpartition(":")[0]
    return host == "localhost" or re.fullmatch(r"127(\.\d+){3}", host) is not None


def _connect() -> None:
    """Lets every device hear of every other once, while all processes are here.

    Where they are connected by gloo, the first sum over a set of devices gives the others half a minute; once it was
    made, those that come to the next one wait as long as it takes the slowest to compile, or to read its clips.
    """
    hosts.wait()
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


def _give_up(options: argparse.Namespace) -> None:
    address = options.coordinator or "an address that the cluster told"
    if options.process_id == 0:
        told = f"not all of the {options.num_processes} processes came to {address}, where process 0 waits,"
    else:
        told = f"the coordinator (process 0) at {address} did not answer, or not all processes came to it,"
    print(f"error: {told} within {options.join_timeout} s (--join_timeout)", file=sys.stderr, flush=True)
    os._exit(2)


def leave(code: int) -> None:
    """Ends the process, `errors.run`'s way: after a failure at once, without waiting for the other processes.

    At the end of the training, and where all of them stop together (`Stopped`), each waits for the others.
    """
    if code == 0 and jax.distributed.is_initialized():
        # Its work is done, whatever becomes of the others.
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()
        heartbeat.stop()
    elif jax.distributed.is_initialized():
        heartbeat.leave(code)
        with contextlib.suppress(Exception):
            if code != STOPPED_CODE:
                hosts.barrier("farewell", _FAREWELL_SECONDS)
            # All leave for a reason of their own: none is to find the coordinator gone and give that as the reason.
            jax.distributed.shutdown()
        sys.stderr.flush()
        os._exit(code)
    leave_alone(code)


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
