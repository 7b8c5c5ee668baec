"""Paths of buckets: what is read, written and refused there; retries; leases. The emulators run on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import re
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import emulators
from helpers.ports import free_address

from i3d_jax.records import spans
from i3d_jax.system import bucket_requests, copies, files, lease, lock
from i3d_jax.system.errors import Failure, UserError

# JAX's own cache is looked at by JAX.
KNOWN = ("compilation.py",)
ODD_NAMES = ("with spaces", "100%", "a%20b", "c#1", "ä ñ 動作", "q?x*[y]", "a+b&c=d", "-n")


@pytest.fixture
def google(google_emulator, monkeypatch):
    """The emulator as Google's storage; yields its address."""
    emulators.used_by_this_process(monkeypatch, google_emulator)
    return google_emulator


@pytest.fixture
def network(google_emulator, monkeypatch):
    """What stands between this process and the emulator."""
    with emulators.Network(google_emulator) as network:
        emulators.used_by_this_process(monkeypatch, network.address)
        yield network


@pytest.fixture(scope="module")
def amazon():
    with emulators.amazon() as address:
        yield address


@pytest.fixture
def s3(amazon, monkeypatch):
    """The emulator of S3; yields its address."""
    emulators.used_by_this_process(monkeypatch, amazon)
    return amazon


@pytest.fixture(params=["gs", "s3"])
def folder(request, tmp_path):
    """A folder of either kind of bucket, of this test alone."""
    request.getfixturevalue("google" if request.param == "gs" else "s3")
    return files.path(f"{request.param}://{emulators.BUCKET}/{tmp_path.name}")


def test_local_paths_are_pathlibs():
    for text in ("a/b", "/x", "~/y", "a:b/c", "x#1", "C:/x"):
        assert type(files.path(text)) is type(Path())
        assert files.path(text) == Path(text)


def test_what_users_name_may_lie_in_buckets():
    """`Path(...)` of an option would make a local folder called "gs:"."""
    for file in (Path(__file__).parents[1] / "i3d_jax").rglob("*.py"):
        made = r"\bPath\((options|one|source|directory)\b|type=Path\b|map\(Path\b"
        assert not re.search(made, file.read_text()) or file.name in KNOWN, file


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_of_any_letters(folder, name):
    path = files.path(f"{folder}/{name}/{name}.txt/")
    assert (path.name, path.parent.name, path.suffix) == (f"{name}.txt", name, ".txt")
    path.write_text(name)
    assert path.read_text() == name
    assert files.is_file(path)
    assert files.is_folder(path.parent)
    assert files.is_folder(folder)
    assert path.parent in files.entries(folder)
    assert files.entries(path.parent) == [path]
    assert files.size(path) == len(name.encode())
    assert pickle.loads(pickle.dumps(path)) == path
    path.unlink()
    assert files.instead(path) == files.instead(path.parent) == "nothing"


def test_what_pathlib_says_of_paths_is_said_of_buckets():
    ours, theirs = files.path("gs://bucket/a/b.c/d.tar.gz"), Path("/bucket/a/b.c/d.tar.gz")
    for attribute in ("name", "stem", "suffix"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert [str(one)[4:] for one in ours.parents] == [str(one) for one in theirs.parents][:-1]
    assert str(ours.with_suffix(".json")) == "gs:/" + str(theirs.with_suffix(".json"))
    assert ours.relative_to(ours.parents[1]) == theirs.relative_to(theirs.parents[1])
    assert ours.is_relative_to(ours.parent)
    assert not ours.parent.is_relative_to(ours)
    assert str(files.path("gs://bucket/a//b/./c/") / "../d") == "gs://bucket/a/b/d"


@pytest.mark.parametrize(
    "text", ["gs://", "gs:/bucket/x", "gs:///x", "s3:///x", "hdfs://host/x", "gcs://bucket/x", "gs://.."]
)
def test_other_addresses_make_no_folder_of_their_name(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="was expected"):
        files.make_folder(files.path(text))
    assert not list(tmp_path.iterdir())


def test_an_address_that_pathlib_has_shortened_is_none_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (files.path, files.is_file, files.make_folder, lambda path: files.written_whole(path).__enter__()):
        with pytest.raises(
            UserError, match=r"a path on this machine, gs://BUCKET/.* was expected, found 'gs:/bucket/x"
        ):
            use(Path("gs://bucket/x/y"))
    assert not list(tmp_path.iterdir())


def test_libraries_of_local_files_get_a_sentence(google):
    path = files.path("gs://bucket/x")
    for use in (open, Path, lambda one: Path("a") / one):
        with pytest.raises(UserError, match="gs://bucket/x lies in a bucket"):
            use(path)


def test_pieces_and_files(folder):
    content = bytes(range(256)) * 10000
    with files.written_whole(folder / "x") as file:
        file.write(content[:1000])
        # As a zip file has it written.
        file.seek(0, 2)
        file.write(content[1000:])
        assert not files.is_file(folder / "x")
    assert spans.read(folder / "x", [(0, 5), (2_000_000, 7), (len(content) - 3, 10), (len(content) + 5, 3)]) == [
        content[:5],
        content[2_000_000:2_000_007],
        content[-3:],
        b"",
    ]
    with files.opened(folder / "x") as file:
        file.seek(-4, 2)
        assert file.read() == content[-4:]
        assert file.seek(1_500_000)
        assert file.read(9) == content[1_500_000:1_500_009]
    with copies.on_this_machine(folder / "x") as found:
        assert found.name == "x"
        assert found.read_bytes() == content
    assert not found.exists()


def test_an_exception_leaves_what_was_there(folder):
    (folder / "x").write_text("before")
    with pytest.raises(TypeError), files.written_whole(folder / "x") as file:
        file.writelines([b"half", None])
    assert (folder / "x").read_text() == "before"
    assert [one.name for one in files.entries(folder)] == ["x"]


def test_folders(folder):
    with copies.made_on_this_machine(folder / "made") as target:
        (target / "deep" / "er").mkdir(parents=True)
        (target / "one").write_text("1")
        (target / "deep" / "er" / "two").write_text("2")
        assert not files.is_folder(folder / "made")
    made = folder / "made"
    assert [one.name for one in made.iterdir()] == ["deep", "one"]
    assert [str(one.relative_to(made)) for one in made.rglob("*")] == ["deep/er/two", "one"]
    assert made.glob("deep/*") == [made / "deep" / "er"]
    with copies.on_this_machine(made) as found:
        assert (found / "deep" / "er" / "two").read_text() == "2"
    files.remove_folder(made)
    assert not made.exists()


@pytest.mark.parametrize("text", ["gs://bucket/../b/x", "gs://bucket/a/../../b/x", "gs://bucket/b/./x/y/.."])
def test_no_address_leads_out_of_its_bucket(text):
    assert str(files.path(text)) == "gs://bucket/b/x"
    assert str(files.path("gs://bucket/a") / "../../b/x") == "gs://bucket/b/x"


@pytest.fixture
def put_raw(google):
    """Makes objects of any name, whatever our paths say to it."""
    requests = bucket_requests.filesystem("gs")

    def put(name):
        address = f"{requests._location}/upload/storage/v1/b/bucket/o"
        requests.call("POST", address, uploadType="media", name=name, data=b"x", json_out=True)

    return put


@pytest.mark.parametrize("name", ["../../outside", "a//b", "./c"])
def test_names_that_lead_elsewhere_are_refused(put_raw, tmp_path, name):
    folder = files.path(f"gs://bucket/{tmp_path.name}")
    for one in ("inside", name):
        put_raw(f"{folder.key}/{one}")
    with pytest.raises(UserError, match=rf"{folder} holds {folder}/{re.escape(name)}: objects whose names"):
        folder.download(tmp_path / "deep" / "copy")
    assert not [*tmp_path.rglob("*")]


def test_objects_that_tools_make_for_folders_are_none(put_raw, tmp_path):
    folder = files.path(f"gs://bucket/{tmp_path.name}")
    for name in ("", "empty/", "inside"):
        put_raw(f"{folder.key}/{name}")
    assert folder.sizes() == {"inside": 1}
    folder.download(tmp_path / "copy")
    assert [one.name for one in (tmp_path / "copy").iterdir()] == ["inside"]


def test_what_a_library_has_not_made_is_not_the_buckets_fault(folder):
    with pytest.raises(FileNotFoundError), copies.made_on_this_machine(folder / "x"):
        pass


def test_an_object_that_changes_while_it_is_read(google):
    path = files.path("gs://bucket/changing")
    path.write_bytes(b"a" * 10_000_000)
    with files.opened(path) as file:
        file.read(10)
        path.write_bytes(b"b" * 10_000_000)
        with pytest.raises(UserError, match="changing has changed while it was read"):
            file.read()


def test_a_bucket_that_is_not_there(folder):
    missing = files.path(f"{folder.scheme}://nobody-has-this/x")
    began = time.monotonic()
    uses = (missing.exists, missing.read_bytes, lambda: missing.write_text("x"), missing.listed, missing.parent.listed)
    for use in uses:
        with pytest.raises(UserError, match=r"the bucket .*://nobody-has-this does not exist"):
            use()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(("status", "words"), [(401, "no credentials"), (403, "no permission")])
def test_a_bucket_that_lets_nobody_in(network, status, words):
    network.status = status
    began = time.monotonic()
    with pytest.raises(UserError, match=f"gs://bucket cannot be looked at: .*{words}"):
        files.is_file("gs://bucket/x")
    assert time.monotonic() - began < 10


def test_a_bucket_that_may_be_read_alone(network):
    files.path("gs://bucket/read only").write_text("x")
    network.writes_status = 403
    with pytest.raises(UserError, match="gs://bucket/new cannot be written: the account has no permission"):
        files.path("gs://bucket/new").write_text("x")
    assert files.path("gs://bucket/read only").read_text() == "x"


def test_a_request_that_the_server_calls_wrong_is_made_once(network):
    """As of a name that no bucket can have: in it is "Invalid", which gcsfs looks for in small letters."""
    files.path("gs://bucket/there").write_text("x")
    network.status = 400
    before = len(network.requests)
    with pytest.raises(UserError, match="gs://bucket/there cannot be read: as the test asks, 400"):
        files.path("gs://bucket/there").read_text()
    assert len(network.requests) == before + 1


def test_a_removal_whose_answer_is_lost(google, monkeypatch):
    path = files.path("gs://bucket/removed")
    path.write_text("x")
    requests = bucket_requests.filesystem("gs")
    remove = requests.rm_file

    def lost(name):
        remove(name)
        monkeypatch.setattr(requests, "rm_file", remove)
        raise ConnectionError

    monkeypatch.setattr(requests, "rm_file", lost)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        path.unlink()


def test_less_than_was_asked_for_is_asked_for_again(google, monkeypatch):
    path = files.path("gs://bucket/short")
    path.write_bytes(bytes(range(100)))
    requests = bucket_requests.filesystem("gs")
    answers = iter([b"short", bytes(range(100))])
    monkeypatch.setattr(requests, "cat_file", lambda *_, **__: next(answers))
    with files.opened(path) as file:
        assert file.read() == bytes(range(100))


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_server_that_cannot_be_reached_is_told_within_ten_seconds(scheme, google_emulator, monkeypatch):
    emulators.used_by_this_process(monkeypatch, f"http://{free_address()}")
    # The second has no object's name to begin with.
    for use, path in (files.is_file, f"{scheme}://bucket/x"), (files.entries, f"{scheme}://bucket"):
        began = time.monotonic()
        with pytest.raises(
            Failure, match=f"{scheme}://bucket cannot be looked at: 127.0.0.1 cannot be reached: .*refused"
        ):
            use(path)
        assert time.monotonic() - began < 10


def test_no_credentials_for_s3(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="no credentials of AWS"):
        files.is_file("s3://bucket/x")


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("s3", "s3fs")])
def test_without_the_extra(scheme, package, google, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'needs {package}.*-e "\.\[cloud\]"'):
        files.is_file(f"{scheme}://bucket/x")


def test_one_request_in_three_fails(network):
    network.refuses = 3
    path = files.path("gs://bucket/unsteady")
    for number in range(3):
        path.write_text(str(number))
        assert path.read_text() == str(number)


def test_a_server_that_is_gone_for_a_while(network):
    path = files.path("gs://bucket/patient")
    path.write_text("x")
    network.down = True
    threading.Timer(3, lambda: setattr(network, "down", False)).start()
    assert path.read_text() == "x"


def test_a_server_that_is_gone_for_good(network, monkeypatch):
    path = files.path("gs://bucket/given up")
    path.write_text("0123456789")
    monkeypatch.setattr(bucket_requests, "PATIENCE_SECONDS", 0)
    network.down = True
    # gcsfs waits for half a minute.
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *more: sleep(0, *more))
    with pytest.raises(Failure, match=r"gs://bucket/given up cannot be read, bytes 3 to 5, after trying for"):
        spans.read(path, [(3, 2)])


# Leases.


@pytest.fixture
def quick(monkeypatch):
    # A lease that is alive lasts where S3 tells whole seconds and the machine is busy.
    monkeypatch.setattr(lease, "LEASE_SECONDS", 6)
    monkeypatch.setattr(lease, "_RENEWED_EVERY_SECONDS", 1)
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.2)


def test_a_workdir_is_for_one_run_at_a_time(folder, quick):
    with lock.held(folder):
        text = (folder / "lock").read_text()
        assert text.startswith("process ")
        in_use = f"{folder} is in use by {text.splitlines()[0]}: it is for one run"
        with pytest.raises(UserError, match=in_use), lock.held(folder):
            pass
        # The one that was refused has taken nothing.
        assert (folder / "lock").read_text() == text
    assert not folder.exists()
    with lock.held(folder):
        pass


@pytest.mark.parametrize("failing", [True, False])
def test_a_lease_that_cannot_be_removed_hides_nothing(network, quick, caplog, failing):
    folder = files.path("gs://bucket/kept")
    with contextlib.ExitStack() as outcome:
        if failing:
            outcome.enter_context(pytest.raises(UserError, match="what was wrong"))
        outcome.callback(setattr, network, "writes_status", None)
        with lock.held(folder):
            network.writes_status = 403
            if failing:
                raise UserError("what was wrong")
    assert "gs://bucket/kept/lock cannot be removed: the account has no permission" in caplog.text
    (folder / "lock").unlink()


def test_who_died_is_followed(folder, quick):
    began = time.monotonic()
    bucket_requests.write_if(folder / "lock", b"process 1 on another\n", None)
    with lock.held(folder):
        # S3 tells its times in whole seconds.
        assert 1 < time.monotonic() - began < 30
        assert "another" not in (folder / "lock").read_text()


def test_of_two_that_follow_one_wins(folder, quick):
    bucket_requests.write_if(folder / "lock", b"process 1 on another\n", None)
    time.sleep(6)
    outcomes = []
    both = threading.Barrier(2)

    def follow():
        try:
            with lock.held(folder):
                outcomes.append("held")
                both.wait(60)
        except UserError as error:
            outcomes.append(str(error))
            both.wait(60)

    threads = [threading.Thread(target=follow) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one[:4] for one in outcomes) == sorted(["held", str(folder)[:4]])


def test_writes_with_a_condition(folder):
    path = folder / "x"
    first = bucket_requests.write_if(path, b"one", None)
    for wrong in (None, "1" if path.scheme == "gs" else '"1"'):
        with pytest.raises(FileExistsError):
            bucket_requests.write_if(path, b"two", wrong)
    assert bucket_requests.write_if(path, b"two", first) != first
    found = bucket_requests.version_of(path)
    assert found.content == b"two"
    assert -1 <= found.age < 30
    bucket_requests.remove_if(path, found.tag)
    assert bucket_requests.version_of(path) is None


def test_a_lease_outlives_an_outage(network, quick):
    folder = files.path("gs://bucket/outage")
    with lock.held(folder):
        before = bucket_requests.version_of(folder / "lock")
        network.down = True
        time.sleep(7)
        network.down = False
        deadline = time.monotonic() + 60
        while bucket_requests.version_of(folder / "lock").written == before.written:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert bucket_requests.version_of(folder / "lock").content == before.content
