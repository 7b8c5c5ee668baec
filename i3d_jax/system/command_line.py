"""The arguments of every command: what is wrong with them is told in one sentence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from i3d_jax.system import files, terminal
from i3d_jax.system.errors import UserError

QUIET_HELP = "tell nothing of the progress: results, warnings and errors alone"


def place(text: str) -> Path:
    """Returns the path that an argument stands for, a type of argparse's; one of a bucket where it begins so."""
    try:
        return files.path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def local_path(text: str) -> Path:
    """Returns the path that an argument stands for, where none of a bucket will do."""
    if files.is_in_bucket(place(text)):
        raise argparse.ArgumentTypeError(f"a path on this machine was expected, found {text}")
    return Path(text)


class _Quiet(argparse.Action):
    """Quietens this process; nothing stays in the options, which are compared among the processes of a run."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, argparse.SUPPRESS, **options)

    def __call__(self, *given: Any) -> None:
        terminal.be_quiet()


class Parser(argparse.ArgumentParser):
    """An argument parser that raises a `UserError` where argparse prints the usage and leaves.

    An empty value is refused: as a path it would stand for the working directory. A name that begins with a dash is
    taken for a flag, as everywhere; the error says how it is given.
    """

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._given: Sequence[str] = ()

    def parse_known_args(self, args=None, namespace=None):
        """Parses arguments as argparse does, after it has looked for empty ones."""
        self._given = list(sys.argv[1:] if args is None else args)
        for before, argument in zip(["", *self._given], self._given, strict=False):
            flag, equals, value = argument.partition("=")
            if not argument:
                raise UserError(f"{before if self._is_flag(before) else 'an argument'} is empty: a value was expected")
            if equals and not value and self._is_flag(flag):
                raise UserError(f"{flag} is empty: a value was expected")
        names = self._given.index("--") if "--" in self._given else len(self._given)
        for argument in self._given[:names]:
            # Some versions of argparse take it for several flags of one letter, and act on the first.
            if len(argument) > 2 and not argument.startswith("--") and self._is_flag(argument[:2]):
                self.error(f"unrecognized arguments: {argument}")
        return super().parse_known_args(self._given, namespace)

    def add_quiet(self, more: str = "") -> None:
        """Adds --quiet, which lets the command tell nothing of its progress; its help ends with `more`."""
        self.add_argument("--quiet", action=_Quiet, nargs=0, help=f"{QUIET_HELP}{more}")

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError` with what argparse says and where to find more."""
        raise UserError(f"{message}{self._hint()}; `{self.prog} --help` explains all arguments")

    def _is_flag(self, argument: str) -> bool:
        return argument in self._option_string_actions

    def _hint(self) -> str:
        """Says how to give the first name that begins with a dash, if one looks like that."""
        takes_names = any(not action.option_strings for action in self._actions)
        for before, argument in zip(["", *self._given], self._given, strict=False):
            if argument == "--":
                break
            if self._is_flag(argument.partition("=")[0]) or not _is_name_with_a_dash(argument):
                continue
            taken = f"; {argument!r} begins with a dash and is taken for a flag"
            if self._is_flag(before) and self._option_string_actions[before].nargs != 0:
                return f"{taken}: write {before}={argument}"
            if takes_names:
                return f"{taken}: all names go last, behind --, as in -- {argument}"
        return ""


def _is_name_with_a_dash(argument: str) -> bool:
    """Says whether an argument is likelier a file's name than a misspelt flag or a number."""
    if argument == "-" or not argument.startswith("-") or (argument.startswith("--") and not os.path.lexists(argument)):
        return False
    try:
        float(argument)
    except ValueError:
        return True
    return False
