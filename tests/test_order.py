"""The order of the videos in training: a function of the seed and the clip's number, whatever it is."""

from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pytest
from helpers.small_dataset import write_dataset

from experiments import base
from i3d_jax.clips import Sampling
from i3d_jax.data import pipeline
from i3d_jax.data.pipeline import ORDERS, BatchOptions
from i3d_jax.data.reader import VideoOpener
from i3d_jax.run import recipe
from i3d_jax.system.errors import UserError

VIDEOS, SHARDS, TOGETHER = 24, 6, 8
OPTIONS = BatchOptions(batch_size=4, sampling=Sampling(frames=2), streams=("rgb",), crop=16, max_damaged_share=0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", [2] * VIDEOS, shards=SHARDS)


@pytest.fixture(autouse=True)
def few_together(monkeypatch):
    monkeypatch.setattr(pipeline, "SHUFFLED_TOGETHER", TOGETHER)
    pipeline._epoch_order_of_shards.cache_clear()


def clips_of(dataset, order, rows, first_clip=0, seed=0, **changes):
    """The (video, its frames, its crop) of a host's clips."""
    options = dataclasses.replace(OPTIONS, order=order, **changes)
    batches = pipeline.training_batches(dataset, "train", options, flip=True, seed=seed, first_clip=first_clip)
    found = [batches.encoded(row) for row in range(rows)]
    return [(clip.name, clip.streams["rgb"].numbers, clip.crops) for clip in found]


def names_of(clips):
    return [name for name, *_ in clips]


def epochs_of(dataset, order, count=4, seed=0):
    return np.array(names_of(clips_of(dataset, order, count * VIDEOS, seed=seed))).reshape(count, VIDEOS)


@pytest.mark.parametrize("order", ORDERS)
def test_every_video_once_an_epoch_and_each_epoch_in_another_order(dataset, order):
    epochs = epochs_of(dataset, order)
    for epoch in epochs:
        assert sorted(epoch) == sorted(f"video{number}" for number in range(VIDEOS))
    assert len({tuple(epoch) for epoch in (*epochs, *epochs_of(dataset, order, seed=1))}) == 8


@pytest.mark.parametrize("order", ORDERS)
def test_a_run_goes_on_at_any_step_as_if_it_had_not_stopped(dataset, order):
    uninterrupted = clips_of(dataset, order, 2 * VIDEOS)
    for first in range(0, 2 * VIDEOS, 5):
        assert clips_of(dataset, order, 2 * VIDEOS - first, first_clip=first) == uninterrupted[first:]


@pytest.mark.parametrize("order", ORDERS)
def test_hosts_share_the_clips_of_one(dataset, order):
    shares = [clips_of(dataset, order, VIDEOS // 2, host=host, hosts=2) for host in range(2)]
    together = [share[batch : batch + 2] for batch in range(0, VIDEOS // 2, 2) for share in shares]
    assert [clip for some in together for clip in some] == clips_of(dataset, order, VIDEOS)
    assert len({name for share in shares for name in names_of(share)}) == VIDEOS


def test_shards_are_read_one_after_the_other(dataset):
    """Of four videos each, and eight are shuffled together: two shards are at work at a time, and then never again."""
    orders = []
    for epoch in epochs_of(dataset, "shards"):
        shards = [int(name.removeprefix("video")) // 4 for name in epoch]
        together = [shards[start : start + TOGETHER] for start in range(0, VIDEOS, TOGETHER)]
        assert all(len(set(some)) == 2 for some in together)
        assert any(some != sorted(some) for some in together)
        orders.append(tuple(frozenset(some) for some in together))
    assert len(set(orders)) > 1


def test_random_is_the_order_of_before(dataset):
    """As the version without `order` gave it: runs of then go on."""
    [first] = epochs_of(dataset, "random", count=1)
    expected = [18, 4, 21, 10, 11, 2, 22, 6, 23, 3, 20, 8, 0, 16, 12, 19, 13, 7, 5, 17, 14, 9, 1, 15]
    assert first.tolist() == [f"video{number}" for number in expected]


def test_clips_are_read_at_the_same_time(dataset, monkeypatch):
    """As many as are asked for, and no more: each reading waits until so many are at it."""
    opened = VideoOpener.open
    together, lock = threading.Barrier(12), threading.Lock()
    reading, most = 0, 0

    def slow(self, place):
        nonlocal reading, most
        with lock:
            reading += 1
            most = max(most, reading)
        together.wait(60)
        with lock:
            reading -= 1
        return opened(self, place)

    monkeypatch.setattr(VideoOpener, "open", slow)
    options = dataclasses.replace(OPTIONS, batch_size=24, parallel_reads=12)
    [batch] = pipeline.evaluation_batches(dataset, "train", options, windows=1)
    assert batch["mask"].all()
    assert most == 12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"order": "shard"}, "order must be random or shards, found 'shard' (did you mean 'shards'?)"),
        ({"parallel_reads": 0}, "parallel_reads must be 1 to 1024, found 0"),
        ({"parallel_reads": 10_000}, "parallel_reads must be 1 to 1024, found 10000"),
    ],
)
def test_values_out_of_range(change, words):
    with pytest.raises(UserError) as error:
        dataclasses.replace(OPTIONS, **change)
    assert str(error.value) == words


def test_runs_go_on_with_other_reads_and_not_in_another_order(tmp_path):
    before = json.loads(base.get_config("i3d").to_json())
    # Of the time before there were the two keys.
    del before["data"]["order"], before["data"]["parallel_reads"]
    recipe.keep(json.dumps(before), tmp_path)
    config = base.get_config("i3d")
    config.data.parallel_reads = 3
    recipe.refuse_other(config, tmp_path)
    config.data.order = "shards"
    with pytest.raises(UserError, match=r"data\.order was 'random' and is 'shards'"):
        recipe.refuse_other(config, tmp_path)
