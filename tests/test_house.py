"""How the repository is kept: tests stand alone, what they share has a folder of its own, and no file is long."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from helpers import seeds

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
FOLDERS = ("i3d_jax", "experiments", "benchmarks", "docs", "tests")
PYTHON = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
MOST_LINES = 450


def imported(path: Path) -> set[str]:
    """The modules that a file imports, at its top or below."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_no_test_is_imported():
    found = {path.name: imported(path) for path in PYTHON if path.is_relative_to(TESTS)}
    assert "helpers.two_processes" in found["test_distributed.py"]
    tests = {path.stem for path in TESTS.glob("test_*.py")}
    assert {name: names & tests for name, names in found.items() if names & tests} == {}


def test_what_is_no_test_stands_in_a_folder():
    others = {path.name for path in TESTS.iterdir() if not path.match("test_*.py")}
    # Nobody's own: what Python and editors leave.
    others = {name for name in others if not name.startswith((".", "__"))}
    assert others == {"conftest.py", "golden", "helpers"}
    assert not list((TESTS / "helpers").rglob("test_*.py"))


def test_no_file_is_long():
    assert len(PYTHON) > 200
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in PYTHON}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_a_seed_that_was_printed_draws_the_same_again(monkeypatch, capsys):
    monkeypatch.delenv(seeds.VARIABLE, raising=False)
    first, other = ([one.random() for _ in range(3)] for one in (seeds.drawn(), seeds.drawn()))
    assert first != other
    said = capsys.readouterr().out.splitlines()[0]
    _, seed, replay, *_ = said.split()
    monkeypatch.setenv(*replay.removeprefix("(").split("="))
    assert [seeds.drawn().random()] == first[:1]
    assert capsys.readouterr().out == f"{said}\n"
    assert said == f"seed {seed} (I3D_JAX_TEST_SEED={seed} replays it)"
    monkeypatch.setenv(seeds.VARIABLE, "a word")
    with pytest.raises(ValueError, match="a word"):
        seeds.drawn()
