import errno
import io
import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from i3d_jax.system.errors import UserError
from i3d_jax.system.files import read_object, written_whole
from i3d_jax.video.write import write_video


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
        ("folder", "folder cannot be written: a file was expected there, or nothing, found a folder"),
        ("folder/..", "a file was expected there, or nothing, found a folder"),
        ("/", "^/ cannot be written: a file was expected there, or nothing, found a folder"),
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


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    for content in (b"new", b"newer"):
        with written_whole(tmp_path / "link") as file:
            file.write(content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "file").read_bytes() == content


def test_a_device_stays_one(tmp_path):
    device = tmp_path / "null.mp4"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_bytes(b"")
    except PermissionError:
        pytest.skip("this system lets no device be made")
    with written_whole(device) as file:
        np.savez(file, a=np.arange(3))
    assert device.is_char_device()
    with pytest.raises(UserError, match="found a device or pipe"):
        write_video(device, np.zeros((1, 16, 16, 3), np.uint8), 25)
    assert [path.name for path in tmp_path.iterdir()] == ["null.mp4"]


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    with written_whole(pipe) as file:
        np.savez(file, a=np.arange(3))
    reader.join(timeout=30)
    assert np.load(io.BytesIO(found[0]))["a"].tolist() == [0, 1, 2]
    assert pipe.is_fifo()


@pytest.mark.parametrize("way", ["> out", "| cat > out"])
def test_standard_output_is_written_to_after_what_was_printed(tmp_path, way):
    program = (
        "from i3d_jax.system.files import written_whole\n"
        "print('before')\n"
        "with written_whole('/dev/stdout') as file: file.write(b'bytes')\n"
        "print(' after')\n"
    )
    subprocess.run(["bash", "-c", f'"$0" -c "$1" {way}', sys.executable, program], cwd=tmp_path, check=True)
    assert (tmp_path / "out").read_text() == "before\nbytes after\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
