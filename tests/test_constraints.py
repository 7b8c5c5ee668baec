"""constraints.txt pins what setup.py asks for, on every interpreter that it names, within its bounds."""

import ast
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PINNED = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
INTERPRETERS = re.findall(r'"(3\.\d+)"', (ROOT / "setup.py").read_text())
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
APPLE = {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"}


def asked_for():
    """What stands in setup.py as a requirement, but for the extras that need an accelerator or PyTorch."""
    strings = [
        node.value for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Constant)
    ]
    found = [Requirement(text) for text in strings if isinstance(text, str) and re.match(r"[a-z][\w.-]*>=\d", text)]
    return [requirement for requirement in found if requirement.name not in ("torch", "safetensors")]


def test_what_is_looked_at():
    assert INTERPRETERS == ["3.11", "3.12", "3.13"]
    assert {"jax", "flax", "av", "tensorflow-cpu", "apache-beam", "pytest"} <= {one.name for one in asked_for()}
    assert all(re.fullmatch(r"==[\w.+]+", str(one.specifier)) for one in PINNED)


@pytest.mark.parametrize("platform", [LINUX, APPLE], ids=["linux", "apple"])
@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_every_requirement_has_one_version_within_its_bounds(interpreter, platform):
    environment = {**platform, "python_version": interpreter, "python_full_version": f"{interpreter}.9"}
    for requirement in asked_for():
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        versions = [
            next(iter(one.specifier)).version
            for one in PINNED
            if one.name == requirement.name and (one.marker is None or one.marker.evaluate(environment))
        ]
        assert len(versions) == 1, f"{requirement} has {versions} on Python {interpreter}"
        assert requirement.specifier.contains(versions[0]), f"{requirement} is pinned to {versions[0]}"
