"""How processes of one run come together and part, each with its own reason where it has one."""

from __future__ import annotations

import argparse
import itertools

import pytest
from helpers import pairs
from helpers.pairs import ended
from helpers.ports import free_address

from i3d_jax.system import cluster, heartbeat
from i3d_jax.system.errors import UserError


@pytest.fixture(scope="module")
def start():
    with pairs.starting() as start:
        yield start


JOINING = """
import argparse, os, time
from i3d_jax.system.errors import UserError, run
from i3d_jax.system import cluster, hosts
def join(arguments):
    parser = argparse.ArgumentParser()
    cluster.add_flags(parser)
    cluster.join(parser.parse_args(arguments))
"""


LEAVING = """
def main(arguments):
    join(arguments)
    if hosts.is_first():
        raise UserError("the coordinator is quick")
    end = os._exit
    os._exit = lambda code: (time.sleep(3), end(code))
    raise UserError("the other one is slow")
run(main, leave=cluster.leave)
"""


def test_all_that_fail_tell_their_own_reason(start):
    """The coordinator's end does not end another one that is about to stop by itself."""
    processes = start("-c", JOINING + LEAVING)
    for process, words in zip(processes, ("the coordinator is quick", "the other one is slow"), strict=True):
        code, _, errors = ended(process)
        assert (code, errors.splitlines()[-1]) == (2, f"error: {words}")


ENDING = """
from i3d_jax.system import heartbeat
# One meeting follows the other, so that some are amid Python's end.
heartbeat._BEATS = 10**6
def main(arguments):
    join(arguments)
    time.sleep(1)
run(main, leave=cluster.leave)
"""


def test_an_end_amid_a_meeting_is_a_quiet_one(start):
    """Without `heartbeat.stop` about every second pair had one that ended by SIGABRT."""
    processes = [start("-c", JOINING + ENDING) for _ in range(3)]
    for process in itertools.chain(*processes):
        code, _, errors = ended(process)
        assert (code, "terminate" in errors) == (0, False), errors


FAILING = """
import numpy as np
from jax.experimental import multihost_utils
def main(arguments):
    join(arguments)
    hosts.HEARTBEAT_SECONDS = 3
    with cluster.explained():
        multihost_utils.process_allgather(np.ones(1))
        if hosts.is_first():
            multihost_utils.process_allgather(np.ones(1))
        hosts.failure_of_any("the disk of process 1 is full")
run(main, leave=cluster.leave)
"""


def test_who_fails_while_the_other_needs_it_tells_why(start):
    (code, _, errors), (code_of_failed, _, errors_of_failed) = map(ended, start("-c", JOINING + FAILING))
    assert (code_of_failed, errors_of_failed.splitlines()[-1]) == (2, "error: the disk of process 1 is full")
    assert code == 1
    assert "another one has stopped or cannot be reached" in errors


def test_who_finds_nobody_says_where_it_looked(start):
    """Each alone at an address of its own."""
    alone, nowhere = free_address(), free_address()
    flags = "--join_timeout", "2", "--coordinator"
    processes = start("-c", f"{JOINING}run(join, leave=cluster.leave)", each=((*flags, alone), (*flags, nowhere)))
    expected = (
        f"error: not all of the 2 processes came to {alone}, where process 0 waits, within 2 s (--join_timeout)\n",
        f"error: the coordinator (process 0) at {nowhere} did not answer, or not all processes came to it, "
        "within 2 s (--join_timeout)\n",
    )
    for process, words in zip(processes, expected, strict=True):
        assert ended(process)[::2] == (2, words)


def test_those_that_are_missing_are_named():
    """As JAX 0.4 and 0.10 say it."""
    listed = "DEADLINE_EXCEEDED: Barrier timed out. Some timed out task names:\n{}\n\nRPC: /xla/Barrier 7\n"
    assert heartbeat.missing(listed.format("12")) == "process 12"
    assert heartbeat.missing(listed.format("/job:jax_worker/replica:0/task:3")) == "process 3"
    assert heartbeat.missing(listed.format("3\n14")) == "process 3 (of 2 that are missing)"
    assert heartbeat.missing("CANCELLED: 1") == "another one"
    assert heartbeat.missing("") == "process 0, which all meet at,"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--coordinator a:1 --process_id 0", "go together, found --coordinator, --process_id without --num_processes"),
        ("--coordinator a --num_processes 2 --process_id 0", "must be HOST:PORT, found 'a'"),
        ("--coordinator a:1 --num_processes 0 --process_id 0", "--num_processes must be at least 1, found 0"),
        ("--coordinator a:1 --num_processes 2 --process_id 2", "--process_id must be 0 to 1, found 2"),
        ("--distributed --join_timeout 0", "--join_timeout must be at least 1 second, found 0"),
    ],
)
def test_flags_that_do_not_fit(flags, words):
    parser = argparse.ArgumentParser()
    cluster.add_flags(parser)
    with pytest.raises(UserError, match=words):
        cluster.join(parser.parse_args(flags.split()))
