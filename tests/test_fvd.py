"""Fréchet Video Distance from files and arrays to the number, by a narrow network with random weights."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from helpers.small_checkpoints import save_stream
from helpers.small_dataset import pixels, write_dataset

import i3d_jax
from i3d_jax.evaluation.frechet import frechet_distance
from i3d_jax.fvd import distance
from i3d_jax.fvd.__main__ import main
from i3d_jax.fvd.options import Options
from i3d_jax.system.errors import UserError
from i3d_jax.video.write import write_video

VIDEOS, FRAMES = 4, 12
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same real videos in every form, and generated ones."""
    folder = tmp_path_factory.mktemp("fvd")
    save_stream(folder / "network", stream="rgb")
    real = np.stack([pixels(video, FRAMES) for video in range(VIDEOS)])
    np.save(folder / "real.npy", real)
    np.savez(folder / "real.npz", real)
    np.savez_compressed(folder / "compressed.npz", real)
    np.save(folder / "generated.npy", np.stack([pixels(video + 50, FRAMES) for video in range(VIDEOS)]) // 2)
    for number, frames in enumerate(real):
        # In the order of the names' letters, 10 comes before 2.
        (folder / "videos" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        path = folder / "videos" / f"class{number % 2}" / f"{2 * number + 1}.mkv"
        write_video(path, frames, 25, codec="ffv1", pixel_format="bgr0")
        (folder / "images" / f"video{number}").mkdir(parents=True)
        for index, frame in enumerate(frames):
            cv2.imwrite(str(folder / "images" / f"video{number}" / f"frame_{index}.png"), frame[..., ::-1])
    (folder / "images" / "video0" / "notes.txt").write_text("no image")
    write_dataset(folder / "dataset", [FRAMES] * VIDEOS)
    return folder


def arguments(folder, *more, network="network"):
    words = [str(folder / word) if isinstance(word, Path) else str(word) for word in more]
    known = [] if network is None else ["--checkpoint", str(folder / network), "--allow_checkpoint"]
    return [*words, *known, "--frames", "9", "--batch_size", "4", "--format", "json"]


def measured(capsys, folder, *more, **options):
    capsys.readouterr()
    main(arguments(folder, *more, **options))
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def generated(folder):
    """The statistics of the generated ones."""
    main(arguments(folder, Path("generated.npy"), "--save_statistics", folder / "statistics.npz"))
    return Path("statistics.npz")


@pytest.fixture(scope="module")
def usual(folder):
    """The distance of the arrays, in one batch."""
    real, generated = (np.load(folder / name) for name in ("real.npy", "generated.npy"))
    return i3d_jax.fvd(real, generated, network=folder / "network", allow_checkpoint=True, frames=9, batch_size=4)


@pytest.mark.parametrize(
    "form", ["real.npy", "real.npz", "compressed.npz", "videos", "images", "dataset", "dataset:train"]
)
def test_a_set_may_come_in_any_form(folder, generated, usual, capsys, form):
    found = measured(capsys, folder, Path(form), generated)
    assert found["fvd"] == pytest.approx(usual.fvd, rel=1e-6)
    assert usual.fvd > 1e-4
    assert found["videos"] == {"real": VIDEOS, "generated": VIDEOS}


def test_it_says_what_it_is(folder, usual, capsys):
    found = measured(capsys, folder, Path("real.npy"), Path("generated.npy"))
    assert {name: found[name] for name in ("protocol", "frames", "stride", "clips", "layer", "ddof", "checkpoint")} == {
        **{"protocol": "reference", "frames": 9, "stride": 1, "clips": "first", "layer": "Logits", "ddof": 1},
        "checkpoint": None,
    }
    assert len(found["crc32c"]) == 8
    assert found["bootstrap_interval_95"]["low"] <= found["fvd"] <= found["bootstrap_interval_95"]["high"]
    words = " ".join(found["warnings"])
    assert "4 videos on one side: of fewer than 2048" in words
    assert "the network is none of the published networks, not rgb_scratch" in words
    main([*arguments(folder, Path("real.npy"), Path("generated.npy"))[:-1], "text"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"FVD {usual.fvd:.6g}  (95% interval")
    assert "  resize     224x224 whatever the aspect, bilinear, TensorFlow 1's corners" in lines
    assert sum(line.startswith("warning: ") for line in lines) == 2


def test_batches_and_devices_change_nothing(folder, usual):
    real, generated = (np.load(folder / name) for name in ("real.npy", "generated.npy"))
    for size, devices in ((1, 1), (8, 1)):
        options = Options(frames=9, batch_size=size)
        network = distance.networks.open_network(folder / "network", allow_checkpoint=True)
        both = [
            distance.statistics_of(
                distance.opened(source, options),
                options,
                network,
                side="real",
                name="",
                devices=jax.devices()[:devices],
            )
            for source in (real, generated)
        ]
        found = frechet_distance(both[0].features, both[1].features)
        assert found == pytest.approx(usual.fvd, rel=1e-6)


def test_shards_are_merged(folder, generated, usual, tmp_path, capsys):
    for shard in ("2/2", "1/2"):
        output = tmp_path / "shards" / f"{shard[0]}.npz"
        main(arguments(folder, Path("videos"), "--shard", shard, "--save_statistics", output))
    assert "2 of 4 videos" in capsys.readouterr().out
    found = measured(capsys, folder, tmp_path / "shards", generated)
    assert found["fvd"] == pytest.approx(usual.fvd, rel=1e-6)
    with pytest.raises(UserError, match="is the shard 0/2 of a set: a folder of all its shards' files was expected"):
        main(arguments(folder, tmp_path / "shards" / "2.npz", generated))
    (tmp_path / "one").mkdir()
    shutil.copy(tmp_path / "shards" / "1.npz", tmp_path / "one")
    with pytest.raises(UserError, match="the shards 0/2 to 1/2 of a set were expected, each once, found 1/2"):
        main(arguments(folder, tmp_path / "one", generated))


def test_statistics_take_the_place_of_videos_and_network(folder, usual, tmp_path, capsys):
    for name in ("real", "generated"):
        main(arguments(folder, Path(f"{name}.npy"), "--save_statistics", tmp_path / f"{name}.npz"))
    found = measured(capsys, folder, tmp_path / "real.npz", tmp_path / "generated.npz", network=None)
    assert found["fvd"] == pytest.approx(usual.fvd, rel=1e-9)
    with np.load(tmp_path / "real.npz", allow_pickle=False) as arrays:
        expected = np.cov(arrays["features"].astype(np.float64), rowvar=False) * (VIDEOS - 1)
        np.testing.assert_allclose(arrays["scatter"], expected, rtol=1e-9, atol=1e-15)
        shown = dict(arrays)
    with pytest.raises(UserError, match="what was asked for cannot be compared: protocol 'reference' against 'cdfvd'"):
        main(arguments(folder, tmp_path / "real.npz", Path("generated.npy"), "--protocol", "cdfvd", "--videos", 2))
    with pytest.raises(UserError, match="frames 9 against 12"):
        main([*arguments(folder, tmp_path / "real.npz", Path("generated.npy")), "--frames", "12"])
    with pytest.raises(UserError, match=r"generated.npy is no saved statistics: --checkpoint"):
        main(arguments(folder, tmp_path / "real.npz", Path("generated.npy"), network=None))
    save_stream(tmp_path / "other", stream="rgb", labels=("left", "right"))
    with pytest.raises(UserError, match=r"real.npz and the network .*other cannot .*: crc32c '\w+' against '\w+'"):
        main(arguments(folder, tmp_path / "real.npz", Path("generated.npy"), network=tmp_path / "other"))
    mean = shown["mean"]
    for altered in (mean + 1, mean[1:], mean.astype(str), mean.astype(bytes), mean.view([("a", mean.dtype)])):
        np.savez(tmp_path / "real.npz", **{**shown, "mean": altered})
        with pytest.raises(UserError, match="its mean is not that of its features"):
            main(arguments(folder, tmp_path / "real.npz", tmp_path / "generated.npz", network=None))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format_version", 2, "statistics of format version 1 were expected"),
        ("protocol", "mine", "the protocol must be one of"),
        ("seed", "one", "'seed' was expected to be a whole number, found 'one'"),
        ("shard", [1, 1], r"'shard' was expected to be two whole numbers, found \[1, 1\]"),
        ("facts", {"sizes": {"8x8": 0}}, "'facts' of a set were expected"),
        ("crc32c", "absent", "lacks crc32c"),
        ("layer", "features", "cannot be compared: layer 'features' against 'Logits'"),
    ],
)
def test_statistics_that_somebody_else_wrote(folder, generated, tmp_path, key, value, words):
    with np.load(folder / generated) as arrays:
        arrays = dict(arrays)
    description = json.loads(str(arrays["description"])) | {key: value}
    arrays["description"] = np.array(json.dumps({name: one for name, one in description.items() if one != "absent"}))
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=words):
        main(arguments(folder, tmp_path / "bad.npz", generated))


def test_several_sets_are_ranked(folder, usual, capsys):
    more = ("--compare", Path("real.npz"), Path("images"))
    found = measured(capsys, folder, Path("real.npy"), Path("generated.npy"), *more)
    assert found["fvd"] == pytest.approx(usual.fvd, rel=1e-6)
    assert [Path(one["generated"]).name for one in found["ranking"]][2] == "generated.npy"
    assert [one["fvd"] < 1e-9 for one in found["ranking"]] == [True, True, False]
    main([*arguments(folder, Path("real.npy"), Path("generated.npy"), *more)[:-1], "text"])
    ranks = [line for line in capsys.readouterr().out.splitlines() if " FVD " in line]
    assert [line[:6] for line in ranks] == ["1. FVD", "2. FVD", "3. FVD"]


def test_repeats_draw_anew(folder, capsys):
    sets = (Path("real.npy"), Path("generated.npy"))
    found = measured(capsys, folder, *sets, "--videos", 2, "--repeats", 3, "--seed", 5)
    alone = [measured(capsys, folder, *sets, "--videos", 2, "--seed", seed)["fvd"] for seed in (5, 6, 7)]
    assert found["repeats"] == pytest.approx(alone)
    assert len(set(found["repeats"])) > 1
    assert found["fvd"] == pytest.approx(np.mean(alone))
    assert found["deviation"] == pytest.approx(np.std(alone, ddof=1))
    with pytest.raises(UserError, match="repeats draw anew"):
        main(arguments(folder, *sets, "--repeats", "2"))


def test_a_small_generated_set_is_gone_through_again_where_the_protocol_does(folder, capsys):
    found = measured(capsys, folder, Path("real.npy"), Path("generated.npy"), "--protocol", "cdfvd", "--videos", 8)
    assert found["videos"] == {"real": 8, "generated": 8}
    assert found["ddof"] == 0
    assert any("generated.npy has 4 videos, which were gone through again up to 8" in one for one in found["warnings"])


def test_sides_that_differ_in_their_files(folder, tmp_path, capsys):
    real = np.load(folder / "real.npy")
    (tmp_path / "others").mkdir()
    for number, frames in enumerate(real):
        write_video(tmp_path / "others" / f"{number}.mp4", frames[:, :16, :16], 10)
    said = " ".join(measured(capsys, folder, Path("videos"), tmp_path / "others")["warnings"])
    assert "the frame size of" in said
    assert f"is 21x18, of {tmp_path / 'others'} 16x16" in said
    assert f"is 25, of {tmp_path / 'others'} 10" in said
    assert f"is ffv1, of {tmp_path / 'others'} h264" in said


def test_sides_of_one_codec_that_are_compressed_more_and_less(folder, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (2, 9, 64, 64, 3), np.uint8)
    for name, videos in (("noise", noise), ("smooth", noise // 255)):
        (tmp_path / name).mkdir()
        for number, frames in enumerate(videos):
            write_video(tmp_path / name / f"{number}.mp4", frames, 10)
    said = " ".join(measured(capsys, folder, tmp_path / "noise", tmp_path / "smooth")["warnings"])
    assert "bits a pixel" in said
    assert "frame" not in said
    assert "bits a pixel" not in " ".join(measured(capsys, folder, tmp_path / "noise", tmp_path / "noise")["warnings"])


# ---- from Python


def test_the_module_is_a_function_and_costs_nothing():
    program = (
        "import sys, types, i3d_jax\n"
        "assert not {'jax', 'tensorflow', 'numpy'} & sys.modules.keys()\n"
        "assert isinstance(i3d_jax.fvd, types.ModuleType) and callable(i3d_jax.fvd)\n"
        "assert 'jax' not in sys.modules\n"
        "try:\n    i3d_jax.fdv\nexcept AttributeError: pass\nelse: raise SystemExit(1)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=60)


def test_batches_floats_and_networks_in_memory(folder, usual):
    real, generated = (np.load(folder / name) for name in ("real.npy", "generated.npy"))
    options = {"network": i3d_jax.load(folder / "network"), "allow_checkpoint": True, "frames": 9, "batch_size": 4}
    kept = i3d_jax.fvd.statistics(iter([real[:3], real[3:]]), **options)
    found = i3d_jax.fvd(kept, (generated[row : row + 1] for row in range(VIDEOS)), **options)
    assert float(found) == pytest.approx(usual.fvd, rel=1e-6)
    floats = generated.astype(np.float32) / 127.5 - 1
    found = i3d_jax.fvd(kept, jax.numpy.asarray(floats), value_range=(-1, 1), **options)
    assert float(found) == pytest.approx(usual.fvd, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda real: real[:1], "2 videos or more were expected, found 1"),
        (lambda real: real[:, :8], "is too short: 9 frames 1 apart need 9, found 8"),
        (lambda real: real[0], r"uint8 \[N, T, H, W, 3\] was expected, found uint8 \[12, 18, 21, 3\]"),
        (lambda real: real.astype(np.int32), "found int32"),
        (lambda real: real[:0], "with frames and pixels were expected"),
        (lambda real: real.astype(np.float32), "video 0 of the array: values of 0 to 1 were expected, found 0 to 255"),
        (lambda real: np.where(real == real[3, 2], np.nan, real / 255.0), "were expected, found NaN"),
        (
            lambda real: [real[:2], real[:2, :10]],
            "batch 1 of real has 10 frames, those before it 12",
        ),
        (lambda real: [], "found an iterable of none"),
        (lambda real: 5, "a path, an array or batches were expected as a set of videos, found int"),
    ],
)
def test_arrays_that_are_no_set(folder, change, words):
    real = np.load(folder / "real.npy")
    frames = "all" if "before it" in words else 9
    options = {"network": folder / "network", "allow_checkpoint": True, "frames": frames, "value_range": (0, 1)}
    with pytest.raises(UserError, match=words):
        i3d_jax.fvd(change(real), real, **options)


# ---- bad files


def bad(name, tmp_path, real):
    """Makes a set that is none, and returns where it is."""
    path = tmp_path / name
    if name == "empty":
        path.mkdir()
    elif name == "floats.npy":
        np.save(path, real / 255)
    elif name == "objects.npy":
        np.save(path, np.array([{}], object), allow_pickle=True)
    elif name == "objects.npz":
        np.savez(path, np.array([{}], object))
    elif name in ("pickle.pkl", "pickle.npz", "pickle.npy"):
        path.write_bytes(pickle.dumps({"mean": real.mean()}))
    elif name == "two.npz":
        np.savez(path, a=real, b=real)
    elif name == "cut.npz":
        np.savez(path, real)
        path.write_bytes(path.read_bytes()[:-100])
    elif name == "cut.npy":
        np.save(path, real)
        path.write_bytes(path.read_bytes()[:-100])
    elif name == "short":
        path.mkdir()
        for number in range(2):
            write_video(path / f"{number}.mkv", real[number, : 12 - 4 * number], 25, codec="ffv1", pixel_format="bgr0")
    elif name == "damaged":
        path.mkdir()
        for number in range(2):
            (path / f"{number}.mp4").write_bytes(b"no video" * number)
    else:
        for number in range(2):
            (path / str(number)).mkdir(parents=True)
            for index in range(9):
                cv2.imwrite(str(path / str(number) / f"{index}.png"), real[0, 0, : 18 - (name == "sizes") * index])
        if name == "no_image":
            (path / "1" / "4.png").write_bytes(b"")
        if name == "mixed":
            shutil.copy(path / "0" / "0.png", path / "a.mp4")
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "holds no videos .* and no folders of images"),
        ("nothing", "a folder of videos or a file of arrays was expected at .*nothing, found nothing"),
        ("floats.npy", r"floats.npy: uint8 \[N, T, H, W, 3\] was expected, found float64"),
        ("objects.npy", "objects.npy cannot be read as an array"),
        ("objects.npz", "objects.npz cannot be read as an array: it holds objects"),
        ("pickle.pkl", "no other file is opened, pickles least of all"),
        ("pickle.npz", "pickle.npz cannot be read as an array"),
        ("pickle.npy", "pickle.npy cannot be read as an array"),
        ("two.npz", r"one array of videos was expected, found 2 \(a, b\)"),
        ("cut.npz", "cut.npz cannot be read as an array"),
        ("cut.npy", "cut.npy cannot be read as an array"),
        ("short", r"the video .*1.mkv is too short: 9 frames 1 apart need 9, found 8"),
        ("damaged", r"the video .*damaged/0.mp4 cannot be read: the file is empty"),
        ("sizes", r"images of one size were expected, found 21x18 and 21x17 \(1.png\)"),
        ("no_image", "4.png: an image was expected, found something else or a damaged one"),
        ("mixed", "holds videos, as a.mp4, and folders of images, as 0: one of the two was expected"),
    ],
)
def test_files_that_are_no_set(folder, tmp_path, name, words):
    path = tmp_path / name if name == "nothing" else bad(name, tmp_path, np.load(folder / "real.npy"))
    with pytest.raises(UserError, match=words):
        main(arguments(folder, path, Path("generated.npy")))


def test_datasets_of_several_splits_are_asked_which(folder, tmp_path):
    write_dataset(tmp_path / "two", [FRAMES] * 2)
    description = json.loads((tmp_path / "two" / "dataset.json").read_text())
    description["combined"] = {"all": ["train"]}
    (tmp_path / "two" / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"several splits: say which, as one of .*two:all, .*two:train"):
        main(arguments(folder, tmp_path / "two", Path("generated.npy")))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "GENERATED was expected"),
        ((Path("real.npy"), "--repeats", "0"), "--repeats must be at least 1"),
        ((Path("real.npy"), "--frames", "8"), "frames must be a whole number from 9 on"),
        ((Path("real.npy"), "--frames", "nine"), "--frames: a whole number or 'all' was expected, found 'nine'"),
        ((Path("real.npy"), "--shard", "0/2"), "--shard goes with REAL alone"),
        (
            ("--save_statistics", "s.npz", "--shard", "2"),
            "--shard must be I/N, .*, found '2'",
        ),
        (("--save_statistics", "s.npz", "--shard", "7/8"), "the shard 7/8 of 4 videos is empty"),
        (("--save_statistics", "s.pkl"), "a file .npz was expected, found s.pkl"),
        (("--save_statistics", "s.npz", "--compare", "x"), "--compare goes with GENERATED"),
        (
            (Path("real.npy"), "--save_statistics", "s.npz", "--repeats", "2"),
            "--repeats goes with no --save_statistics",
        ),
        ((Path("real.npy"), "--videos", "7"), "7 videos were asked of it, and it has 4"),
    ],
)
def test_arguments_that_do_not_go_together(folder, tmp_path, monkeypatch, more, words):
    monkeypatch.chdir(tmp_path)
    begin = arguments(folder, Path("real.npy"), *more)
    given = begin if "--frames" not in more else begin[: begin.index("--checkpoint")]
    with pytest.raises(UserError, match=words):
        main(given)
    assert not list(tmp_path.iterdir())


def test_other_networks_are_refused(folder, tmp_path):
    sets = [str(folder / "real.npy"), str(folder / "generated.npy")]
    with pytest.raises(UserError, match=r"network is none of the published networks: .* --allow_checkpoint"):
        main([*sets, "--checkpoint", str(folder / "network")])
    save_stream(tmp_path / "flow", stream="flow", flow={"algorithm": "tvl1", "bound": 20.0})
    with pytest.raises(UserError, match="a network of RGB videos was expected, found one of flow"):
        main([*sets, "--checkpoint", str(tmp_path / "flow"), "--allow_checkpoint"])
    with pytest.raises(UserError, match="a checkpoint directory, or an object with `model` and `variables`"):
        i3d_jax.fvd(*sets, network=3)
