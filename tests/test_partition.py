"""Devices: replicas against a loop written by hand, a split state against a whole one, what is sent between them."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import Tiny, batch, variables

from benchmarks import hlo, roofline
from i3d_jax import checkpoint, models
from i3d_jax.run.retention import Checkpoints
from i3d_jax.system.errors import UserError
from i3d_jax.training import partition
from i3d_jax.training.loop import Cadence, Callbacks, Step, train
from i3d_jax.training.optimizer import make_optimizer
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import initial_state
from i3d_jax.training.step import training_step

RELEASE = {"name": "sgd", "learning_rates": (0.1,), "boundaries": (), "momentum": 0.9, "weight_decay": 0.0}
BATCHES = [batch(number) for number in range(5)]
# Clips that do not count, more on one replica than on another.
BATCHES[1]["mask"][[0, 1, 5]] = False


def sgd():
    return make_optimizer(**RELEASE)[0]


def compiled(used, model, **options):
    return used.compile_training_step(training_step(model, sgd(), seed=7, replicas=used.replicas, **options))


def replicas_by_hand(model, batches, replicas, *, synchronised_after=()):
    """Parameters, the statistics of every replica and the mean losses of a run, one replica after the other."""

    @jax.jit
    def gradient(params, statistics, rows, key):
        def total_loss(params):
            (logits, _), changed = model.apply(
                {"params": params, "batch_stats": statistics},
                {"rgb": rows["rgb"].astype(jnp.float32) / 127.5 - 1},
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            own = -jax.nn.log_softmax(logits)[jnp.arange(len(logits)), rows["label"]]
            return jnp.sum(own * rows["mask"]), changed["batch_stats"]

        return jax.value_and_grad(total_loss, has_aux=True)(params)

    start = jax.device_get(variables(model))
    params, statistics = start["params"], [start["batch_stats"]] * replicas
    momentum = jax.tree.map(np.zeros_like, params)
    losses = []
    for number, one in enumerate(batches):
        key = jax.random.fold_in(jax.random.key(7), number)
        total, loss = jax.tree.map(np.zeros_like, params), 0.0
        for replica in range(replicas):
            rows = {name: np.split(one[name], replicas)[replica] for name in ("rgb", "label", "mask")}
            (own, moved), slope = gradient(params, statistics[replica], rows, jax.random.fold_in(key, replica))
            statistics[replica] = moved
            total = jax.tree.map(np.add, total, jax.device_get(slope))
            loss += float(own)
        count = one["mask"].sum()
        momentum = jax.tree.map(lambda before, slope, count=count: 0.9 * before + slope / count, momentum, total)
        params = jax.tree.map(lambda value, move: value - 0.1 * move, params, momentum)
        losses.append(loss / count)
        if number + 1 in synchronised_after:
            statistics = [jax.tree.map(lambda *own: np.mean(own, 0), *statistics)] * replicas
    return params, jax.tree.map(lambda *own: np.stack(own), *statistics), losses


@pytest.mark.parametrize("replicas", [2, 4])
def test_pmap_is_a_loop_over_replicas_written_by_hand(replicas):
    model = Tiny(dropout_rate=0.5)
    used = Devices(mode="pmap", devices=jax.devices()[:replicas])
    step, state = compiled(used, model), used.replicate(used.place(initial_state(variables(model), sgd())))
    losses = []
    for number, one in enumerate(BATCHES):
        state, sums = step(state, used.shard_batch(one))
        losses.append(float(sums["loss"][0] / sums["loss"][1]))
        if number + 1 == 3:
            state = used.replicate(used.merge_replicas(state))
    params, statistics, expected = replicas_by_hand(model, BATCHES, replicas, synchronised_after=[3])
    chex.assert_trees_all_close(jax.device_get(state.params), params, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(jax.device_get(state.batch_stats), statistics, rtol=0, atol=1e-5)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert (int(state.step), int(state.clips)) == (5, 40)
    # Every replica has statistics of its own, and what is kept is their mean.
    mean = used.merge_replicas(state).batch_stats["unit"]["batch_norm"]["mean"]
    own = statistics["unit"]["batch_norm"]["mean"]
    np.testing.assert_allclose(mean, own.mean(0), atol=1e-6)
    assert np.ptp(own, axis=0).max() > 1e-3


def five_steps(used, model):
    step, state = compiled(used, model), used.place(initial_state(variables(model), sgd()))
    for one in BATCHES:
        state, _ = step(state, used.shard_batch(one))
    return state


def test_a_split_state_is_the_whole_one(monkeypatch):
    monkeypatch.setattr(partition, "_SMALLEST_SPLIT", 100)
    model = Tiny(dropout_rate=0.5)
    whole, split = (five_steps(Devices(shard_state=shard), model) for shard in (False, True))
    chex.assert_trees_all_close(jax.device_get(split), jax.device_get(whole), rtol=0, atol=1e-5)
    for tree in (split.params, split.optimizer_state[1][0].trace):
        kernel = tree["unit"]["conv_3d"]["kernel"]
        assert kernel.shape == (3, 3, 3, 3, 4)
        assert {piece.data.shape for piece in kernel.addressable_shards} == {(3, 3, 3, 3, 1)}
    gathered = Devices(shard_state=True).whole(split.variables)
    assert gathered["params"]["unit"]["conv_3d"]["kernel"].is_fully_replicated


def test_a_split_state_takes_a_quarter_of_the_bytes_on_each_of_four_devices():
    model = models.create("i3d", num_classes=400, width_multiplier=0.25)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), models.template(model))
    state = jax.eval_shape(lambda: initial_state(zeros, sgd()))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)

    def bytes_on_a_device(shard_state):
        placed = Devices(shard_state=shard_state).place(state)
        pieces = [piece for leaf in jax.tree.leaves(placed) for piece in leaf.addressable_shards]
        return [sum(piece.data.nbytes for piece in pieces if piece.device == device) for device in jax.devices()]

    whole, split = bytes_on_a_device(False), bytes_on_a_device(True)
    assert whole == [sum(leaf.nbytes for leaf in jax.tree.leaves(state))] * 4
    assert len(set(split)) == 1
    # The few per cent above are biases and running statistics, which stay whole.
    assert 0.25 < split[0] / whole[0] < 0.30


def trained(used, folder, *, steps, keep=True):
    """A run of the training loop with a checkpoint every two steps, from the newest there is."""
    model = Tiny(dropout_rate=0.5)
    description = checkpoint.Description(model="i3d", options={}, num_classes=0, labels=(), preprocessing={})
    with Checkpoints(folder, description, keep_last=9) as checkpoints:
        state = used.place(initial_state(variables(model), sgd()))
        if checkpoints.steps():
            state = checkpoints.restore(state)
        step = compiled(used, model)
        state = train(
            state,
            iter(BATCHES[int(state.step) :]),
            step=Step(
                take=lambda state, one: step(state, used.shard_batch(one)),
                replicate=used.replicate,
                merge_replicas=used.merge_replicas,
            ),
            cadence=Cadence(total_steps=steps, log_every=1, evaluate_every=0, checkpoint_every=2),
            learning_rate=lambda step: 0.1,
            callbacks=Callbacks(
                evaluate=lambda state: {"top1": 0.0}, checkpoints=checkpoints, write=lambda *line: None
            ),
        )
        return jax.device_get(state)


def test_a_resumed_run_of_replicas_is_the_uninterrupted_one(tmp_path):
    used = Devices(mode="pmap")
    uninterrupted = trained(used, tmp_path / "whole", steps=4)
    trained(used, tmp_path / "stopped", steps=2)
    chex.assert_trees_all_equal(trained(used, tmp_path / "stopped", steps=4), uninterrupted)
    # A checkpoint has one set of statistics, for any number of devices and either mode.
    chex.assert_shape(uninterrupted.batch_stats["unit"]["batch_norm"]["mean"], (4,))
    for other in (Devices(mode="pmap", devices=jax.devices()[:2]), Devices(), Devices(devices=jax.devices()[:1])):
        chex.assert_trees_all_equal(trained(other, tmp_path / "stopped", steps=4), uninterrupted)


@pytest.mark.parametrize(("written_by", "read_by"), [(1, 4), (4, 2)])
def test_a_split_state_goes_on_on_other_devices(tmp_path, monkeypatch, written_by, read_by):
    monkeypatch.setattr(partition, "_SMALLEST_SPLIT", 100)
    expected = trained(Devices(), tmp_path / "whole", steps=4)
    trained(Devices(shard_state=True, devices=jax.devices()[:written_by]), tmp_path / "split", steps=2)
    found = trained(Devices(shard_state=True, devices=jax.devices()[:read_by]), tmp_path / "split", steps=4)
    chex.assert_trees_all_close(found, expected, rtol=0, atol=1e-5)


def sent(mode, devices, **options):
    """What a training step of Tiny on two clips a device sends: the bytes of its collectives by kind."""
    used = Devices(mode=mode, devices=jax.devices()[:devices])
    state = used.replicate(used.place(initial_state(variables(Tiny()), sgd())))
    program = compiled(used, Tiny(), **options).lower(state, used.shard_batch(batch(0, 2 * devices))).compile()
    return {kind: size for kind, (_, size) in hlo.collectives(hlo.parse(program.as_text())).items()}


PARAMETERS = 3**3 * 3 * 4 + 4 + 4 * 3 + 3  # kernel, offset, classifier, its bias


@pytest.mark.parametrize("mode", ["pjit", "pmap"])
def test_what_is_sent_grows_as_a_ring_of_sums_and_no_faster(mode):
    two, four = sent(mode, 2), sent(mode, 4)
    assert set(two) == set(four) == {"all-reduce"}
    # The bytes summed do not grow with the devices.
    assert two == four
    # Of batch normalisation mean and variance of four channels, and backward, besides the gradient of the offset, the
    # gradient along the normalised values.
    statistics = 0 if mode == "pmap" else 3 * 4
    # Loss and top-1, each with its count; XLA may send one count for both.
    scalars = two["all-reduce"] / 4 - PARAMETERS - statistics
    assert scalars in (3, 4)
    assert roofline.ring_bytes("all-reduce", two["all-reduce"], 2) == two["all-reduce"]
    assert roofline.ring_bytes("all-reduce", four["all-reduce"], 4) == 1.5 * four["all-reduce"]


def test_accumulation_sums_gradients_over_devices_in_every_microbatch_under_pjit_and_once_under_pmap():
    """The statistics of a microbatch need the other devices in any case; those of a replica do not."""
    for mode, times in (("pjit", 2), ("pmap", 1)):
        whole, in_parts = sent(mode, 2), sent(mode, 2, accumulation_steps=2)
        assert set(in_parts) == {"all-reduce"}
        # But for counts, which XLA may send together.
        assert abs(in_parts["all-reduce"] - times * whole["all-reduce"]) <= 2 * 4


def test_wrong_ways_to_compute():
    with pytest.raises(UserError, match=r"must be 'pjit' or 'pmap', found 'pmab' \(did you mean 'pmap'"):
        Devices(mode="pmab")
    with pytest.raises(UserError, match=r"shard_state splits the state of parallel\.mode 'pjit', found 'pmap'"):
        Devices(mode="pmap", shard_state=True)


def test_statistics_that_nothing_changed_stay_as_they_were_to_the_last_bit():
    """The mean of three equal numbers, added up and divided, may be another; a frozen network's must not be."""
    devices = Devices(mode="pmap", devices=jax.devices()[:3])
    statistics = {"mean": np.random.default_rng(0).normal(size=10_000).astype(np.float32)}
    state = devices.place(
        initial_state({"params": {"kernel": np.ones(1, np.float32)}, "batch_stats": statistics}, sgd())
    )
    kept = devices.merge_replicas(devices.replicate(state)).batch_stats
    chex.assert_trees_all_equal(jax.device_get(kept), statistics)
