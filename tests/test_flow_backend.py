"""Who computes flow: batches of pairs on JAX, the choice by what the machine has, and that only workers start JAX."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.flow_videos import arguments, files, run, write_videos
from helpers.moving_pictures import sliding

import i3d_jax.flow
from i3d_jax.clips import Sampling
from i3d_jax.data import pipeline
from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.pipeline import BatchOptions
from i3d_jax.flow import codec
from i3d_jax.records import image
from i3d_jax.system.errors import UserError
from i3d_jax.video import fields as flow_module
from i3d_jax.video import tvl1_backends
from i3d_jax.video.backend_choice import Choice, choose
from i3d_jax.video.fields import FieldEncoder
from i3d_jax.video.tvl1_backends import Jax, OpenCV
from i3d_jax.video.windows import read_windows

ROOT = Path(__file__).parents[1]
# Frames of 16 pixels have a pyramid of one scale, which compiles in seconds.
SIDE = 16
FLOW = ("--flow", "tvl1", "--flow_backend", "jax", "--short_side", str(SIDE))


@pytest.fixture
def difference(monkeypatch):
    """In the place of TV-L1: both components are the difference of the frames. Lists the shapes that it is given."""
    shapes = []

    def tvl1(previous, following, **parameters):
        assert parameters == {"lambda_" if name == "lambda" else name: v for name, v in codec.TVL1_PARAMETERS.items()}
        shapes.append(previous.shape)
        step = following.astype(np.float32) - previous.astype(np.float32)
        return jax.numpy.stack([step, step], -1)

    monkeypatch.setattr(i3d_jax.flow, "tvl1", tvl1)
    return shapes


def grey(value):
    return np.full((4, 5), value, np.uint8)


@pytest.mark.parametrize("count", [1, 3, 7, 31])
def test_pairs_come_back_in_order_from_batches_of_one_size(difference, count):
    backend = Jax(pairs=3)
    values = np.random.default_rng(count).integers(0, 256, count + 1)
    pairs = list(itertools.pairwise(values))
    found = [field for first, second in pairs for field in backend.add(grey(first), grey(second))] + backend.finish()
    assert difference == [(3, 4, 5)] * -(-count // 3)
    assert [field[0, 0].tolist() for field in found] == [[second - first] * 2 for first, second in pairs]
    assert backend.finish() == []


def test_every_device_has_a_batch_while_the_next_is_read(difference):
    """There are four: nothing is waited for before each has one, and a fifth batch stands ready for the first."""
    backend = Jax(pairs=2)
    assert jax.local_device_count() == 4
    returned = [len(backend.add(grey(0), grey(number))) for number in range(12)]
    assert returned == [0] * 9 + [2, 0, 2]
    assert len(backend.finish()) == 8


def encoded(frames, monkeypatch, backend):
    with monkeypatch.context() as patch:
        patch.setattr(flow_module, "BACKENDS", {"one": backend})
        encoder = FieldEncoder("one")
    return [field for frame in frames for field in encoder.add(frame)] + encoder.finish()


def test_a_pairs_place_in_a_batch_does_not_change_a_byte(monkeypatch):
    """Nor do the pairs beside it, nor a frame that repeats, which is not computed; and the flow is OpenCV's."""
    first, second, third, fourth = sliding(4, right=1, down=1)[:, :SIDE, :24]
    frames = [first, first, second, third, third, third, fourth]
    expected = encoded(frames, monkeypatch, lambda: Jax(pairs=2))
    assert len(expected) == 6
    assert expected[0] == expected[3] == expected[4]
    assert encoded([second, third, fourth], monkeypatch, lambda: Jax(pairs=2)) == [expected[2], expected[5]]
    for ours, theirs in zip(expected, encoded(frames, monkeypatch, OpenCV), strict=True):
        difference = image.decode(ours).numpy().astype(int) - image.decode(theirs).numpy()
        assert np.abs(difference).max() <= 1


def test_several_threads_give_opencvs_bytes_in_their_order(monkeypatch):
    frames = [frame for seed in range(3) for frame in sliding(4, right=seed, down=1, seed=seed)[:, :SIDE, :24]]
    frames.insert(5, frames[4])
    expected = encoded(frames, monkeypatch, OpenCV)
    assert len(set(expected)) > 8
    encoder = FieldEncoder("opencv", threads=3)
    returned = [encoder.add(frame) for frame in frames]
    # No more than two frames a thread wait for their flow.
    assert sum(map(len, returned)) == len(frames) - 1 - 6
    assert [field for fields in returned for field in fields] + encoder.finish() == expected


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), 4)


@pytest.fixture(scope="module")
def dataset(videos, tmp_path_factory):
    return open_dataset(run(videos, tmp_path_factory.mktemp("dataset") / "flow", *FLOW))


def test_windows_of_a_file_are_those_of_the_dataset(videos, dataset):
    sampling = {"frames": 2, "stride": 1, "flow_per_frame": 1}
    options = BatchOptions(
        batch_size=4, sampling=Sampling(**sampling), streams=("flow",), crop=SIDE, max_damaged_share=0.0
    )
    (batch,) = pipeline.evaluation_batches(dataset, "test", options, windows=1)
    fields = {**dataset.preprocessing.to_json(), **sampling, "crop": SIDE, "windows": 1}
    found = read_windows(videos / "1.mkv", fields, streams=("flow",), where="the checkpoint")
    np.testing.assert_array_equal(found["flow"], batch["flow"][list(batch["video"]).index("1.mkv")])
    other = {**fields, "flow": {**fields["flow"], "implementation": "farneback"}}
    message = "the checkpoint: flow by one of opencv, i3d_jax can be computed here, .* that by 'farneback'"
    with pytest.raises(UserError, match=message):
        read_windows(videos / "1.mkv", other, streams=("flow",), where="the checkpoint")


# Even a single one: a crash would otherwise end the run, and on a TPU the workers could not start.
PARENT = """
import sys
from i3d_jax import prepare

if __name__ == "__main__":
    prepare.main(sys.argv[1:])
    from jax._src import xla_bridge
    assert not xla_bridge.backends_are_initialized()
"""


def test_only_workers_start_jax(videos, dataset, tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    """Two processes write the bytes of one."""
    assert dataset.preprocessing.flow == tvl1_backends.description("i3d_jax")
    options = arguments(videos, tmp_path / "dataset", *FLOW, "--processes", "2")
    done = subprocess.run(
        [sys.executable, tmp_path / "parent.py", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "dataset") == files(dataset.directory)
    assert "flow by JAX on the CPU: as asked for; without an accelerator" in done.stderr


def test_what_is_chosen_without_an_accelerator(monkeypatch):
    assert choose("auto") == Choice(implementation="opencv", platform="cpu", reason="this machine has no accelerator")
    assert (choose("jax").implementation, choose("jax").platform) == ("i3d_jax", "cpu")
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    assert choose("auto").implementation == "opencv"
    assert "JAX cannot start: " in choose("auto").reason
    with pytest.raises(UserError, match=r"--flow_backend jax needs JAX, which cannot start here: .*abacus"):
        choose("jax")


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_what_is_chosen_with_an_accelerator(monkeypatch, tmp_path, platform):
    """A JAX that says so stands in for the machine."""
    (tmp_path / "jax.py").write_text(f"default_backend = lambda: {platform!r}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for backend in ("auto", "jax"):
        choice = choose(backend)
        assert (choice.implementation, choice.platform) == ("i3d_jax", platform)
        assert choice.reason == f"this machine has a {platform.upper()}"
    assert choose("opencv").implementation == "opencv"


@pytest.mark.parametrize(
    ("platform", "asked", "processes"),
    [("cpu", None, 16), ("cpu", 3, 3), ("gpu", None, 4), ("gpu", 9, 9), ("tpu", None, 1), ("tpu", 1, 1)],
)
def test_how_many_processes(platform, asked, processes):
    choice = Choice(implementation="i3d_jax", platform=platform, reason="")
    assert choice.processes(asked, cores=16) == processes
    assert Choice(implementation="i3d_jax", platform="gpu", reason="").processes(None, cores=2) == 2
    with pytest.raises(UserError, match="a TPU serves one process: --processes 1 was expected, found 2"):
        Choice(implementation="i3d_jax", platform="tpu", reason="").processes(2, cores=16)
