"""Features of videos: the vectors that the network gives, in the files that other programs read."""

from __future__ import annotations

import dataclasses
import json
import shutil

import cv2
import jax
import numpy as np
import pytest
from helpers.moving_pictures import sliding, write_lossless
from helpers.small_checkpoints import save_stream

import i3d_jax
from i3d_jax import checkpoint, features, prepare
from i3d_jax.inference.presets import PRESETS
from i3d_jax.system.errors import UserError
from i3d_jax.video.plans import Sliding
from i3d_jax.video.tvl1_backends import description
from i3d_jax.video.view import View

WINDOW, STRIDE = 9, 4
SHORT_SIDE, CROP = 48, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    (folder / "videos").mkdir()
    for name, frames in (("long", 30), ("short", 13)):
        write_lossless(folder / "videos" / f"{name}.mkv", sliding(frames, right=2, down=-1, seed=frames))
    save_stream(folder / "rgb", stream="rgb")
    save_stream(folder / "flow", stream="flow", flow=description("opencv"))
    return folder


def run(folder, *more, videos=("videos",), output="out", checkpoints=("rgb",)):
    flags = [flag for pair in zip(("--checkpoint", "--flow_checkpoint"), checkpoints, strict=False) for flag in pair]
    flags = [str(folder / flag) if not flag.startswith("--") else flag for flag in flags]
    windows = ["--window", str(WINDOW), "--stride", str(STRIDE)]
    return features.main([*(str(folder / v) for v in videos), *flags, "--output", str(output), *windows, *more])


def vectors(path):
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def by_hand(folder, name, frames):
    """The network's own answer, window by window, to frames that OpenCV alone has prepared."""
    model, variables, _ = checkpoint.load(folder / name)
    height, width = frames.shape[1:3]
    scale = SHORT_SIDE / min(height, width)
    seen = []
    for frame in frames:
        small = cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
        jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        decoded = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1]
        top, left = (decoded.shape[0] - CROP) // 2, (decoded.shape[1] - CROP) // 2
        seen.append(decoded[top : top + CROP, left : left + CROP])
    inputs = np.stack(seen).astype(np.float32) / 127.5 - 1
    apply = jax.jit(model.apply)
    starts = range(0, len(frames) - WINDOW + 1, STRIDE)
    return np.stack(
        [
            np.asarray(apply(variables, {"rgb": inputs[None, start : start + WINDOW]})[1]["features"][0]).mean(0)
            for start in starts
        ]
    )


def test_vectors_are_the_networks_own(folder, tmp_path):
    assert run(folder, output=tmp_path) == 0
    for name, frames in (("long", 30), ("short", 13)):
        found = vectors(tmp_path / f"{name}.npz")
        expected = by_hand(folder, "rgb", sliding(frames, right=2, down=-1, seed=frames))
        np.testing.assert_allclose(found["features"], expected, rtol=1e-5, atol=1e-6)
        assert found["features"].dtype == np.float32
        count = (frames - WINDOW) // STRIDE + 1
        np.testing.assert_allclose(found["start_seconds"], np.arange(count) * STRIDE / 25)
        np.testing.assert_allclose(found["end_seconds"], (np.arange(count) * STRIDE + WINDOW) / 25)
        described = json.loads((tmp_path / f"{name}.json").read_text())
        assert described["frames"] == frames
        assert (described["window"], described["stride"], described["crops"]) == (WINDOW, STRIDE, 1)
        assert described["files"] == [f"{name}.npz"]


def test_from_python_they_are_the_same(folder, tmp_path):
    run(folder, output=tmp_path)
    network = i3d_jax.load(folder / "rgb")
    expected = vectors(tmp_path / "long.npz")["features"]
    path = folder / "videos" / "long.mkv"
    np.testing.assert_array_equal(network.features(path, window=WINDOW, stride=STRIDE), expected)
    frames = sliding(30, right=2, down=-1, seed=30)
    np.testing.assert_array_equal(network.features(frames, window=WINDOW, stride=STRIDE), expected)
    block = network.features(path, window=WINDOW, stride=STRIDE, endpoint="Mixed_3c", pooled=False)
    assert block.shape == (6, 5, 4, 4, 30)
    with pytest.raises(UserError, match=r"no endpoint 'Mixed_3d' \(did you mean 'Mixed_3[bc]'\?\); it has Conv3d"):
        network.features(path, window=WINDOW, stride=STRIDE, endpoint="Mixed_3d")
    with pytest.raises(UserError, match=r"it has 30 frames, and a window has 64"):
        network.features(path)
    with pytest.raises(UserError, match=r"frames uint8 \[T, H, W, 3\] were expected, found float32"):
        network.features(frames.astype(np.float32))


@pytest.mark.parametrize(
    ("frames", "window", "stride", "windows"),
    [(15, 16, 4, 0), (16, 16, 4, 1), (17, 16, 4, 1), (20, 16, 4, 2), (5094, 16, 4, 1270), (250, 64, 16, 12)],
)
def test_how_many_windows_there_are(folder, frames, window, stride, windows):
    _, _, metadata = checkpoint.load(folder / "rgb")
    view = View.of_checkpoint(metadata["preprocessing"], streams=("rgb",), where="rgb")
    places = list(Sliding(window, stride).places([view], frames))
    assert len(places) == windows
    for number, place in enumerate(places):
        assert (place.first, place.after) == (number * stride, number * stride + window)
        np.testing.assert_array_equal(place.numbers[0]["rgb"], np.arange(place.first, place.after))


def test_the_frame_rate_is_that_of_the_training(folder, tmp_path):
    shutil.copytree(folder / "rgb", tmp_path / "slow")
    change = checkpoint.Description.read(tmp_path / "slow")
    slower = {**change.preprocessing, "frame_rate": 12.5}
    dataclasses.replace(change, preprocessing=slower).write(tmp_path / "slow")
    run(folder, output=tmp_path / "out", checkpoints=(str(tmp_path / "slow"),))
    found = json.loads((tmp_path / "out" / "long.json").read_text())
    assert (found["frames"], found["frame_rate"], found["shape"]) == (15, 12.5, [2, 30])
    run(folder, "--frame_rate", "25", output=tmp_path / "25", checkpoints=(str(tmp_path / "slow"),))
    assert json.loads((tmp_path / "25" / "long.json").read_text())["frames"] == 30


def test_two_streams_stand_side_by_side(folder, tmp_path):
    for output, checkpoints in (("rgb", ("rgb",)), ("flow", ("flow",)), ("both", ("rgb", "flow"))):
        assert run(folder, output=tmp_path / output, checkpoints=checkpoints) == 0
    for name in ("long", "short"):
        rgb, flow, both = (vectors(tmp_path / own / f"{name}.npz")["features"] for own in ("rgb", "flow", "both"))
        assert not np.array_equal(rgb, flow)
        np.testing.assert_array_equal(both, np.concatenate([rgb, flow], axis=1))
    with pytest.raises(UserError, match=r"--flow_checkpoint: .* a network of flow alone was expected"):
        run(folder, output=tmp_path / "wrong", checkpoints=("rgb", "rgb"))


def test_shares_are_the_whole_and_nothing_is_made_twice(folder, tmp_path, capsys):
    run(folder, output=tmp_path / "whole")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    for first in (0, 1):
        output = tmp_path / f"from {first}"
        for number in (first, first + 1):
            run(folder, "--shard", f"{number}/2", output=output)
        assert {path.name: path.read_bytes() for path in output.iterdir()} == whole
    times = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    (output / "long.json").unlink()
    # As a command leaves them that is killed while it writes.
    (output / "long.npz.tmp-123").write_bytes(b"half")
    (output / "another.npz.tmp-123").write_bytes(b"of another share")
    capsys.readouterr()
    run(folder, output=output)
    assert "features of 1 video in" in capsys.readouterr().out
    assert {path.name for path, time in times.items() if path.stat().st_mtime_ns != time} == {"long.npz", "long.json"}
    (output / "another.npz.tmp-123").unlink()
    with pytest.raises(UserError, match=r"long\.json is of features with other settings: crops 1 against 3"):
        run(folder, "--crops", "3", output=output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == whole
    for shard in ("3/2", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(UserError, match="--shard must be I/N"):
            run(folder, f"--shard={shard}", output=tmp_path / "none")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_files_that_programs_expect(folder, tmp_path, monkeypatch, preset):
    """Of 30 frames of 25 a second; with the sizes of the small networks."""
    small = dataclasses.replace(PRESETS[preset], size=PRESETS[preset].size and (68, 48))
    monkeypatch.setitem(PRESETS, preset, small)
    arguments = [str(folder / "videos" / "long.mkv"), "--checkpoint", str(folder / "rgb"), "--preset", preset]
    windows = ["--window", "16"] if small.window > 30 else []
    flow = ["--flow_checkpoint", str(folder / "flow")]
    assert features.main([*arguments, *flow, *windows, "--output", str(tmp_path)]) == 0
    found = {path.name: np.load(path) for path in tmp_path.iterdir() if path.suffix != ".json"}
    channels = 30
    sliding_windows = {"thumos": 4, "anet": 1, "xdviolence": 1, "video_features": 1, "dense": 1}
    if preset == "mstcn":
        expected = {"long.npy": (2 * channels, 30)}
    elif preset == "xdviolence":
        expected = {f"long__{crop}.npy": (1, 2 * channels) for crop in range(5)}
    elif preset == "video_features":
        expected = {"long_rgb.npy": (1, channels), "long_flow.npy": (1, channels)}
        assert found.pop("long_fps.npy") == 25
        np.testing.assert_allclose(found.pop("long_timestamps_ms.npy"), [320])
    elif preset == "dense":
        with found.pop("long.npz") as arrays:
            found["long.npz"] = arrays["features"]
        expected = {"long.npz": (1, 2 * channels)}
    else:
        name = {"thumos": "long.npy", "anet": "v_long.npy"}[preset]
        expected = {name: (sliding_windows[preset], 2 * channels)}
    assert {name: array.shape for name, array in found.items()} == expected


def test_beyond_the_ends_there_is_the_networks_zero(folder, tmp_path):
    """`mstcn`: the vector of frame 0 has ten frames of zeros before it, and none of another frame has all of them."""
    arguments = [str(folder / "videos" / "long.mkv"), "--checkpoint", str(folder / "rgb"), "--preset", "mstcn"]
    features.main([*arguments, "--output", str(tmp_path)])
    found = np.load(tmp_path / "long.npy").T
    frames = i3d_jax.load(folder / "rgb").features(
        sliding(30, right=2, down=-1, seed=30), window=21, stride=1, endpoint="", pooled=True
    )
    np.testing.assert_allclose(found[10:20], frames, rtol=1e-5, atol=1e-6)
    assert np.abs(found[0] - frames[0]).max() > 1e-3


def test_one_file_for_all(folder, tmp_path, capsys):
    import h5py

    run(folder, output=tmp_path / "npz")
    run(folder, "--format", "h5", output=tmp_path)
    with h5py.File(tmp_path / "features.h5") as file:
        assert set(file) == {"long", "short"}
        for name in file:
            for key, expected in vectors(tmp_path / "npz" / f"{name}.npz").items():
                np.testing.assert_array_equal(file[name][key][:], expected)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    capsys.readouterr()
    run(folder, "--format", "h5", output=tmp_path)
    assert "already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"features\.h5 is of features with other settings: crops"):
        run(folder, "--format", "h5", "--crops", "5", output=tmp_path)


def test_a_prepared_dataset_has_the_same_features(folder, tmp_path):
    rows = "video,label,split\nlong.mkv,left,test\nshort.mkv,right,test\n"
    (tmp_path / "labels.csv").write_text(rows)
    made = ["--annotations", str(tmp_path / "labels.csv"), "--videos", str(folder / "videos")]
    prepare.main([*made, "--output", str(tmp_path / "data"), "--short_side", str(SHORT_SIDE), "--processes", "1"])
    run(folder, output=tmp_path / "videos")
    run(folder, "--dataset", str(tmp_path / "data"), "--split", "test", videos=(), output=tmp_path / "stored")
    for name in ("long", "short"):
        stored, expected = (vectors(tmp_path / own / f"{name}.npz") for own in ("stored", "videos"))
        for key in expected:
            np.testing.assert_array_equal(stored[key], expected[key])
    with pytest.raises(UserError, match="holds frames at 25 a second"):
        run(folder, "--dataset", str(tmp_path / "data"), "--split", "test", "--preset", "thumos", videos=(), output="x")


def test_what_cannot_be_done_is_said_and_the_others_are(folder, tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    write_lossless(videos / "good.mkv", sliding(12, right=1, down=0))
    write_lossless(videos / "few.mkv", sliding(5, right=1, down=0))
    (videos / "text.mp4").write_text("no video")
    assert run(folder, videos=(videos,), output=tmp_path / "out") == 2
    printed = capsys.readouterr()
    few, text = printed.err.splitlines()
    assert "few.mkv is too short for --preset dense: it has 5 frames, and a window has 9" in few
    assert "text.mp4 cannot be read" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.json", "good.npz"]
    (videos / "below").mkdir()
    write_lossless(videos / "below" / "good.mkv", sliding(12, right=1, down=0))
    with pytest.raises(UserError, match=r"good\.mkv and .*good\.mkv would both have the features good"):
        run(folder, videos=(videos,), output=tmp_path / "other")
    with pytest.raises(UserError, match="videos, or --dataset with --split, were expected"):
        run(folder, videos=(), output=tmp_path / "other")


def test_beam_writes_the_same_files(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("apache_beam")
    (tmp_path / "videos").mkdir()
    for number in range(3):
        write_lossless(tmp_path / "videos" / f"{number}.mkv", sliding(12, right=1, down=number, seed=number))
    (tmp_path / "videos" / "bad.mp4").write_text("no video")
    written = []
    for name, more in (("local", ()), ("beam", ("--runner", "direct", "--", "--direct_num_workers=1"))):
        assert run(folder, *more, videos=(tmp_path / "videos",), output=tmp_path / name) == 2
        assert "features of 3 videos in" in capsys.readouterr().out
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    for arguments, words in (
        (("--runner", "nobody"), "--runner must be local or one of Beam's"),
        (("--", "--flag"), "is for a --runner of Beam's, found '--flag' with --runner local"),
    ):
        with pytest.raises(UserError, match=words):
            run(folder, *arguments, output=tmp_path / "none")
