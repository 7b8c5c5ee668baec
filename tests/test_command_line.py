"""What is wrong with a command's arguments, in one sentence and with exit code 2."""

from __future__ import annotations

import os
import re

import pytest

from i3d_jax import convert, fuse, main, predict, prepare
from i3d_jax.study import __main__ as study
from i3d_jax.system import errors
from i3d_jax.system.errors import UserError

COMMANDS = [convert, fuse, main, predict, prepare, study]


@pytest.mark.parametrize("module", COMMANDS)
def test_one_sentence_and_no_usage(module, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["command", "--nothing_of_the_kind"])
    with pytest.raises(SystemExit, match="2"):
        errors.run(module.main)
    told = capsys.readouterr()
    assert told.out == ""
    [line] = told.err.splitlines()
    assert line.startswith("error: ")
    assert " required" in line
    name = module.__name__.removesuffix(".__main__")
    assert line.endswith(f"; `python -m {name} --help` explains all arguments")


@pytest.mark.parametrize("module", COMMANDS)
def test_help_is_still_the_usage(module, capsys):
    with pytest.raises(SystemExit, match="0"):
        module._parser().parse_args(["--help"])
    assert capsys.readouterr().out.startswith("usage: ")


CHECKPOINT = ["--checkpoint", "runs/a"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["-abc.mp4", *CHECKPOINT], "-abc.mp4"),
        # It begins as a flag that there is.
        (["-holiday.mp4", *CHECKPOINT], "-holiday.mp4"),
        ([*CHECKPOINT, "a.mp4", "-2nd.mp4"], "-2nd.mp4"),
        (["--there.mp4", *CHECKPOINT], "--there.mp4"),
    ],
)
def test_a_name_that_begins_with_a_dash_goes_behind_two(tmp_path, monkeypatch, arguments, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "--there.mp4").touch()
    taken = f"; '{name}' begins with a dash and is taken for a flag: all names go last, behind --, as in -- {name};"
    with pytest.raises(UserError, match=re.escape(taken)):
        predict._parser().parse_args(arguments)
    options = predict._parser().parse_args([*CHECKPOINT, "--", "a.mp4", name])
    assert options.videos == ["a.mp4", name]


def test_a_value_that_begins_with_a_dash_goes_behind_an_equals_sign():
    with pytest.raises(UserError, match="; '-run' begins with a dash and is taken for a flag: write --checkpoint=-run"):
        predict._parser().parse_args(["a.mp4", "--checkpoint", "-run"])
    assert predict._parser().parse_args(["a.mp4", "--checkpoint=-run"]).checkpoint == "-run"


@pytest.mark.parametrize("arguments", [["a.mp4", "--topk", "3"], ["a.mp4", "--format", "-1.5"], ["-", "--format", "x"]])
def test_misspelt_flags_and_numbers_are_no_names(arguments):
    with pytest.raises(UserError) as error:
        predict._parser().parse_args([*arguments, *CHECKPOINT])
    assert "begins with a dash" not in str(error.value)


def test_commands_without_names_have_no_such_hint():
    with pytest.raises(UserError, match=r"required: --videos; `python"):
        prepare._parser().parse_args(["--annotations", "a.csv", "-b.csv"])
    with pytest.raises(UserError, match=r"write --annotations=-b\.csv;"):
        prepare._parser().parse_args(["--annotations", "-b.csv"])


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (predict, ["a.mp4", "--checkpoint", ""], "--checkpoint is empty: a value was expected"),
        (predict, ["a.mp4", "--checkpoint="], "--checkpoint is empty: a value was expected"),
        (predict, ["", *CHECKPOINT], "an argument is empty: a value was expected"),
        (predict, [*CHECKPOINT, "--", ""], "an argument is empty: a value was expected"),
        (convert, ["--source", "", "--format", "torch_i3d", "--output", "x"], "--source is empty"),
        (convert, ["--source", "x", "--format", "torch_i3d", "--output="], "--output is empty"),
        (prepare, ["--annotations", "a.csv", "", "--videos", "x"], "an argument is empty"),
        (fuse, ["a.npz", "b.npz", "--output", ""], "--output is empty"),
        (study, ["--output", "", "--miniature"], "--output is empty"),
        (main, ["--config", "quickstart", "--workdir", ""], "--workdir is empty"),
        (main, ["--config", "custom", "--config.data.directory="], "data.directory is empty: a value was expected"),
        (main, ["--config", "custom", "--config.init_from", ""], "an argument is empty|--config.init_from is empty"),
    ],
)
def test_an_empty_value_is_no_path(tmp_path, monkeypatch, module, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        module.main(arguments)
    assert not os.listdir(tmp_path)
