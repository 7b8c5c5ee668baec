"""The server that docs/serving.md shows, as it stands there: with a narrow network, at this machine's own address."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import forked
from helpers.pages import ROOT, blocks
from helpers.ports import free_port
from helpers.small_checkpoints import save_stream

import i3d_jax
from i3d_jax.video.write import write_video

pytest.importorskip("litserve", reason="the extra serve is not installed")
pytest.importorskip("python_multipart", reason="the extra serve is not installed")

# In place of what the page has: four requests are one batch for certain, and little is too much.
CHANGED = {"batch_timeout=0.05": "batch_timeout=30", "max_payload_size=100 << 20": "max_payload_size=1 << 16"}
FRAMES = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds the server, a network and two videos."""
    folder = tmp_path_factory.mktemp("serving")
    save_stream(folder / "network", stream="rgb")
    for number, name in enumerate(("one.mp4", "other.mp4")):
        draw = np.random.default_rng(number)
        write_video(folder / name, draw.integers(0, 256, (FRAMES, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2), 25)
    [program] = [text for _, kind, text in blocks(ROOT / "docs" / "serving.md") if kind == "python"]
    for there, here in CHANGED.items():
        assert there in program
        program = program.replace(there, here)
    (folder / "serve.py").write_text(program)
    return folder


@contextlib.contextmanager
def running(folder):
    """Runs the server; yields its process and its address once it says that it is ready."""
    port = free_port()
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "serve.py", "network", str(port)],
            cwd=folder,
            env=forked.environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while ask(f"http://127.0.0.1:{port}/health") != (200, "ok"):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((folder / "log").read_text())
            time.sleep(0.1)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(url, body=None, **headers):
    """Returns the status and the text of an answer, (0, "") where nobody listens."""
    request = urllib.request.Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def send(address, name, content, *, field="request"):
    """Sends a file as a form does, RFC 7578; returns the status and the JSON of the answer."""
    head = f'--limit\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--limit--\r\n"
    status, text = ask(f"{address}/predict", body, Content_Type="multipart/form-data; boundary=limit")
    return status, json.loads(text)


def test_videos_are_answered_and_what_is_none_is_refused_in_a_sentence(folder):
    network = i3d_jax.load(folder / "network")
    sent = {name: (folder / name).read_bytes() for name in ("one.mp4", "other.mp4")}
    sent |= {"notes.txt": b"no video\n" * 100, "empty.mp4": b""}
    with running(folder) as (process, address), ThreadPoolExecutor(len(sent)) as together:
        answers = dict(zip(sent, together.map(lambda name: send(address, name, sent[name]), sent), strict=True))
        for name in ("one.mp4", "other.mp4"):
            status, answer = answers[name]
            expected = network.predict(folder / name)
            assert status == 200
            assert (answer["video"], answer["start"], answer["end"]) == (name, 0, FRAMES / 25)
            assert [one["label"] for one in answer["predictions"]] == [one["label"] for one in expected]
            found, wanted = ([one["probability"] for one in own] for own in (answer["predictions"], expected))
            np.testing.assert_allclose(found, wanted, rtol=1e-5)
        status, answer = answers["notes.txt"]
        assert status == 422
        assert answer["detail"].startswith("the video notes.txt cannot be read: it cannot be opened as a video")
        assert answers["empty.mp4"] == (422, {"detail": "the video empty.mp4 cannot be read: the file is empty"})

        assert send(address, "large.mp4", bytes(1 << 17)) == (413, {"detail": "Payload too large"})
        status, answer = send(address, "one.mp4", sent["one.mp4"], field="video")
        assert (status, answer["detail"][0]["loc"]) == (422, ["body", "request"])
        assert "Traceback" not in (folder / "log").read_text()

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert ask(f"{address}/health") == (0, "")
