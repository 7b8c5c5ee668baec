"""Folders of a bucket as the commands read and write them, beside the same folders on this machine."""

from __future__ import annotations

import glob
import os
import struct
from fractions import Fraction

import numpy as np
import pytest
from helpers import emulators, studies
from helpers.foreign_sets import build
from helpers.small_dataset import write_dataset

from i3d_jax import convert
from i3d_jax.clips import Sampling
from i3d_jax.data import pipeline
from i3d_jax.data.dataset import open_dataset
from i3d_jax.data.foreign import Stated
from i3d_jax.data.foreign_tfds import open_set
from i3d_jax.data.pipeline import BatchOptions
from i3d_jax.inference import inputs
from i3d_jax.study.page import page_of_study
from i3d_jax.system import bucket_requests, buckets, copies, files
from i3d_jax.system.errors import UserError
from i3d_jax.training.profile import Profile, ProfiledSteps
from i3d_jax.video.decode import check_header
from i3d_jax.video.errors import UnreadableVideo
from i3d_jax.video.write import write_video


@pytest.fixture
def bucket(google_emulator, monkeypatch, tmp_path):
    """A folder of this test alone."""
    emulators.used_by_this_process(monkeypatch, google_emulator)
    return files.path(f"gs://{emulators.BUCKET}/{tmp_path.name} ä")


def test_the_page_of_a_study(bucket, tmp_path):
    copies.upload(studies.leave_study(tmp_path / "study"), bucket / "study")
    ours, theirs = page_of_study(bucket / "study"), page_of_study(tmp_path / "study")
    # With a blank in it, the shell needs quotes around the folder.
    quoted = f"'{bucket}/study/runs/NAME'".replace("'", "&#39;")
    assert quoted in ours
    assert ours.replace(quoted, f"{tmp_path}/study/runs/NAME").replace(str(bucket), str(tmp_path)) == theirs


def test_a_trace(bucket):
    steps = ProfiledSteps(total_steps=3, first_step=2, steps=1)
    said = []
    with Profile(bucket / "profile", steps, first_step=1, say=said.append) as profile:
        step = profile.around(lambda: 0)
        for _ in range(3):
            step()
    assert said == [f"a trace of the steps from 2 to 2 is in {bucket}/profile"]
    found = {one.suffix for one in (bucket / "profile" / "plugins" / "profile").rglob("*")}
    assert found == {".gz", ".pb"}


def test_a_set_of_tensorflow_datasets(bucket, tmp_path, monkeypatch):
    lengths = [6, 9, 4]
    build(tmp_path / "sets", {"train": lengths})
    write_dataset(tmp_path / "ours", lengths, shards=1)
    copies.upload(tmp_path / "sets", bucket / "sets")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    dataset = open_set("small_videos", str(bucket / "sets"), stated=Stated())
    assert list((tmp_path / "temporary").iterdir()) == []
    assert {place.path.parent for place in dataset.records("train")} == {bucket / "sets" / "small_videos" / "1.0.0"}
    options = BatchOptions(batch_size=3, sampling=Sampling(frames=4), streams=("rgb",), crop=16, max_damaged_share=0.0)
    found, expected = (
        next(pipeline.training_batches(one, "train", options, flip=True, seed=3))
        for one in (dataset, open_dataset(tmp_path / "ours"))
    )
    np.testing.assert_array_equal(found["rgb"], expected["rgb"])
    np.testing.assert_array_equal(found["label"], expected["label"])
    with pytest.raises(UserError, match=r"sets holds no set 'small_vido', .* .did you mean 'small_videos'"):
        open_set("small_vido", str(bucket / "sets"), stated=Stated())


NAMES = ("a.mp4", ".b.mp4", "c/a.mp4", "c/.d/a.mp4", "c/e/a.mp4", "c/e/f/a.mp4", "c/e/f/b.avi", "[g]/a.mp4")
PATTERNS = (
    "*.mp4",
    "**",
    "**/*.mp4",
    "c/**",
    "c/**/a.*",
    "c/**/f/**/*",
    "*/*.mp4",
    "*/**",
    "**/.*",
    "c/.d/*",
    "*/e/**",
)
PATTERNS += ("[[]g]/*", "c/a**", "**/e/a.mp4", "**/**/b.*")


@pytest.fixture
def tree(bucket, tmp_path):
    """Files of this machine and of the bucket, of the same names."""
    for name in NAMES:
        files.make_folder((tmp_path / "tree" / name).parent)
        (tmp_path / "tree" / name).write_text(name)
    copies.upload(tmp_path / "tree", bucket / "tree")
    return tmp_path / "tree", bucket / "tree"


def test_a_pattern_finds_what_it_finds_on_the_disk(tree):
    ours, theirs = [], []
    for pattern in PATTERNS:
        # Twice: zero folders are found in two ways.
        found = set(filter(os.path.isfile, glob.glob(f"{glob.escape(str(tree[0]))}/{pattern}", recursive=True)))
        theirs.append((pattern, sorted(one.removeprefix(str(tree[0])) for one in found)))
        ours.append((pattern, [one.removeprefix(str(tree[1])) for one in files.matching(f"{tree[1]}/{pattern}")]))
    assert ours == theirs
    assert all(found for _, found in theirs)
    assert len(inputs.video_paths([f"{tree[1]}/**/*.mp4"])) == 5


def test_a_header_is_read_without_a_copy(bucket, tmp_path, monkeypatch):
    write_video(tmp_path / "whole.mp4", np.zeros((5, 32, 32, 3), np.uint8), Fraction(25))
    free = 30_000_000
    (tmp_path / "long.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes() + struct.pack(">I4s", free, b"free"))
    os.truncate(tmp_path / "long.mp4", (tmp_path / "whole.mp4").stat().st_size + free)
    for name, content in (("empty.mp4", b""), ("text.mp4", b"no video"), ("list.mp4", b"#EXTM3U\nwhole.mp4\n")):
        (tmp_path / name).write_bytes(content)
    read = []
    read_version = bucket_requests.read_version

    def counted(*arguments):
        found = read_version(*arguments)
        read.append(len(found))
        return found

    monkeypatch.setattr(buckets, "read_version", counted)
    monkeypatch.setattr(buckets.BucketPath, "download", None)
    for path in sorted(tmp_path.glob("*.mp4")):
        (bucket / path.name).upload(path)
        told = []
        for place in (path, bucket / path.name):
            try:
                check_header(place)
                told.append("a video")
            except UnreadableVideo as error:
                told.append(str(error))
        assert told[0] == told[1], path.name
        assert (told[0] == "a video") == (path.stem in ("whole", "long"))
    with pytest.raises(UnreadableVideo, match="it ends before the piece starts at 9 s"):
        check_header(bucket / "whole.mp4", start=9)
    assert sum(read) < free / 2


def test_what_is_fetched_is_not_kept_in_a_bucket(bucket):
    words = ["--pretrained", "rgb_imagenet", "--cache", str(bucket), "--output", str(bucket / "network")]
    with pytest.raises(UserError, match=f"--cache: a path on this machine was expected, found {bucket}"):
        convert.main(words)


def test_copies_of_what_is_named_alike(bucket, tmp_path):
    for name in ("model.index", "model.data-00000-of-00001", "model-other.index", "labels.txt"):
        (bucket / name).write_text(name)
    assert copies.copied_like(bucket / "model", tmp_path, beside="*.txt") == tmp_path / "model"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["labels.txt", "model.data-00000-of-00001", "model.index"]


def test_a_lock_that_is_renewed_while_it_is_looked_at_is_there(bucket, monkeypatch):
    """A look is two requests: what the first one tells of may be replaced before the second."""
    path = bucket / "lock"
    tag = bucket_requests.write_if(path, b"one", None)
    system = bucket_requests.filesystem("gs")
    call, renewals = system.call, iter([tag])

    def renewed_after(*arguments, **options):
        answer = call(*arguments, **options)
        for one in renewals:
            bucket_requests.write_if(path, b"two", one)
        return answer

    monkeypatch.setattr(system, "call", renewed_after)
    assert bucket_requests.version_of(path).content == b"two"
