"""Ctrl-C and SIGTERM end a command in time, with their exit code and one sentence, whatever it is at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.small_checkpoints import save_stream

ROOT = Path(__file__).resolve().parents[1]
# What a command is at when the signal comes; NUMBER is the signal's.
AT_WORK = {
    # Python discards what is raised in there, as in JAX's own callback.
    "the garbage collector": """
        import gc
        sent = []
        def collects(phase, information):
            if phase == "start" and not sent:
                sent.append(1)
                os.kill(os.getpid(), NUMBER)
                for _ in range(100): pass
        gc.callbacks.append(collects)
        gc.collect()
        time.sleep(60)
    """,
    "a finalizer": """
        class Thing:
            def __del__(self):
                os.kill(os.getpid(), NUMBER)
                for _ in range(100): pass
        Thing()
        time.sleep(60)
    """,
    "a library that swallows everything": """
        os.kill(os.getpid(), NUMBER) if not hasattr(os, "sent") else None
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    """,
    "a library that makes another error of it": """
        try:
            os.kill(os.getpid(), NUMBER)
            time.sleep(60)
        except BaseException as error:
            raise RuntimeError("INTERNAL: Python interpreter state is lost") from error
    """,
    "code that does not come back to Python": """
        import ctypes
        threading.Timer(0.2, os.kill, (os.getpid(), NUMBER)).start()
        ctypes.CDLL(None).sleep(60)
    """,
    "its last line": """
        try:
            os.kill(os.getpid(), NUMBER)
            time.sleep(60)
        except BaseException:
            pass
    """,
    "closing what is open": """
        try:
            os.kill(os.getpid(), NUMBER)
            time.sleep(60)
        finally:
            time.sleep(60)
    """,
    "nothing that would hinder it": """
        import atexit
        atexit.register(time.sleep, 60)
        threading.Timer(0.2, os.kill, (os.getpid(), NUMBER)).start()
        threading.Event().wait()
    """,
}
CODES = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "stopped by SIGTERM")}


@pytest.fixture(scope="module")
def ended():
    """What came of a command for everything it may be at and both signals; they run side by side."""
    processes = {}
    for at, body in AT_WORK.items():
        for number in CODES:
            lines = "\n".join("    " + line.removeprefix(8 * " ") for line in body.splitlines())
            program = (
                "import os, signal, sys, threading, time\n"
                "from i3d_jax.system import signals\n"
                "from i3d_jax.system.errors import run\n"
                f"NUMBER = {int(number)}\n"
                "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
                f"def work():{lines}\n"
                "def main(arguments):\n"
                "    print('at work', flush=True)\n"
                "    with signals.advised(lambda: 'go on'):\n"
                "        work()\n"
                "run(main)\n"
            )
            processes[at, number] = subprocess.Popen(
                [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
    for process in processes.values():
        assert process.stdout.readline() == "at work\n"
    began = time.monotonic()
    found = {}
    for key, process in processes.items():
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
        found[key] = (process.returncode, errors, time.monotonic() - began)
    return found


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("at", AT_WORK)
def test_a_signal_ends_it_in_time(ended, at, number):
    code, errors, seconds = ended[at, number]
    expected, words = CODES[number]
    assert code == expected, errors
    assert errors == f"{words}; go on\n"
    # A second, and what starting so many interpreters at once takes.
    assert seconds < 10


LATE = """
import asyncio, sys
from i3d_jax.system.errors import UserError, run
class Late:
    def __init__(self, call): self.call = call
    def __del__(self): self.call()
def main(arguments):
    loop = asyncio.new_event_loop()
    loop.close()
    Late(lambda: loop.call_soon_threadsafe(print))
    Late(lambda: [][0])
    raise UserError("one sentence")
run(main)
"""


def test_late_callbacks_of_an_event_loop_are_not_told():
    """TensorStore makes one for every array, after the first has failed; what else nobody could hear is told."""
    done = subprocess.run([sys.executable, "-c", LATE], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "IndexError" in done.stderr
    assert "Event loop" not in done.stderr
    assert done.stderr.endswith("error: one sentence\n")


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_during_the_imports_of_a_command_is_one_sentence(tmp_path, number):
    # Imported by all commands, long before they watch; it stands for any library that takes its time.
    (tmp_path / "numpy.py").write_text(f"import os, sys, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "i3d_jax.predict", "a.mp4", "--checkpoint", "c"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (CODES[number][0], f"{CODES[number][1]}\n")


# What the main thread holds while it asks Orbax about a file.
HOLDING = """
import concurrent.futures.thread, os, pathlib, signal, sys, time, types
from i3d_jax import checkpoint
from i3d_jax.run import train
from i3d_jax.run.retention import Checkpoints
from i3d_jax.system import signals
from i3d_jax.system.errors import run
def main(arguments):
    folder = pathlib.Path(sys.argv[1])
    description = checkpoint.Description.read(folder / "4")
    checkpoints = Checkpoints(folder, description, keep_last=1)
    with checkpoints, signals.advised(lambda: train._advice(types.SimpleNamespace(checkpoints=checkpoints))):
        with concurrent.futures.thread._global_shutdown_lock:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
run(main)
"""


def test_what_a_run_advises_needs_no_lock_that_the_main_thread_may_hold(tmp_path):
    """It hung, when Ctrl-C came while a library started a thread: what it said next asked the same library."""
    save_stream(tmp_path / "4", stream="rgb")
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted; start again to go on from step 4\n")
