"""A short campaign of faults breaks no promise, and each kind of broken promise is found when it is planted."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import forked

from benchmarks.faults import __main__ as faults
from benchmarks.faults import hosts, inputs, mutants, processes, reading
from benchmarks.faults.materials import Materials
from benchmarks.faults.tried import Campaign, Tried, differences, half_written
from i3d_jax.system import lock
from i3d_jax.system.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
# Of each class so many: a minute on two quiet cores.
COUNTS = {"read": 120, "command": 4, "kill": 1, "signal": 1}


def campaign(*arguments):
    """Runs a campaign, whose commands then need not be imported by a process of its own."""
    return forked.run(["-m", "benchmarks.faults", *arguments], env=forked.environment(), timeout=1200)


@pytest.mark.long
def test_a_short_campaign_breaks_no_promise(tmp_path):
    counts = [f"{name}={count}" for name, count in COUNTS.items()]
    done = campaign("--seed", 1, "--folder", tmp_path, "--count", *counts)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    found = json.loads((tmp_path / "faults.json").read_text())
    assert found["violations"] == []
    tried = {name: sum(row["tried"] for row in found["table"] if row["class"] == name) for name in ("read", "command")}
    assert tried == {"read": COUNTS["read"], "command": COUNTS["command"]}
    assert {row["of"] for row in found["table"] if row["class"] == "read"} == set(reading.KINDS)
    lines = [json.loads(line) for line in (tmp_path / "tried.jsonl").read_text().splitlines()]
    # Not all mutants are refused, nor all used.
    outcomes = [line["what"].rpartition(": used")[1] != "" for line in lines if line["class"] == "read"]
    assert 10 < sum(outcomes) < 110


def test_a_campaign_goes_on_where_it_ended_and_several_add_up(tmp_path, monkeypatch, capsys):
    tried = []

    def give(campaign, number):
        tried.append(number)
        # Left there, as by what is cut short: nothing of it is there when it is tried again.
        (campaign.folder / f"command_{number}").mkdir()
        return Tried(kind="video", number=number, what="w", violated="no" if number == 1 else None, missed=number == 2)

    monkeypatch.setitem(faults.ONE_BY_ONE, "command", give)
    given = ["--folder", str(tmp_path), "--seed", "5", "--count"]
    assert faults.main([*given, "command=3"]) == 1
    # Its last line was cut short with it.
    lines = (tmp_path / "tried.jsonl").read_text()
    (tmp_path / "tried.jsonl").write_text(lines + '{"class": "comm')
    assert faults.main([*given, "command=5", "--resume"]) == 1
    assert tried == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match=r"--resume: the campaign at .* has --seed 5, found 6"):
        faults.main(["--folder", str(tmp_path), "--seed", "6", "--count", "command=9", "--resume"])
    # One fault that is tried again leaves the record as it is.
    record = (tmp_path / "tried.jsonl").read_text()
    assert len(record.splitlines()) == 5
    assert faults.main(["--folder", str(tmp_path), "--seed", "9", "--replay", "command:1"]) == 1
    assert (tmp_path / "tried.jsonl").read_text() == record
    capsys.readouterr()
    assert faults.main(["--table", str(tmp_path), str(tmp_path)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[:3] == [
        "| class | of | tried | survived | violated |",
        "|---|---|---:|---:|---:|",
        "| command | video | 8 | 6 | 2 |",
    ]
    assert rows.count("python -m benchmarks.faults --replay command:1 --seed 5") == 2
    with lock.held(tmp_path), pytest.raises(UserError, match="is in use by"):
        faults.main([*given, "command=5"])
    # Begun anew, it forgets.
    assert faults.main([*given, "command=1"]) == 0
    assert len((tmp_path / "tried.jsonl").read_text().splitlines()) == 1


def test_it_writes_to_its_own_folder_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    command = [sys.executable, "-m", "benchmarks.faults", "--folder", str(tmp_path), "--count", "read=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: --folder: an empty folder, or one of an earlier campaign, was expected at {tmp_path}"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "reed=1"], "--count: CLASS=N was expected, with a class of kill, "),
        (["--replay", "read"], "--replay: CLASS:NUMBER was expected"),
        (["--resume"], "--resume needs the --folder of the campaign that it resumes"),
        (["--resume", "--folder", "."], "--folder: an empty folder, or one of an earlier campaign, was expected at"),
        (["--table", "."], "the folder of a campaign was expected at .: it has no tried.jsonl"),
        (["--minutes", "0"], "argument --minutes: a number above 0 was expected, found '0'"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    done = campaign(*arguments)
    assert (done.returncode, done.stderr.startswith(f"error: {message}")) == (2, True), done.stderr


PLANTED = {
    "raise KeyError('no')": "exit code 1 with a traceback",
    "import time; time.sleep(60)": "it hung",
    "import sys; sys.exit(3)": "exit code 3",
    "import sys; print('sorry', file=sys.stderr); sys.exit(2)": "without a sentence",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": f"exit code {-signal.SIGSEGV}",
    "import sys; print('error: no such file', file=sys.stderr); sys.exit(2)": None,
    "import time; much = b'.' * (300 << 20); time.sleep(1)": "it needed 0.3 GB",
    "print('well')": None,
}


@pytest.mark.parametrize("program", PLANTED)
def test_a_planted_command_is_found(tmp_path, program, monkeypatch):
    # Less than this process itself holds, which must not be counted as the command's.
    monkeypatch.setattr(processes, "MOST_BYTES", 100 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > processes.MOST_BYTES
    processes.set_up(tmp_path)
    process = processes.Process(["-c", program], tmp_path / "logs", fresh=True)
    found = processes.violation(process.wait(1 if "sleep(60)" in program else 60))
    assert (found is None) if PLANTED[program] is None else (PLANTED[program] in found)


def test_much_memory_is_found():
    ended = processes.Ended(code=0, seconds=1.0, output="", errors="", peak_bytes=5 << 29)
    assert processes.violation(ended) == "it needed 2.7 GB"


def test_half_written_files_and_other_bytes_are_found(tmp_path):
    (tmp_path / "whole.npz").touch()
    assert half_written(tmp_path) == []
    (tmp_path / "a.npz.tmp-17").touch()
    (tmp_path / "tree.orbax-checkpoint-tmp").mkdir()
    assert half_written(tmp_path) == ["a.npz.tmp-17", "tree.orbax-checkpoint-tmp"]
    assert differences({"a": b"1", "b": b"2"}, {"a": b"1", "b": b"2"}) is None
    assert differences({"a": b"1", "b": b"2"}, {"a": b"3", "c": b""}) == "3 files differ: a, b, c"


def _refuse(error):
    def read(folder, damaged, originals, draw):
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "violated"),
    [
        (_refuse(UserError("a sentence")), None),
        (_refuse(UserError("two\nlines")), "not one sentence"),
        (_refuse(KeyError("frames")), "KeyError at test_faults.py"),
        (_refuse(reading.Wrong("other pixels")), "used silently: other pixels"),
        (lambda *given: b"." * (300 << 20), "it needed "),
        (lambda *given: None, None),
    ],
)
def test_a_planted_reader_is_found(tmp_path, monkeypatch, read, violated):
    # Whatever this process holds of the tests before; a campaign reads in a process of its own.
    reading.forget_peak()
    monkeypatch.setattr(reading, "MOST_BYTES", reading.peak_bytes() + (200 << 20))
    materials = Materials(tmp_path / "materials")
    (tmp_path / "materials" / "videos").mkdir(parents=True)
    (tmp_path / "materials" / "videos.made").touch()
    (tmp_path / "materials" / "videos" / "a.mp4").write_bytes(bytes(range(256)))
    monkeypatch.setattr(reading, "_originals", lambda materials: {})
    monkeypatch.setitem(reading.KINDS, "video", reading.Kind("videos", "*.mp4", mutants.mutated, read))
    found = reading.read(0, 3, materials, tmp_path / "mutant")
    assert found["kind"] == "video"
    assert found["violated"] is None if violated is None else found["violated"].startswith(violated)
    # The same number and seed make the same mutant; the original stays as it was.
    assert reading.read(0, 3, materials, tmp_path / "mutant")["what"] == found["what"]
    assert (tmp_path / "materials" / "videos" / "a.mp4").read_bytes() == bytes(range(256))


def test_a_reader_that_ends_its_process_is_blamed_and_the_others_are_read(tmp_path, monkeypatch):
    processes.set_up(tmp_path)
    materials = Materials(tmp_path)
    for name in ("trained", "small", "recipes", "hub", "features"):
        monkeypatch.setattr(materials, name, lambda: tmp_path)
    # Stands for the reading of mutants: number 7 is fatal.
    program = (
        "import json, os, sys\n"
        "for number in map(int, sys.argv[6:]):\n"
        "    print(json.dumps({'begun': number}), flush=True)\n"
        "    os.kill(os.getpid(), 11) if number == 7 else None\n"
        "    print(json.dumps(dict(number=number, kind='video', what='w', outcome='used', violated=None)))\n"
    )

    def started(arguments, logs):
        return processes.Process(["-c", program, *arguments], logs, fresh=True)

    monkeypatch.setattr(inputs, "Process", started)
    found = list(inputs.read(Campaign(tmp_path, 0, materials), range(5, 10)))
    assert [tried.number for tried in found] == [5, 6, 7, 8, 9]
    assert [tried.violated is not None for tried in found] == [False, False, True, False, False]
    assert found[2].violated.startswith(f"the process ended with {-signal.SIGSEGV}")


def test_a_process_of_a_run_is_found_by_its_port_and_its_end_is_seen(tmp_path):
    processes.set_up(tmp_path)
    port = hosts.free_port()
    flags = ["--coordinator", f"localhost:{port}", "--num_processes", "2", "--process_id"]
    program = "print('here', flush=True); import time; time.sleep(60)"
    started = [processes.Process(["-c", program, *flags, n], tmp_path / n, fresh=True) for n in "01"]
    assert all(process.says("here", 60) for process in started)
    assert hosts.members(port) == {0: started[0].pid, 1: started[1].pid}
    # Stopped it is there, killed it is not, even before anybody has asked for its end.
    os.kill(started[0].pid, signal.SIGSTOP)
    os.kill(started[1].pid, signal.SIGKILL)
    assert hosts.seconds_until(lambda: hosts.members(port).keys() == {0}, 30) < 30
    started[0].send(signal.SIGKILL)
    assert [process.wait(30).code for process in started] == [-signal.SIGKILL] * 2
    assert hosts.members(port) == {}


def test_commands_hear_ctrl_c_even_where_the_campaign_is_in_the_background(tmp_path):
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from pathlib import Path; from benchmarks.faults import processes\n"
        "processes.begin()\n"
        f"folder = Path({str(tmp_path)!r}); processes.set_up(folder)\n"
        "told = ['-c', 'import signal; print(signal.getsignal(signal.SIGINT))']\n"
        "for fresh in (True, False):\n"
        "    process = processes.Process(told, folder / str(fresh), fresh=fresh)\n"
        "    assert process.says('default_int_handler', 60), fresh\n"
    )
    done = forked.run(["-c", program], env=forked.environment(), timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_campaign_ends_in_time_and_so_does_what_it_has_begun():
    closed = []

    def plan():
        try:
            yield from itertools.repeat(("read", None))
        finally:
            closed.append(True)

    assert len(list(itertools.islice(faults._with_bar(plan(), 5, 1e-9), 10))) == 1
    assert closed == [True]


def test_arrays_and_recipes_are_changed_in_many_ways():
    draw = random.Random(0)
    file = io.BytesIO()
    np.savez(file, a=np.arange(6.0).reshape(2, 3), b=np.array(["x", "y"]), c=np.array('{"k": 1}'))
    done = [mutants.mutated_arrays(file.getvalue(), draw) for _ in range(300)]
    assert sum(after != file.getvalue() for after, _ in done) > 250
    # Most are archives that can be read: what is wrong stands in them.
    readable = 0
    for after, what in done:
        if what.startswith("the array"):
            with np.load(io.BytesIO(after)) as arrays:
                readable += len(arrays.files) in (2, 3)
    assert readable > 120
    recipe = b"from experiments import base\n\n\ndef get_config():\n    config = base.get_config()\n    return config\n"
    changed = {mutants.mutated_recipe(recipe, draw)[0] for _ in range(300)}
    assert len(changed) > 60
    assert sum(b"    1 / 0\n" in (after or b"") for after in changed) >= 1


def test_every_damage_is_met_and_most_change_something():
    draw = random.Random(0)
    content = bytes(range(256)) * 4
    done = [mutants.mutated(content, draw) for _ in range(300)]
    assert len({what.partition(" at ")[0] for _, what in done}) == 11
    assert sum(after != content for after, _ in done) > 250
    document = json.dumps({"a": [1, 2, {"b": "c"}], "d": 1.5}).encode()
    assert len({mutants.mutated_json(document, draw)[0] for _ in range(200)}) > 80
    table = b"video,label,split\na.mp4,x,train\nb.mp4,y,test\n"
    assert len({mutants.mutated_table(table, draw)[0] for _ in range(200)}) > 80
