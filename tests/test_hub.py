"""Hub folders: there and back to the last bit, read by other programs, and what anybody may have written in one."""

from __future__ import annotations

import dataclasses
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import forked, small_checkpoints

import i3d_jax
from i3d_jax import checkpoint, convert, export
from i3d_jax.importers import exports, hub
from i3d_jax.system.errors import UserError

safetensors = pytest.importorskip("safetensors.numpy")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "checkpoint"
    small_checkpoints.save_stream(folder, stream="rgb", labels=("left", "```\n<b>right</b>", "überall"))
    return folder


@pytest.fixture(scope="module")
def exported(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "hub"
    export.main(["--checkpoint", str(original), "--to", "hub", "--output", str(folder)])
    return folder


def assert_the_same_network(original, other):
    (model, variables, told), (model_again, variables_again, told_again) = map(checkpoint.load, (original, other))
    assert model_again == model
    assert jax.tree.structure(variables) == jax.tree.structure(variables_again)
    for one, another in zip(jax.tree.leaves(variables), jax.tree.leaves(variables_again), strict=True):
        assert (one.dtype, one.tobytes()) == (another.dtype, another.tobytes())
    for key in ("labels", "preprocessing", "options", "num_classes"):
        assert told[key] == told_again[key]
    assert told_again["provenance"]["original"] == told["provenance"]


def test_there_and_back_to_the_last_bit(original, exported, tmp_path):
    files = sorted(path.name for path in exported.iterdir())
    assert files == ["README.md", "config.json", "digests.json", "model.safetensors"]
    convert.main(["--source", str(exported), "--format", "hub", "--output", str(tmp_path / "again")])
    assert_the_same_network(original, tmp_path / "again")


def test_it_looks_at_videos_as_it_is(original, exported):
    frames = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
    one, other = (i3d_jax.load(folder) for folder in (original, exported))
    assert other.predict(frames) == one.predict(frames)
    assert other.labels == one.labels


def test_another_program_reads_it_as_its_card_says(original, exported):
    """In a process that can import neither JAX nor this package."""
    [program] = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    count = "\nimport numpy\nprint(sum(float(numpy.abs(one).sum(dtype='float64')) for one in arrays.values()))"
    refuse = "import sys; sys.modules['jax'] = sys.modules['i3d_jax'] = None\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", refuse + program + count], cwd=exported, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    labels, shape, total = done.stdout.splitlines()
    assert labels == str(["left", "```\n<b>right</b>", "überall"])
    assert shape.startswith("(")
    expected = sum(np.abs(leaf).sum(dtype=np.float64) for leaf in jax.tree.leaves(checkpoint.load(original)[1]))
    assert float(total) == pytest.approx(expected, rel=1e-12)


def test_an_export_that_differs_is_refused_and_leaves_nothing(original, tmp_path, monkeypatch):
    def one_bit_off(folder, original, write=hub.write):
        kernel = original.variables["params"]["Conv3d_1a_7x7"]["conv_3d"]["kernel"]
        kernel.view(np.uint32)[0, 0, 0, 0, 0] ^= 1
        write(folder, original)
        kernel.view(np.uint32)[0, 0, 0, 0, 0] ^= 1

    monkeypatch.setitem(exports.TARGETS, "hub", dataclasses.replace(exports.TARGETS["hub"], write=one_bit_off))
    with pytest.raises(UserError, match=r"differs from .*: nothing was kept"):
        export.main(["--checkpoint", str(original), "--to", "hub", "--output", str(tmp_path / "hub")])
    assert list(tmp_path.iterdir()) == []


def test_an_export_takes_no_place_that_is_taken(original, tmp_path):
    arguments = ["--checkpoint", str(original), "--to", "hub", "--output"]
    with pytest.raises(UserError, match="exists: an export is written to a new folder"):
        export.main([*arguments, str(tmp_path)])
    with pytest.raises(UserError, match=r"the folder .*none of --output does not exist"):
        export.main([*arguments, str(tmp_path / "none" / "hub")])


def changed_config(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def changed_arrays(change):
    def write(folder):
        arrays = safetensors.load_file(folder / "model.safetensors")
        change(arrays)
        safetensors.save_file(arrays, folder / "model.safetensors")

    return write


def changed_bytes(change):
    def write(folder):
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return write


KERNEL = "params/Conv3d_1a_7x7/conv_3d/kernel"
HUGE = (1 << 62).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is no Hub folder: it has no file config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "is no Hub folder: it has no file model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[" * 10**5), "config.json cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "config.json lacks"),
        (changed_config(model="i3e"), "config.json: "),
        (changed_config(options={"stream": "rgb", "width_multiplier": "wide"}), "config.json: "),
        (changed_config(num_classes=4), "config.json names 3 labels for 4 classes"),
        (changed_config(options={"stream": "rgb", "width_multiplier": 8}), "do not fit the model 'i3d': .* against"),
        (changed_arrays(lambda arrays: arrays.pop(KERNEL)), f"only the model 'i3d' has {KERNEL}"),
        (changed_arrays(lambda arrays: arrays.update(more=arrays[KERNEL])), "only .*model.safetensors has more"),
        (changed_arrays(lambda arrays: arrays.update({KERNEL: arrays[KERNEL][:1]})), f"{KERNEL} .1, 7, 7, 3, 4. agai"),
        (
            changed_arrays(lambda arrays: arrays.update({KERNEL: arrays[KERNEL].astype(np.float16)})),
            f"{KERNEL} was expected to be of F32, found F16",
        ),
        (changed_bytes(lambda content: content[:-1]), "is no whole safetensors file"),
        (changed_bytes(lambda content: content + b"more"), "is no whole safetensors file"),
        (changed_bytes(lambda content: b""), "is no whole safetensors file"),
        (changed_bytes(lambda content: content[:-1] + bytes([content[-1] ^ 1])), r"is damaged: 1 of its \d+ arrays"),
        (changed_bytes(lambda content: HUGE + content[8:]), "is no whole safetensors file"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_sentence(exported, tmp_path, damage, words):
    folder = tmp_path / "hub"
    shutil.copytree(exported, folder)
    damage(folder)
    with pytest.raises(UserError, match=words) as caught:
        convert.main(["--source", str(folder), "--format", "hub", "--output", str(tmp_path / "again")])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "hf://one"], "hf://OWNER/NAME or hf://OWNER/NAME@REVISION was expected"),
        (["--source", "hf://../name"], "hf://OWNER/NAME or hf://OWNER/NAME@REVISION was expected"),
        (["--source", "hf://a/b", "--format", "torch_i3d"], "it goes with --format hub"),
        (["--source", "hf://a/b", "--labels", "names.txt"], "--labels goes with an import"),
        (["--source", "nowhere", "--format", "hub"], "a Hub folder was expected at nowhere, found nothing"),
    ],
)
def test_sources_that_are_none(arguments, words, tmp_path):
    with pytest.raises(UserError, match=words):
        convert.main([*arguments, "--output", str(tmp_path / "again")])


def test_another_stream_than_was_asked_for(exported, tmp_path):
    with pytest.raises(UserError, match="sees rgb, --stream flow was asked for"):
        convert.main(
            ["--source", str(exported), "--format", "hub", "--stream", "flow", "--output", str(tmp_path / "again")]
        )


class _Endpoint(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does of one repository, someone/actions, with the branch main and the tag v1."""

    folder: Path

    def do_GET(self):
        known = re.fullmatch(
            r"/api/models/someone/actions/(?:revision|tree)/(?:main|v1|[0-9a-f]{40})(\?.*)?", self.path
        )
        if known:
            sizes = {path.name: path.stat().st_size for path in self.folder.iterdir()}
            if "/tree/" in self.path:
                files = [{"type": "file", "path": name, "oid": name, "size": size} for name, size in sizes.items()]
                return self._answer(json.dumps(files).encode())
            siblings = [{"rfilename": name} for name in sizes]
            told = {"id": "someone/actions", "sha": COMMIT, "siblings": siblings, "private": False}
            return self._answer(json.dumps(told).encode())
        file = re.fullmatch(rf"/someone/actions/resolve/{COMMIT}/(\w+\.(?:json|safetensors))", self.path)
        if file:
            return self._answer((self.folder / file[1]).read_bytes(), etag=file[1])
        return self._answer(b"{}", status=404, error="RepoNotFound")

    do_HEAD = do_GET

    def _answer(self, content, *, status=200, etag="answer", error=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def test_from_a_hub_and_then_from_its_cache(original, exported, tmp_path):
    """In processes of their own: where the Hub is, its library learns when it is imported."""
    pytest.importorskip("huggingface_hub")
    handler = type("Endpoint", (_Endpoint,), {"folder": exported})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = forked.environment() | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = ["-m", "i3d_jax.convert", "--output"]
    done = forked.run([*command, tmp_path / "first", "--source", "hf://someone/actions@v1"], env=environment)
    missing = forked.run([*command, tmp_path / "none", "--source", "hf://someone/else"], env=environment)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    assert_the_same_network(original, tmp_path / "first")
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[-1].startswith("error: hf://someone/else cannot be fetched: ")
    assert "Traceback" not in missing.stderr
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    again = forked.run([*command, tmp_path / "second", "--source", f"hf://someone/actions@{COMMIT}"], env=offline)
    assert again.returncode == 0, again.stderr
    assert_the_same_network(original, tmp_path / "second")
