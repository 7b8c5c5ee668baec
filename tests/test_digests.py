"""Damage to a checkpoint is found and named, whichever of its bytes it hits; nothing that was not written is read."""

from __future__ import annotations

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import seeds
from helpers.moving_pictures import sliding, write_lossless
from helpers.small_checkpoints import save_stream
from helpers.tiny import Tiny, variables

from i3d_jax import checkpoint, predict
from i3d_jax.run.retention import Checkpoints
from i3d_jax.system.errors import UserError
from i3d_jax.training.optimizer import make_optimizer, make_plateau
from i3d_jax.training.partition import Devices
from i3d_jax.training.state import initial_state

ITEMS = ("variables", "training")
DESCRIPTION = checkpoint.Description(
    model="i3d", options={}, num_classes=3, labels=["a", "b", "c"], preprocessing={}, provenance={}
)
BIAS = "params/Logits/bias"
MOMENTUM = "optimizer_state/1/0/trace/Logits/kernel"


def state_at(step: int):
    """A state with everything that one may hold, of other numbers at each step."""
    optimizer, _ = make_optimizer(name="sgd", learning_rates=(0.1,), boundaries=(), momentum=0.9, weight_decay=0.0)
    plateau = make_plateau(patience=2, factor=0.5)
    state = initial_state(variables(Tiny()), optimizer, average=True, plateau=plateau)
    leaves, structure = jax.tree.flatten(state)
    drawn = [
        np.random.default_rng([step, number]).standard_normal(leaf.shape).astype(leaf.dtype) if leaf.ndim else leaf
        for number, leaf in enumerate(leaves)
    ]
    state = jax.tree.unflatten(structure, drawn).replace(step=jnp.int32(step), clips=jnp.int32(8 * step))
    return Devices(devices=jax.devices()[:1]).place(state)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two checkpoints of a run."""
    folder = tmp_path_factory.mktemp("written")
    with Checkpoints(folder, DESCRIPTION, keep_last=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_at(step), None)
    return folder


@pytest.fixture
def run(written, tmp_path):
    """The same to be damaged."""
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


def resume(folder):
    with Checkpoints(folder, DESCRIPTION, keep_last=2) as checkpoints:
        return jax.device_get(checkpoints.restore(state_at(9)))


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit, as the Castagnoli polynomial defines it."""
    found = 0xFFFFFFFF
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = found >> 1 ^ (0x82F63B78 if found & 1 else 0)
    return found ^ 0xFFFFFFFF


def test_a_digest_is_the_crc32c_of_dtype_shape_and_bytes(written):
    assert crc32c(b"123456789") == 0xE3069283
    digests = json.loads((written / "2" / "digests.json").read_text())
    assert digests["algorithm"] == "crc32c"
    state = state_at(2)
    for name, array in {
        f"variables/{BIAS}": state.average["params"]["Logits"]["bias"],
        f"training/{BIAS}": state.params["Logits"]["bias"],
        "training/step": state.step,
    }.items():
        kind = f"{array.dtype} {list(array.shape)}".encode()
        assert digests["arrays"][name] == f"{crc32c(kind + np.asarray(array).tobytes()):08x}"
    assert len(digests["arrays"]) == len(jax.tree.leaves(state))


def test_a_flipped_bit_a_cut_and_zeros_are_found_or_change_nothing(written, tmp_path):
    """Of every file of the tree; what is read is what was written."""
    expected = checkpoint.restore(written / "2", ITEMS)
    random = seeds.drawn()
    files = sorted(path for path in (written / "2" / "tree").rglob("*") if path.is_file() and path.stat().st_size)
    refused = 0
    for file in files:
        damaged = bytearray(file.read_bytes())
        at = random.randrange(len(damaged))
        kind = random.choice(("bit", "zeros", "cut"))
        if kind == "bit":
            damaged[at] ^= 1 << random.randrange(8)
        elif kind == "zeros":
            damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))
        else:
            del damaged[at:]
        copy = tmp_path / "copy"
        shutil.copytree(written / "2", copy)
        (copy / file.relative_to(written / "2")).write_bytes(damaged)
        try:
            found = checkpoint.restore(copy, ITEMS)
        except UserError:
            refused += 1
        else:
            chex.assert_trees_all_equal(found, expected)
        shutil.rmtree(copy)
    assert refused > len(files) / 4


@pytest.mark.parametrize(
    ("file", "intact", "damaged", "words"),
    [
        ("_sharding", b"NamedSharding", b"NamedShardmng", "NamedShardmng has not been implemented"),
        ("_sharding", rb"{\"id\": 0}", rb"{\"Id\": 0}", "not subscriptable"),
        ("_METADATA", b'"key": "optimizer_state"', b'"key": "optimizer_sate"', "AssertionError"),
    ],
)
def test_a_list_of_arrays_that_is_damaged_is_named_whatever_its_reader_raises(run, file, intact, damaged, words):
    """NotImplementedError, TypeError and AssertionError of Orbax, each seen after one bit was flipped."""
    path = run / "2" / "tree" / "training" / file
    assert intact in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(intact, damaged, 1))
    with pytest.raises(UserError, match=rf"the checkpoint .*2 cannot be read: .*{words}"):
        checkpoint.restore(run / "2", ITEMS)


@pytest.mark.parametrize(("item", "name"), [("variables", BIAS), ("training", MOMENTUM), ("training", "step")])
def test_the_array_is_named(run, item, name):
    """As if another had been written in its place: here by the digests of a checkpoint that differs in it alone."""
    path = run / "2" / "digests.json"
    fields = json.loads(path.read_text())
    fields["arrays"][f"{item}/{name}"] = "00000000"
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=rf"2 is damaged: 1 of its \d+ arrays are not as .*: {item}/{name}; without"):
        resume(run)
    shutil.rmtree(run / "2")
    chex.assert_trees_all_equal(resume(run), jax.device_get(state_at(1)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "digests.json cannot be read as JSON"),
        ('{"algorithm": "md5", "arrays": {}}', "the algorithm 'crc32c' and an object of arrays were expected"),
        ('{"algorithm": "crc32c", "arrays": {}}', r"(\d+) of its \1 arrays are not as .*: training/batch_stats"),
    ],
)
def test_digests_that_are_damaged_themselves(run, text, words):
    (run / "2" / "digests.json").write_text(text)
    with pytest.raises(UserError, match=words):
        resume(run)


def test_checkpoints_of_the_time_before_digests_are_read_with_a_note(run, capsys):
    (run / "2" / "digests.json").unlink()
    chex.assert_trees_all_equal(resume(run), jax.device_get(state_at(2)))
    assert capsys.readouterr().err.count(f"{run / '2'} has no digests.json: it is of an earlier version") == 1


def test_a_number_that_no_network_holds_is_seen_without_digests(tmp_path):
    """As a flipped bit of an exponent leaves it: the logits were 2.6e13, and the probability 1."""
    save_stream(tmp_path / "a", stream="rgb")
    _, variables, _ = checkpoint.load(tmp_path / "a")
    bias = np.array(variables["params"]["Logits"]["Conv3d_0c_1x1"]["bias"])
    bias[1] = -2.9e14
    variables["params"]["Logits"]["Conv3d_0c_1x1"]["bias"] = bias
    checkpoint.save(tmp_path / "b", checkpoint.Description.read(tmp_path / "a"), variables)
    checkpoint.load(tmp_path / "b")
    (tmp_path / "b" / "digests.json").unlink()
    with pytest.raises(UserError, match=r"damaged: variables/params/Logits/Conv3d_0c_1x1/bias holds 2\.9e\+14 in size"):
        checkpoint.load(tmp_path / "b")


def test_predict_names_the_array_and_prints_no_score_that_is_not_finite(tmp_path, capsys):
    video = str(tmp_path / "video.mkv")
    write_lossless(video, sliding(10, right=2, down=-1))
    save_stream(tmp_path / "whole", stream="rgb")
    arguments = [video, "--format", "json", "--checkpoint"]
    path = tmp_path / "whole" / "digests.json"
    digests = path.read_text()
    name = next(name for name in json.loads(digests)["arrays"] if "Conv3d_1a_7x7" in name and "kernel" in name)
    path.write_text(digests.replace(json.loads(digests)["arrays"][name], "00000000"))
    with pytest.raises(UserError, match=f"1 of its .* arrays are not as .*: {name}$"):
        predict.main([*arguments, str(tmp_path / "whole")])
    path.write_text(digests)
    # A network that went wrong in training has the right digests.
    _, stored, _ = checkpoint.load(tmp_path / "whole")
    stored["params"]["Logits"]["Conv3d_0c_1x1"]["bias"][1] = np.nan
    checkpoint.save(tmp_path / "wrong", checkpoint.Description.read(tmp_path / "whole"), stored)
    assert predict.main([*arguments, str(tmp_path / "wrong")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "[]\n"
    assert f"gives {video} are not finite numbers" in printed.err
