import errno

import pytest

from i3d_jax.system.errors import UserError
from i3d_jax.system.files import read_object, written_whole


def test_a_file_appears_only_when_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with written_whole(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half():
        with written_whole(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def write(path):
    with written_whole(path) as file:
        file.write(b"new")


def test_a_place_where_no_file_can_be_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for place, words in (
        ("folder", "folder cannot be written: Is a directory"),
        ("file/below", "file/below cannot be written: Not a directory"),
        ("nowhere/file", "nowhere/file cannot be written: No such file"),
    ):
        with pytest.raises(UserError, match=words):
            write(tmp_path / place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_an_error_of_something_else_passes(tmp_path):
    def read_another():
        with written_whole(tmp_path / "file"):
            (tmp_path / "another").read_bytes()

    with pytest.raises(FileNotFoundError):
        read_another()

    def fill_the_disk():
        with written_whole(tmp_path / "file"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fill_the_disk()
    assert list(tmp_path.iterdir()) == []


def test_json_that_is_no_object(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"a": 1}')
    assert read_object(path) == {"a": 1}
    for text, words in (("[1]", "a JSON object was expected, found list"), ("", "cannot be read as JSON")):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            read_object(path)
