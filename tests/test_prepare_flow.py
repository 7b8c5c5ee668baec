"""`prepare --flow tvl1`, from video files to batches and to `predict`'s windows."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from helpers.moving_pictures import HEIGHT, WIDTH, sliding, write_lossless

from i3d_jax import prepare
from i3d_jax.clips import Sampling
from i3d_jax.data import pipeline
from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.pipeline import BatchOptions
from i3d_jax.flow import codec
from i3d_jax.system.errors import UserError
from i3d_jax.video import pictures
from i3d_jax.video.tvl1_backends import OpenCV, description
from i3d_jax.video.windows import read_windows

FRAMES = {"short.mkv": 4, "one.mkv": 1, "fast.mkv": 9, "slow.mkv": 7}
MOTIONS = {"short.mkv": (0, 0), "one.mkv": (0, 0), "fast.mkv": (3, 2), "slow.mkv": (-1, 0)}
SAMPLING = Sampling(frames=2, stride=2, flow_per_frame=2)
CROP = 32
BACKEND = ("--flow_backend", "opencv")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed, (name, frames) in enumerate(FRAMES.items()):
        right, down = MOTIONS[name]
        write_lossless(folder / name, sliding(frames, right=right, down=down, seed=seed))
    rows = [f"{name},slide,train" for name in FRAMES]
    (folder / "labels.csv").write_text("\n".join(["video,label,split", *rows]))
    return folder


def run(videos, directory, *more):
    arguments = ["--annotations", str(videos / "labels.csv"), "--videos", str(videos), "--output", str(directory)]
    prepare.main([*arguments, "--short_side", str(HEIGHT), "--name", "slides", "--shards", "2", *BACKEND, *more])
    return open_dataset(directory)


@pytest.fixture(scope="module")
def dataset(videos, tmp_path_factory):
    directory = tmp_path_factory.mktemp("dataset") / "flow"
    return run(videos, directory, "--flow", "tvl1", "--processes", "1")


@pytest.fixture(scope="module")
def plain(videos, tmp_path_factory):
    return run(videos, tmp_path_factory.mktemp("dataset") / "plain", "--processes", "1")


def options(*streams, sampling=SAMPLING, batch_size=3):
    return BatchOptions(batch_size=batch_size, sampling=sampling, streams=streams, crop=CROP, max_damaged_share=0.0)


def evaluated(dataset, *streams, windows=2):
    (batch,) = pipeline.evaluation_batches(dataset, "train", options(*streams), windows=windows)
    return {name: {key: batch[key][row] for key in streams} for row, name in enumerate(batch["video"])}


def files(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_dataset_says_how_its_flow_was_made(dataset, plain):
    assert dataset.preprocessing.flow == description()
    stored = json.loads((dataset.directory / "dataset.json").read_text())["preprocessing"]
    assert stored == {**plain.preprocessing.to_json(), "flow": description()}
    assert plain.preprocessing.flow is None


def test_a_video_of_one_frame_has_no_flow(dataset, plain):
    assert plain.splits["train"].videos == 4
    assert (dataset.splits["train"].videos, dataset.splits["train"].skipped) == (3, 1)
    assert list(csv.reader((dataset.directory / "skipped.csv").open()))[1:] == [
        ["one.mkv", "it has one frame, and flow needs two", "train"]
    ]


def test_a_slide_comes_back_through_a_batch(dataset):
    clip = evaluated(dataset, "rgb", "flow")["fast.mkv"]
    found = codec.to_pixels(clip["flow"])
    assert found.shape == (2, 4, CROP, CROP, 2)
    np.testing.assert_allclose(found, np.broadcast_to([3, 2], found.shape), atol=40 / 255)
    # Around frames 1 and 3 of the nine stand the fields 0, 1 and 2, 3; around frames 5 and 7 the last four of eight.
    top, left = (HEIGHT - CROP) // 2, (WIDTH - CROP) // 2
    frames = sliding(9, right=3, down=2, seed=2)[:, top : top + CROP, left : left + CROP].astype(int)
    differences = np.abs(clip["rgb"][:, :, None] - frames).mean((3, 4, 5))
    assert differences.argmin(-1).tolist() == [[1, 3], [5, 7]]


def test_a_mirrored_clip_has_u_negated(dataset):
    sampling = Sampling(frames=8)
    batch = next(
        pipeline.training_batches(
            dataset, "train", options("flow", sampling=sampling, batch_size=12), flip=True, seed=0
        )
    )
    found = codec.to_pixels(batch["flow"][batch["video"] == "fast.mkv"])[:, :, 4:-4, 4:-4].mean((1, 2, 3))
    assert {round(float(u)) for u, _ in found} == {-3, 3}
    np.testing.assert_allclose(np.abs(found), np.broadcast_to([3, 2], found.shape), atol=40 / 255)


def test_frames_are_the_same_with_and_without_flow(dataset, plain):
    with_flow = evaluated(dataset, "rgb")
    (batch,) = pipeline.evaluation_batches(plain, "train", options("rgb", batch_size=4), windows=2)
    without = dict(zip(batch["video"], batch["rgb"], strict=True))
    assert without.keys() - with_flow.keys() == {"one.mkv"}
    for name, streams in with_flow.items():
        np.testing.assert_array_equal(streams["rgb"], without[name])


def test_two_processes_write_the_same_bytes(videos, dataset, tmp_path):
    run(videos, tmp_path / "dataset", "--flow", "tvl1", "--processes", "2")
    assert files(tmp_path / "dataset") == files(dataset.directory)


def test_with_flow_and_without_are_other_datasets(videos, dataset, plain):
    before = files(dataset.directory), files(plain.directory)
    with pytest.raises(UserError, match=r"a dataset made with flow 'tvl1' instead of 'none': choose another --output"):
        run(videos, dataset.directory, "--processes", "1")
    with pytest.raises(UserError, match=r"a dataset made with flow 'none' instead of 'tvl1': choose another --output"):
        run(videos, plain.directory, "--flow", "tvl1", "--processes", "1")
    assert (files(dataset.directory), files(plain.directory)) == before


def checkpoint_preprocessing(dataset, *streams):
    fields = {**dataset.preprocessing.of_streams(streams).to_json(), **dataclasses.asdict(SAMPLING)}
    return {**fields, "crop": CROP, "windows": 2}


@pytest.mark.parametrize("streams", [("rgb",), ("flow",), ("rgb", "flow")])
def test_windows_of_a_file_are_those_of_the_dataset(videos, dataset, streams):
    fields = checkpoint_preprocessing(dataset, *streams)
    for name, expected in evaluated(dataset, *streams).items():
        found = read_windows(videos / name, fields, streams=streams, where="the checkpoint")
        assert found.keys() == expected.keys()
        for stream in streams:
            np.testing.assert_array_equal(found[stream], expected[stream], strict=True)


def test_windows_of_older_checkpoints_are_of_consecutive_frames(videos, plain):
    fields = {**plain.preprocessing.to_json(), "crop": CROP, "frames": 5, "windows": 1}
    found = read_windows(videos / "fast.mkv", fields, streams=("rgb",), where="the checkpoint")
    all_options = options("rgb", sampling=Sampling(frames=5), batch_size=4)
    (batch,) = pipeline.evaluation_batches(plain, "train", all_options, windows=1)
    np.testing.assert_array_equal(found["rgb"], batch["rgb"][list(batch["video"]).index("fast.mkv")])


def test_windows_of_smaller_frames_are_those_of_the_dataset(videos, plain):
    fields = {**checkpoint_preprocessing(plain, "rgb"), "network_short_side": CROP + 1}
    smaller = dataclasses.replace(options("rgb", batch_size=4), network_short_side=CROP + 1)
    (batch,) = pipeline.evaluation_batches(plain, "train", smaller, windows=2)
    (as_stored,) = pipeline.evaluation_batches(plain, "train", options("rgb", batch_size=4), windows=2)
    assert not np.array_equal(as_stored["rgb"], batch["rgb"])
    for name, expected in zip(batch["video"], batch["rgb"], strict=True):
        found = read_windows(videos / name, fields, streams=("rgb",), where="the checkpoint")
        np.testing.assert_array_equal(found["rgb"], expected, strict=True)


@pytest.fixture
def computed(monkeypatch):
    """How many frames become JPEG, and how many fields are computed."""
    counts = {"rgb": 0, "flow": 0}

    def counting(kind, function):
        def counted(*arguments):
            counts[kind] += 1
            return function(*arguments)

        return counted

    monkeypatch.setattr(pictures, "jpeg", counting("rgb", pictures.jpeg))
    monkeypatch.setattr(OpenCV, "add", counting("flow", OpenCV.add))
    return counts


@pytest.mark.parametrize(("windows", "frames"), [(1, [1, 3]), (2, [1, 3, 26, 28])])
def test_nothing_is_encoded_that_no_window_holds(dataset, tmp_path, computed, windows, frames):
    """Of a video of 30 frames: the windows of 2 frames have four fields each, and the second ends at the last field."""
    pictures = sliding(30, right=1, down=1, seed=5)
    write_lossless(tmp_path / "long.mkv", pictures)
    preprocessing = {**checkpoint_preprocessing(dataset, "rgb", "flow"), "windows": windows}
    found = read_windows(tmp_path / "long.mkv", preprocessing, streams=("rgb", "flow"), where="the checkpoint")
    assert computed == {"rgb": len(frames), "flow": 4 * windows}
    top, left = (HEIGHT - CROP) // 2, (WIDTH - CROP) // 2
    cropped = pictures[:, top : top + CROP, left : left + CROP].astype(int)
    differences = np.abs(found["rgb"].reshape(-1, 1, CROP, CROP, 3) - cropped).mean((2, 3, 4))
    assert differences.argmin(-1).tolist() == frames
    moved = codec.to_pixels(found["flow"])
    np.testing.assert_allclose(moved, np.broadcast_to([1, 1], moved.shape), atol=40 / 255)


@pytest.mark.parametrize(
    ("name", "frames", "words"),
    [
        ("short.mkv", 16, []),
        ("short.mkv", 17, ["warning: its 4 frames are repeated to fill a window of 17, so the scores tell little"]),
        ("one.mkv", 5, ["warning: its only frame is repeated to fill a window of 5, so the scores tell little"]),
    ],
)
def test_a_video_of_few_frames_is_warned_of(videos, plain, name, frames, words):
    fields = {**plain.preprocessing.to_json(), "crop": CROP, "frames": frames, "windows": 1}
    notes = []
    read_windows(videos / name, fields, streams=("rgb",), where="the checkpoint", note=notes.append)
    assert notes == words


def test_one_window_is_read_no_further_than_it_goes(plain, tmp_path):
    """The file is cut off behind it; several windows, which reach to the end, need all of it."""
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    write_lossless(whole, sliding(100, right=1, down=0, seed=6))
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    one = {**checkpoint_preprocessing(plain, "rgb"), "windows": 1}
    found, expected = (read_windows(path, one, streams=("rgb",), where="the checkpoint") for path in (cut, whole))
    np.testing.assert_array_equal(found["rgb"], expected["rgb"], strict=True)
    with pytest.raises(UserError, match=r"of the 4\.0 s that the file states"):
        read_windows(cut, {**one, "windows": 2}, streams=("rgb",), where="the checkpoint")
    too_many = {**one, "windows": 9999, "frames": 500}
    with pytest.raises(UserError, match="9999 windows of 500 frames of 32x32 pixels, which take 14646 MiB for a video"):
        read_windows(whole, too_many, streams=("rgb",), where="the checkpoint")


def test_windows_that_cannot_be_made(videos, dataset, plain):
    flow = checkpoint_preprocessing(dataset, "flow")

    def read(fields, name="fast.mkv", streams=("flow",)):
        return read_windows(videos / name, fields, streams=streams, where="the checkpoint")

    other = {**flow, "flow": {**flow["flow"], "version": "4.1", "tau": 0.1}}
    with pytest.raises(
        UserError, match=r"the checkpoint was trained on .* flow\.version '4\.1' against .*flow\.tau 0\.1"
    ):
        read(other)
    with pytest.raises(UserError, match="the checkpoint: 'preprocessing' lacks flow"):
        read(checkpoint_preprocessing(plain, "flow"))
    with pytest.raises(UserError, match="the checkpoint: 'preprocessing' lacks crop, windows"):
        read({key: value for key, value in flow.items() if key not in ("crop", "windows")})
    with pytest.raises(UserError, match=r"one\.mkv cannot be read: it has one frame, and flow needs two"):
        read(flow, "one.mkv")
    with pytest.raises(UserError, match=r"there is no video .*none\.mkv': no such file"):
        read(flow, "none.mkv")
    with pytest.raises(UserError, match=r"there is no video .*: it is a folder"):
        read(flow, "")
    rgb = checkpoint_preprocessing(plain, "rgb")
    for short_side in (0, "20", CROP - 1):
        with pytest.raises(UserError, match=r"the checkpoint: 'preprocessing' has the network_short_side"):
            read({**rgb, "network_short_side": short_side}, streams=("rgb",))
    for name, value in (("windows", 0), ("frames", "five"), ("crop", None), ("stride", 1.5)):
        with pytest.raises(UserError, match=f"has the {name} {value!r}, a whole number was expected"):
            read({**flow, name: value})


def test_a_backend_without_flow_is_told(videos, tmp_path, capsys):
    run(videos, tmp_path / "dataset", "--processes", "1")
    assert "no flow is computed: --flow_backend goes with --flow tvl1" in capsys.readouterr().err
