"""What the GPU benchmark reads from compiled programs, by hand; and, where JAX's plugin for CUDA is, from real ones."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu_compile.py"
PLUGIN = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
needs_plugin = pytest.mark.skipif(not PLUGIN, reason="JAX's plugin for CUDA is not installed")

# Seven fields of 2x4x5 floats that a loop moves on three times, each time by a kernel that reads two of them and writes
# one, and by one that counts; and a loop over less.
FIELD = "f32[2,4,5]{2,1,0}"
STATE = f"(s32[], {', '.join([FIELD] * 7)})"
PROGRAM = f"""\
HloModule jit_flow, is_scheduled=true

%condition (c.1: {STATE}) -> pred[] {{
  %c.1 = {STATE} parameter(0)
  ROOT %less.1 = pred[] custom-call(), custom_call_target="less"
}}

%body (s.1: {STATE}) -> {STATE} {{
  %s.1 = {STATE} parameter(0)
  %n.1 = s32[] get-tuple-element(%s.1), index=0
  %u.1 = {FIELD} get-tuple-element(%s.1), index=1
  %v.1 = {FIELD} get-tuple-element(%s.1), index=2
  %counted.1 = s32[] fusion(%n.1), kind=kLoop, calls=%one
  %moved.1 = {FIELD} fusion(%u.1, %v.1), kind=kLoop, calls=%two
  ROOT %t.1 = {STATE} tuple(%counted.1, %moved.1, %moved.1, %moved.1, %moved.1, %moved.1, %moved.1, %moved.1)
}}

%one (p.1: s32[]) -> s32[] {{
  ROOT %p.1 = s32[] parameter(0)
}}

%two (p.2: f32[2,4,5], p.3: f32[2,4,5]) -> f32[2,4,5] {{
  ROOT %p.2 = {FIELD} parameter(0)
}}

ENTRY %main (x.1: f32[2,4,5]) -> f32[2,4,5] {{
  %x.1 = {FIELD} parameter(0)
  %t.2 = {STATE} tuple(%x.1)
  %w.1 = {STATE} while(%t.2), condition=%condition, body=%body, backend_config={{"known_trip_count":{{"n":"3"}}}}
  %w.2 = {FIELD} while(%t.2), condition=%condition, body=%body, backend_config={{"known_trip_count":{{"n":"9"}}}}
  ROOT %g.1 = {FIELD} get-tuple-element(%w.1), index=1
}}
"""


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return runpy.run_path(str(SCRIPT))


def started(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_the_kernels_of_an_iteration_by_hand(script):
    field = 2 * 4 * 5 * 4
    [(trips, kernels)] = script["_loops_over"](script["hlo"].parse(PROGRAM), field)
    assert trips == 3
    assert [(kernel.name, kernel.bytes) for kernel in kernels] == [("counted.1", 2 * 4), ("moved.1", 3 * field)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--architectures", "i3b"], "there is no architecture 'i3b' here; expected some of i3d, "),
        pytest.param(
            ["--pairs", "2"],
            "JAX's plugin for CUDA is not installed; in a checkout",
            marks=pytest.mark.skipif(PLUGIN, reason="JAX's plugin for CUDA is installed"),
        ),
    ],
)
def test_mistakes_are_one_sentence(arguments, words):
    done = started(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {words}")
    assert done.stderr.count("\n") == 1


@needs_plugin
def test_an_iteration_of_the_flow_reads_and_writes_each_field_once():
    """Of two iterations, 15 floats a pixel each: what is read and written of flow, dual variable, slope, constant."""
    done = started("--architectures", "", "--pairs", "16", "--without_kernel")
    assert done.returncode == 0, done.stderr
    floats = [int(number) for number in re.findall(r"(\d+) floats a pixel", done.stdout)]
    assert min(floats) == 2 * (2 + 4 + 2 + 1 + 2 + 4)


@needs_plugin
def test_a_pass_of_the_flow_copies_no_field():
    """Beside the kernel there are only those that tell which pairs go on: a few numbers for each."""
    done = started("--architectures", "", "--pairs", "16")
    assert done.returncode == 0, done.stderr
    [kilobytes] = re.findall(r"the others move ([\d.]+) kB", done.stdout)
    assert float(kilobytes) < 100


@needs_plugin
def test_training_moves_less_than_in_the_compilers_own_layout():
    done = started("--architectures", "c3d")
    assert done.returncode == 0, done.stderr
    own, ours = (line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| c3d"))
    assert float(ours[7]) < float(own[7])
