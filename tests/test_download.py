"""Files come whole from servers as they are: cut short, silent, without ranges, busy; and disks as they are."""

from __future__ import annotations

import errno
import io
import socket

import pytest
from helpers.mirrors import served

from i3d_jax.importers import download
from i3d_jax.system import progress
from i3d_jax.system.errors import UserError

CONTENT = bytes(range(256)) * 5000
HALF = len(CONTENT) // 2


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.01)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(CONTENT)
    (tmp_path / "cache").mkdir()
    with served(tmp_path / "served") as mirror:
        yield mirror


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "file"


def part(path):
    return path.with_name("file.part")


def test_a_file_comes_whole(mirror, path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    download.fetch(f"{mirror.address}/file", path)
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert "downloading cache/file: " in capsys.readouterr().err


@pytest.mark.parametrize("ranges", [True, False])
def test_half_a_file_is_kept_and_completed_by_the_next_start(mirror, path, ranges):
    mirror.half.add("/file")
    mirror.ranges = ranges
    with pytest.raises(UserError, match=rf"broke off after {HALF:,} of {len(CONTENT):,} bytes .* next start goes on"):
        download.fetch(f"{mirror.address}/file", path)
    assert part(path).read_bytes() == CONTENT[:HALF]
    assert not path.exists()
    download.fetch(f"{mirror.address}/file", path)
    assert path.read_bytes() == CONTENT
    assert mirror.requests == [("/file", None), ("/file", f"bytes={HALF}-")]


def test_a_server_that_falls_silent_within_a_file(mirror, path, monkeypatch):
    # Long enough for a busy machine to send the first half.
    monkeypatch.setattr(download, "SILENCE", 3)
    mirror.stuck.add("/file")
    with pytest.raises(UserError, match=r"broke off after .* bytes \(nothing came for 3 seconds\)"):
        download.fetch(f"{mirror.address}/file", path)
    assert part(path).read_bytes() == CONTENT[:HALF]


def test_a_server_that_never_answers(mirror, path, monkeypatch):
    monkeypatch.setattr(download, "SILENCE", 1)
    mirror.stuck.add("/file")
    mirror.stuck_after = 0
    with pytest.raises(download.UnreachableError, match=r"/file cannot be reached: no answer within 1 seconds"):
        download.fetch(f"{mirror.address}/file", path)
    assert mirror.requests == [("/file", None)]


def test_a_server_that_has_no_such_file_is_asked_once(mirror, path):
    with pytest.raises(download.UnreachableError, match=r"/none cannot be reached: the server answers 404 \(Not Found"):
        download.fetch(f"{mirror.address}/none", path)
    assert mirror.requests == [("/none", None)]
    assert not list(path.parent.iterdir())


def test_a_busy_server_is_asked_again(mirror, path):
    mirror.statuses["/file"] = [503]
    download.fetch(f"{mirror.address}/file", path)
    assert path.read_bytes() == CONTENT
    mirror.statuses["/file"] = [503] * 9
    with pytest.raises(download.UnreachableError, match="the server answers 503"):
        download.fetch(f"{mirror.address}/file", path)


def test_an_address_at_which_nobody_is(tmp_path, path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Taken, so that no other test comes to listen there.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(download.UnreachableError, match="/file cannot be reached: Connection refused"):
            download.fetch(f"{address}/file", path)


@pytest.mark.parametrize("kept", [CONTENT, CONTENT + b"more"])
def test_what_had_come_whole_or_is_of_another_file(mirror, path, kept):
    part(path).write_bytes(kept)
    download.fetch(f"{mirror.address}/file", path)
    assert path.read_bytes() == CONTENT
    assert len(mirror.requests) == (1 if kept == CONTENT else 2)


def test_a_disk_without_room(mirror, path, monkeypatch):
    class Full(io.FileIO):
        def write(self, block):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "open", Full, raising=False)
    with pytest.raises(UserError, match=r"there is no room for .*/cache/file: make room, or name another folder"):
        download.fetch(f"{mirror.address}/file", path)
    assert not path.exists()


def test_a_folder_in_which_nothing_can_be_written(mirror, tmp_path):
    with pytest.raises(UserError, match="absent/file cannot be written: No such file or directory"):
        download.fetch(f"{mirror.address}/file", tmp_path / "absent" / "file")


@pytest.mark.parametrize("address", ["host/folder", "file:///etc", "https://", "http://[host/", ""])
def test_what_is_no_address(address):
    with pytest.raises(UserError, match="--mirror is an address such as https://host/folder, found"):
        download.refuse_no_address("--mirror", address)
    download.refuse_no_address("--mirror", "http://[::1]:80/folder")
