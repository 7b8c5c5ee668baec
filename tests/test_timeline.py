"""What `predict` says of long videos and of many: when what happens, which seconds were scored, and in which form."""

from __future__ import annotations

import csv
import io
import json
import shutil

import av
import jax
import numpy as np
import pytest
from helpers.moving_pictures import sliding, write_lossless
from helpers.small_checkpoints import LABELS, save_stream

import i3d_jax
from i3d_jax import models, predict
from i3d_jax.clips import CHANNELS
from i3d_jax.inference.batching import with_steps
from i3d_jax.inference.timeline import Steps, stretches
from i3d_jax.inference.writing import clock
from i3d_jax.system.errors import UserError
from i3d_jax.video.write import write_video

WINDOW, STRIDE = 9, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timeline")
    (folder / "videos" / "deeper").mkdir(parents=True)
    write_lossless(folder / "videos" / "a.mkv", sliding(34, right=2, down=-1))
    write_lossless(folder / "videos" / "deeper" / "b.mkv", sliding(12, right=-1, down=0))
    (folder / "videos" / "notes.txt").write_text("no video")
    save_stream(folder / "rgb", stream="rgb")
    return folder


def said(capsys, folder, *arguments, code=0):
    assert predict.main([*map(str, arguments), "--checkpoint", str(folder / "rgb")]) == code
    return capsys.readouterr()


def test_each_window_has_its_seconds_and_classes(folder, capsys):
    timeline = ("--timeline", "--window", WINDOW, "--stride", STRIDE)
    printed = said(capsys, folder, folder / "videos" / "a.mkv", *timeline, "--format", "json", "--top_k", "3")
    [found] = json.loads(printed.out)
    assert [(one["start"], one["end"]) for one in found["timeline"]] == [
        (STRIDE * number / 25, (STRIDE * number + WINDOW) / 25) for number in range(6)
    ]
    network = i3d_jax.load(folder / "rgb")
    assert found["timeline"] == network.timeline(folder / "videos" / "a.mkv", window=WINDOW, stride=STRIDE, top_k=3)
    logits = []
    for one in found["timeline"]:
        assert (one["label"], one["probability"]) == tuple(one["predictions"][0][k] for k in ("label", "probability"))
        by_label = {each["label"]: each["logit"] for each in one["predictions"]}
        logits.append([by_label[label] for label in LABELS])
    # The whole is the mean.
    whole = {each["label"]: each["logit"] for each in found["predictions"]}
    np.testing.assert_allclose([whole[label] for label in LABELS], np.mean(logits, 0), rtol=1e-5)
    assert (found["stretches"][0]["start"], found["stretches"][-1]["end"]) == (0, (STRIDE * 5 + WINDOW) / 25)
    text = said(capsys, folder, folder / "videos" / "a.mkv", *timeline).out.splitlines()
    assert len(text) == 1 + len(found["stretches"])
    assert text[0].endswith("a.mkv  (0.0 s to 1.4 s, 6 windows)")


def test_neighbours_of_one_label_are_joined():
    logits = np.array([[2, 0], [3, 0], [0, 1], [0, 2], [1, 0]], float)
    spans = [(0, 4), (1, 5), (2, 6), (3, 7), (4, 8)]
    # A step in the middle of each window, that says what the window does.
    found = stretches(logits, spans, ["run", "jump"], Steps(logits[:, None], [0.5]))
    assert [(one.start, one.end, one.label) for one in found] == [(0, 3.5, "run"), (3.5, 5.5, "jump"), (5.5, 8, "run")]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(
        [one.probability for one in found], [(sigmoid(2) + sigmoid(3)) / 2, (sigmoid(1) + sigmoid(2)) / 2, sigmoid(1)]
    )


# The steps lie at 2, 6, 10 and so on: a change is found in the middle of two.
@pytest.mark.parametrize(("change", "between"), [(21, 20), (27, 28), (33, 32), (39, 40)])
@pytest.mark.parametrize("strength", [1, 3])
def test_a_change_is_where_the_steps_change(change, between, strength):
    """However many windows the stronger label wins: they show it from a quarter of their length on."""
    spans = [(start, start + 16) for start in range(0, 48, 4)]
    centres = [1 / 8, 3 / 8, 5 / 8, 7 / 8]
    times = np.array([[start + 16 * centre for centre in centres] for start, _ in spans])
    of_steps = np.where(times[..., None] < change, [1.0, 0.0], [0.0, strength])
    found = stretches(of_steps.mean(1), spans, ["run", "jump"], Steps(of_steps, centres))
    assert [(one.start, one.end, one.label) for one in found] == [(0, between, "run"), (between, 60, "jump")]


def test_no_change_comes_before_the_one_before_it():
    """Though every step of the last label lies before those of the one in the middle."""
    logits = np.eye(3)[[0, 0, 1, 2, 2]]
    spans = [(start, start + 4) for start in range(5)]
    of_steps = np.tile(np.eye(3)[[2, 1, 0]], (5, 1, 1))
    found = stretches(logits, spans, ["a", "b", "c"], Steps(of_steps, [0.25, 0.5, 0.75]))
    edges = [found[0].start, *(one.end for one in found)]
    assert [one.label for one in found] == ["a", "b", "c"]
    assert edges == sorted(edges)
    assert [one.start for one in found[1:]] == edges[1:-1]


@pytest.mark.parametrize("stream", ["rgb", "flow", None])
def test_the_steps_of_a_window_are_its_logits_on_average(stream):
    """A step of I3D's last pool is scored as a clip of nothing else would be."""
    options = {"num_classes": 3, "width_multiplier": 0.125, "last_block": "Mixed_3c"}
    name, own = ("i3d", {"stream": stream}) if stream else ("two_stream_i3d", {})
    model = models.create(name, **options, **own)
    random = np.random.default_rng(0)
    clip = {one: random.uniform(-1, 1, (2, 25, 32, 32, CHANNELS[one])).astype(np.float32) for one in model.streams}
    variables = model.init(jax.random.key(0), clip)
    logits, endpoints = jax.jit(model.apply)(variables, clip)
    found = with_steps(model, variables, logits, endpoints)
    # Up to that block one frame in two is left.
    assert found.shape == (2, 1 + 12, 3)
    np.testing.assert_array_equal(found[:, 0], logits)
    np.testing.assert_allclose(found[:, 1:].mean(1), logits, rtol=1e-4, atol=1e-5)
    assert np.ptp(found[:, 1:], axis=1).min() > 0
    assert model.step_centres(3) == [1 / 4, 2 / 4, 3 / 4]


def test_a_piece_is_scored_as_the_piece_alone(folder, tmp_path, capsys):
    frames = sliding(34, right=2, down=-1)
    write_lossless(tmp_path / "cut.mkv", frames[10:30])
    path = folder / "videos" / "a.mkv"
    [cut] = json.loads(said(capsys, folder, tmp_path / "cut.mkv", "--format", "json").out)
    for piece in (("--start", 0.4, "--end", 1.2), ("--start", 0.4, "--first_seconds", 0.8)):
        [found] = json.loads(said(capsys, folder, path, *piece, "--format", "json").out)
        assert found["predictions"] == cut["predictions"]
        assert (found["start"], found["end"]) == (0.4, 1.2)
    for number in (1, 2, 4):
        [found] = json.loads(said(capsys, folder, path, "--windows", number, "--format", "json").out)
        assert found["windows"] == number
        assert found["end"] == (9 if number == 1 else 34) / 25


def test_folders_patterns_and_lists(folder, capsys, monkeypatch):
    both = [str(folder / "videos" / "a.mkv"), str(folder / "videos" / "deeper" / "b.mkv")]

    def videos(*arguments, code=0):
        table = csv.DictReader(io.StringIO(said(capsys, folder, *arguments, "--format", "csv", code=code).out))
        rows = list(table)
        assert {row["rank"] for row in rows} <= {"1", "2", "3"}
        return list(dict.fromkeys(row["video"] for row in rows))

    assert videos(folder / "videos") == both
    assert videos(folder / "videos" / "**" / "*.mkv") == both
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([both[1], "", both[0]])))
    assert videos("-") == both[::-1]
    assert videos(both[0], folder / "videos" / "notes.txt", both[1], code=2) == both
    for argument, words in (
        (folder / "rgb", "holds no video"),
        (str(folder / "*.mp4"), "no file matches"),
    ):
        with pytest.raises(UserError, match=words):
            predict.main([str(argument), "--checkpoint", str(folder / "rgb")])


def test_what_is_written_to_a_file_is_what_would_be_printed(folder, tmp_path, capsys):
    path = folder / "videos" / "a.mkv"
    for kind in ("text", "json", "jsonl", "csv"):
        printed = said(capsys, folder, path, "--format", kind).out
        assert printed
        assert said(capsys, folder, path, "--format", kind, "--output", tmp_path / kind).out == ""
        assert (tmp_path / kind).read_text() == printed


def test_a_video_with_its_classes_on_it(folder, tmp_path, capsys):
    """The pictures above the text are those of the video, those behind it are darker."""
    frames = np.full((30, 96, 128, 3), 200, np.uint8)
    write_video(tmp_path / "grey.mp4", frames, 25)
    timeline = ("--timeline", "--window", WINDOW, "--stride", STRIDE)
    said(capsys, folder, tmp_path / "grey.mp4", *timeline, "--save_video", tmp_path / "said.mp4")
    with av.open(str(tmp_path / "said.mp4")) as container:
        found = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert found.shape[1:] == (96, 128, 3)
    # To the end of the last window.
    assert len(found) == 29
    assert np.abs(found[:, :40].astype(int) - 200).mean() < 4
    assert found[:, 60:].mean() < 130
    assert found[:, 60:].max() > 200
    with pytest.raises(UserError, match="--save_video is of one video, found 2"):
        predict.main([*[str(tmp_path / "grey.mp4")] * 2, "--checkpoint", str(folder / "rgb"), "--save_video", "x.mp4"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--windows", "0"], "--windows must be at least 1, found 0"),
        (["--start", "-1"], "--start must be 0 or more seconds, found -1"),
        (["--end", "nan"], "--end must be above 0 seconds, found nan"),
        (["--start", "3", "--end", "2"], "--end must be after --start, 3 s, found 2"),
        (["--end", "3", "--first_seconds", "2"], "both say where to stop"),
        (["--timeline", "--windows", "3"], "a --timeline has one every --stride frames"),
        (["--window", "16"], "--window and --stride are of a --timeline"),
        (["--timeline", "--stride", "0"], "the stride must be 1 frame or more, found 0"),
        (["--start", "60"], "ends before the piece starts at 60 s"),
    ],
)
def test_arguments_that_do_not_go_together(folder, capsys, arguments, words):
    given = [str(folder / "videos" / "a.mkv"), "--checkpoint", str(folder / "rgb"), *arguments]
    if arguments == ["--start", "60"]:
        # It is the video that it does not fit.
        assert predict.main(given) == 2
        assert words in capsys.readouterr().err
    else:
        with pytest.raises(UserError, match=words):
            predict.main(given)


def test_seconds_are_written_as_people_write_them():
    assert [clock(seconds) for seconds in (0, 7.24, 59.96, 187.2, 3787.25)] == [
        "0.0 s",
        "7.2 s",
        "1:00.0",
        "3:07.2",
        "1:03:07.2",
    ]


def test_a_workdir_is_loaded_from_python(folder, tmp_path):
    """It has a `config.json` beside its checkpoints, as a Hub folder has one beside its arrays."""
    shutil.copytree(folder / "rgb", tmp_path / "checkpoints" / "7")
    (tmp_path / "config.json").write_text("{}")
    network, expected = i3d_jax.load(tmp_path), i3d_jax.load(folder / "rgb")
    assert network.labels == expected.labels
    assert network.predict(folder / "videos" / "a.mkv") == expected.predict(folder / "videos" / "a.mkv")
