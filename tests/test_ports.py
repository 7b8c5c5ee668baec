"""Which ports are opened, and for whom (docs/security.md)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
# 127.0.0.1 and ::1 as Linux writes them, the first in IPv6 as well.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
PROGRAM = """
import argparse, sys
from pathlib import Path
from i3d_jax.system import cluster
parser = argparse.ArgumentParser()
cluster.add_flags(parser)
cluster.join(parser.parse_args(["--coordinator", sys.argv[1], "--num_processes", "1", "--process_id", "0"]))
for table in ("tcp", "tcp6"):
    print(Path("/proc/net", table).read_text())
"""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the system does not list its ports in /proc")
def test_the_coordinator_of_one_machine_listens_for_that_machine_alone():
    port = free_port()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"localhost:{port}"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    # Those in the state 0A, which listen.
    listening = re.findall(rf"\d+: ([0-9A-F]+):{port:04X} [0-9A-F:]+ 0A", done.stdout)
    assert listening
    assert set(listening) <= LOOPBACK
