"""A recipe is a program: whatever is wrong with one is told in a sentence that names it, and where it is."""

from __future__ import annotations

import sys

import pytest

from i3d_jax.run import recipe
from i3d_jax.system.errors import UserError

BODIES = {
    "1 / 0": "own.py, line 6: the recipe fails: ZeroDivisionError: division by zero",
    "undefined": "own.py, line 6: the recipe fails: NameError: name 'undefined' is not defined",
    "import nothing_there": "own.py, line 6: the recipe fails: ModuleNotFoundError: No module named 'nothing_there'",
    "raise SystemExit(3)": "own.py, line 6: the recipe fails: SystemExit: 3",
    "assert False, 'why\\nnot'": "own.py, line 6: the recipe fails: AssertionError: why not",
    "raise Exception": "own.py, line 6: the recipe fails: Exception",
    "(lambda again: again(again))(lambda again: again(again))": "own.py, line 6: the recipe fails: RecursionError",
    "open('/no/such/file')": "own.py, line 6: the recipe fails: FileNotFoundError: .*'/no/such/file'",
    "config.new = 1": 'own.py, line 6: the recipe fails: AttributeError: \'Key "new" does not exist',
    "config.total_steps = 'many'": "own.py, line 6: the recipe fails: TypeError: Could not override field",
    "return None": r"get_config\(\) of .*own.py was expected to return a ConfigDict, found NoneType",
    "return {}": r"get_config\(\) of .*own.py was expected to return a ConfigDict, found dict",
    "config.optimizer = None": "own.py lacks optimizer.name, optimizer.schedule",
    "config.data.frames = None": "own.py: data.frames was expected to be a value such as 64, found None",
    "config.optimizer.boundaries = ('a',)": "own.py: optimizer.boundaries was expected to hold numbers, found .'a',.",
    "return type(config)({'model': {'name': 'c3d'}})": "own.py lacks seed, total_steps",
    "return type(config)({'model': {'name': [5]}})": "own.py lacks seed, total_steps",
}
WHOLE = {
    "": "own.py cannot be used: module 'config_config' has no attribute 'get_config'",
    "get_config = 5\n": "own.py cannot be used: TypeError: 'int' object is not callable",
    "raise KeyError('x')\n": "own.py, line 1: the recipe fails: KeyError: 'x'",
    "x = 'a\n": "a recipe in Python was expected, found in .*own.py, line 1: unterminated string",
    "x = '\0'\n": "a recipe in Python was expected, found in .*own.py: source code string cannot contain null bytes",
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((f"from experiments import base\n\n\ndef get_config():\n    config = base.get_config()\n    {body}\n"
           "    return config\n", message) for body, message in BODIES.items()),
        *WHOLE.items(),
    ],
    ids=[*BODIES, *WHOLE],
)  # fmt: skip
def test_a_mistake_in_a_recipe_is_one_sentence(tmp_path, monkeypatch, text, message):
    # The library keeps the names of the recipe before, of which a process usually has none.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=message) as found:
        recipe.load(str(tmp_path / "own.py"), [])
    assert "\n" not in str(found.value)
    assert "Traceback" not in str(found.value)
