"""Results in order from processes that take their time, raise or die."""

import functools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from i3d_jax.system import workers
from i3d_jax.system.workers import ITEMS_AHEAD, in_order


def slow_at_first(number):
    time.sleep(0.3 if number == 0 else 0)
    return number * number, os.getpid()


def die_of_one(number, culprit):
    if number == culprit:
        os._exit(1)
    return number


def die_once(number, folder):
    mark = folder / str(number)
    if number % 5 == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave_a_mark(number, folder):
    (folder / str(number)).touch()
    time.sleep(1 if number == 0 else 0)
    return number


def fail(number):
    raise KeyError(number)


def crashed(number):
    return f"{number} crashed"


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_order(processes):
    results = list(in_order(slow_at_first, range(20), processes=processes, crashed=crashed))
    assert [square for square, _ in results] == [number * number for number in range(20)]
    here = os.getpid()
    if processes == 1:
        assert {worker for _, worker in results} == {here}
    else:
        assert here not in {worker for _, worker in results}


@pytest.mark.parametrize("culprit", [0, 4, 9])
def test_only_the_item_that_kills_its_process_is_lost(culprit):
    results = list(in_order(functools.partial(die_of_one, culprit=culprit), range(10), processes=2, crashed=crashed))
    assert results == [f"{number} crashed" if number == culprit else number for number in range(10)]


def test_a_process_killed_for_another_reason_costs_nothing(tmp_path):
    results = list(in_order(functools.partial(die_once, folder=tmp_path), range(10), processes=2, crashed=crashed))
    assert results == list(range(10))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "7"]


def test_no_more_is_begun_than_memory_is_meant_for(tmp_path):
    results = in_order(functools.partial(leave_a_mark, folder=tmp_path), range(50), processes=2, crashed=crashed)
    assert next(results) == 0
    assert len(list(tmp_path.iterdir())) <= 2 * ITEMS_AHEAD
    assert list(results) == list(range(1, 50))


def test_nothing_is_begun_while_heavy_results_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "MOST_WAITING", 2)
    leave = functools.partial(leave_a_mark, folder=tmp_path)
    results = in_order(leave, range(50), processes=2, crashed=crashed, weigh=lambda result: 1)
    assert next(results) == 0
    # The first took a second, and three were waiting for it.
    assert len(list(tmp_path.iterdir())) <= 5
    assert list(results) == list(range(1, 50))


@pytest.mark.parametrize("processes", [1, 2])
def test_an_exception_is_passed_on(processes):
    with pytest.raises(KeyError):
        list(in_order(fail, range(3), processes=processes, crashed=crashed))


def test_no_items():
    assert list(in_order(crashed, [], processes=2, crashed=crashed)) == []


def test_workers_that_cannot_start_are_an_error(monkeypatch):
    monkeypatch.setattr("i3d_jax.system.workers._start", functools.partial(os._exit, 1))
    with pytest.raises(BrokenProcessPool):
        list(in_order(abs, range(3), processes=2, crashed=crashed))


def tell_and_die_once(number, folder):
    workers.tell(0.5, 10, 9)
    deadline = time.monotonic() + 30
    while not (folder / "seen").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    die_once(number, folder)
    workers.tell(0.75, 20, 19)
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_told_of_items_under_way_is_seen_and_none_of_a_killed_process_stays(tmp_path, processes):
    seen = []
    if processes == 1:
        # Nobody is killed in this very process.
        (tmp_path / "2").touch()
    tells = functools.partial(tell_and_die_once, folder=tmp_path)

    def watch(*standing):
        seen.append(standing)
        if standing[1]:
            (tmp_path / "seen").touch()

    results = in_order(tells, range(4), processes=processes, crashed=crashed, watch=watch)
    assert list(results) == list(range(4))
    done = [standing[0] for standing in seen]
    assert done[-1] == 4
    # One item or two are halfway when anything is seen.
    assert next(standing for standing in seen if standing[1]) in ((0.5, 10, 9), (1, 20, 18))
    assert max(done) <= 4
    # Twenty and nineteen of each item, and nothing of the attempt that was killed.
    assert max(standing[1] for standing in seen) == 80
    assert max(standing[2] for standing in seen) == 76


PARENT = """
import functools, signal, sys, time
from pathlib import Path
from i3d_jax.system.workers import in_order

def breathe(number, folder):
    while True:
        with open(folder / str(number), "a") as file:
            file.write(".")
        time.sleep(0.02)

if __name__ == "__main__":
    # Whoever starts the tests in the background may have left it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    list(in_order(functools.partial(breathe, folder=Path(sys.argv[1])), range(2), processes=2, crashed=None))
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_workers_do_not_outlive_a_parent_that_is_killed_or_interrupted(tmp_path, ending):
    script, folder = tmp_path / "parent.py", tmp_path / "breaths"
    script.write_text(PARENT)
    folder.mkdir()
    root = Path(__file__).parents[1]
    parent = subprocess.Popen([sys.executable, script, folder], env={**os.environ, "PYTHONPATH": str(root)})
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        parent.send_signal(ending)
        assert parent.wait(timeout=60) == -ending
    finally:
        parent.kill()
    before, breaths = None, [path.stat().st_size for path in sorted(folder.iterdir())]
    while breaths != before and time.monotonic() < deadline:
        time.sleep(1)
        before, breaths = breaths, [path.stat().st_size for path in sorted(folder.iterdir())]
    assert breaths == before
    assert len(breaths) == 2


INTERRUPTED = """
import os, signal, time
from i3d_jax.system.errors import run
from i3d_jax.system.workers import in_order

def begin(number):
    # In one piece, since both write to one place.
    os.write(1, b"begun\\n")
    time.sleep(60)

def main(arguments):
    list(in_order(begin, range(2), processes=2, crashed=None))

if __name__ == "__main__":
    # Where the tests run in the background, it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(main)
"""


def test_what_is_left_of_processes_at_ctrl_c_is_nobodys_business(tmp_path):
    (tmp_path / "program.py").write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
    process.send_signal(signal.SIGINT)
    # To where Python's tracker of what is left has ended, too.
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "interrupted\n")


OWN_PLATFORM = """
import jax
from i3d_jax.system.workers import in_order
def look(_): return jax.config.jax_platforms
if __name__ == "__main__":
    print(list(in_order(look, range(2), processes=2, crashed=None, environment={"JAX_PLATFORMS": "elsewhere"})))
"""


def test_processes_have_their_own_platform_though_their_main_module_imports_jax_first(tmp_path):
    (tmp_path / "program.py").write_text(OWN_PLATFORM)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "['elsewhere', 'elsewhere']\n"
