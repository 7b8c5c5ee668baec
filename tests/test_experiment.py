"""What a run starts from: another run, other classes, an image network."""

from __future__ import annotations

import dataclasses

import chex
import jax
import numpy as np
import pytest
from helpers.small_dataset import write_dataset

from experiments import base, custom, quickstart
from i3d_jax import checkpoint, models
from i3d_jax.data.dataset import Dataset, Split, write_description
from i3d_jax.data.preprocessing import Preprocessing
from i3d_jax.run import build, resolve
from i3d_jax.run.initial_weights import InitialWeights
from i3d_jax.system.errors import UserError

NARROW = {"width_multiplier": 0.125}
PIXELS = {"frame_rate": 25.0, "short_side": 256, "interpolation": "bilinear", "jpeg_quality": 95}
RUN_LABELS = ("jumping", "running", "sitting")


def description(name, labels=RUN_LABELS, preprocessing=PIXELS, **options):
    return checkpoint.Description(
        model=name,
        options={**NARROW, **options},
        num_classes=len(labels),
        labels=labels,
        preprocessing=preprocessing,
    )


def variables(described, seed):
    """Random numbers in the shapes of a described model."""
    random = np.random.default_rng(seed)
    template = models.template(described.create_model())
    return jax.tree.map(lambda leaf: random.uniform(0.5, 1.5, leaf.shape).astype(np.float32), template)


def stored(directory, described, seed=1):
    """A checkpoint of a described model."""
    values = variables(described, seed)
    checkpoint.save(directory, described, values)
    return values


def start_of(directory, described, **changes):
    """What a run of a described model starts from, where it would have drawn `variables(described, 2)`."""
    return InitialWeights(source=str(directory), **changes).fitted(described, variables(described, 2))


def test_another_run(tmp_path):
    run = description("i3d")
    theirs = stored(tmp_path / "other", run)
    found, words = start_of(tmp_path / "other", run)
    chex.assert_trees_all_equal(found, theirs)
    assert words == f"starting from {tmp_path / 'other'}"


@pytest.mark.parametrize("labels", [("a", "b"), tuple(reversed(RUN_LABELS))])
def test_a_run_with_other_classes_leaves_its_classifier(tmp_path, labels):
    run = description("two_stream")
    theirs = stored(tmp_path / "other", description("two_stream", labels))
    found, words = start_of(tmp_path / "other", run)
    assert "but for the classifier" in words
    ours = variables(run, 2)
    for scope in ("RGB", "Flow"):
        chex.assert_trees_all_equal(found["params"][scope].pop("Logits"), ours["params"][scope]["Logits"])
        del theirs["params"][scope]["Logits"]
    chex.assert_trees_all_equal(found, theirs)


@pytest.mark.parametrize("profile", ["average", "centre"])
def test_an_image_network_is_inflated(tmp_path, profile):
    images = description("inception_v1", ("cat", "dog"), {"interpolation": "bilinear", "crop": 224})
    theirs = stored(tmp_path / "images", images)
    run = description("i3d")
    found, words = start_of(tmp_path / "images", run, profile=profile)
    assert "inflated" in words
    chex.assert_trees_all_equal(found["params"]["Logits"], variables(run, 2)["params"]["Logits"])
    kernel = theirs["params"]["Conv2d_2c_3x3"]["conv_2d"]["kernel"]
    expected = [kernel / 3] * 3 if profile == "average" else [0 * kernel, kernel, 0 * kernel]
    chex.assert_trees_all_close(found["params"]["Conv3d_2c_3x3"]["conv_3d"]["kernel"], np.stack(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("other", "run", "words"),
    [
        (description("i3d"), description("two_stream_i3d"), "model 'i3d', this run's 'two_stream_i3d'"),
        (description("inception_v1"), description("c3d"), "trained from scratch"),
        (description("i3d", temporal_padding="replicate"), description("i3d", temporal_padding="zeros"), "=replicate"),
        (
            # "same" where it is not said.
            description("inception_v1", stem_padding="symmetric"),
            description("two_stream"),
            r"stem_padding .* 'symmetric', this run's 'same'; --config.model.stem_padding=symmetric",
        ),
        (
            description("i3d"),
            description("i3d", preprocessing={**PIXELS, "frame_rate": 10.0}),
            "frame_rate 25.0 against",
        ),
        (
            description("inception_v1"),
            description("i3d", width_multiplier=0.25),
            "does not inflate .* in the image network",
        ),
        (
            description("i3d"),
            description("i3d", ("yes", "no"), width_multiplier=0.25),
            "features of .* not this run's, whose width_multiplier is 0.125 there and 0.25 here: Logits sees 128 there "
            "and 256 here",
        ),
        (
            description("inception_v1", batch_norm_gain=True),
            description("conv_lstm"),
            "batch_norm_gain of .* is True, this run's False; --config.model.batch_norm_gain=True takes it over",
        ),
        (
            description("i3d"),
            description("i3d", stream="flow"),
            "stream of .* is 'rgb', this run's 'flow'; --config.model.stream=rgb takes it over",
        ),
        (
            description("inception_v1", last_block="Mixed_3c"),
            description("i3d"),
            "last_block of .* is 'Mixed_3c', this run's 'Mixed_5c'; --config.model.last_block=Mixed_3c takes it over",
        ),
        (
            description("two_stream", stream="rgb"),
            description("two_stream"),
            "stream of .* is 'rgb', this run's 'both'",
        ),
    ],
)
def test_what_a_run_cannot_start_from(tmp_path, other, run, words):
    stored(tmp_path / "other", other)
    with pytest.raises(UserError, match=words):
        start_of(tmp_path / "other", run)


@pytest.mark.parametrize(
    ("protocol", "other", "words"),
    [
        (
            "original",
            "i3d",
            "'original' starts from an image network or .* the video network 'i3d'; .* 'fixed' and 'full'",
        ),
        ("full", "inception_v1", "'full' starts from a network .* the image network 'inception_v1'; .* is 'original'"),
        (
            "fixed",
            "inception_v1",
            "'fixed' starts from a network .* the image network 'inception_v1'; .* is 'original'",
        ),
    ],
)
def test_what_a_protocol_does_not_start_from(tmp_path, protocol, other, words):
    stored(tmp_path / "other", description(other))
    with pytest.raises(UserError, match=words):
        start_of(tmp_path / "other", description("i3d"), protocol=protocol)


def test_the_protocols_that_need_another_network():
    config = base.get_config("i3d")
    for protocol in (None, "original"):
        config.transfer.protocol = protocol
        resolve.initial_weights(config)
    for protocol in ("fixed", "full"):
        config.transfer.protocol, config.init_from = protocol, "somewhere"
        resolve.initial_weights(config)
        config.init_from = None
        with pytest.raises(UserError, match=f"{protocol}' starts from a network .* on videos: init_from must name"):
            resolve.initial_weights(config)


def test_frozen_statistics_are_those_of_another_network():
    config = base.get_config("i3d")
    config.model.batch_norm = "frozen"
    with pytest.raises(UserError, match=r"'frozen' normalises by the running statistics .*: init_from must name"):
        resolve.initial_weights(config)
    config.init_from = "somewhere"
    resolve.initial_weights(config)


@pytest.mark.parametrize("recipe", [quickstart, custom], ids=["quickstart", "custom"])
def test_every_variant_of_a_recipe_makes_its_model(recipe):
    for variant in recipe.VARIANTS:
        config = recipe.get_config(variant)
        model = resolve.create_model(config, 8)
        clips = config.data.frames, config.data.stride, config.data.crop, config.evaluation.frames
        # Table 1's own are followed through the networks in test_models.
        if clips != (*model.training_clip[:3], model.test_clip.frames):
            resolve.check_clips(config, model)


def test_an_unknown_variant_is_named():
    with pytest.raises(UserError, match=r"variants i3d, .* found 'i4d'"):
        quickstart.get_config("i4d")


@pytest.mark.parametrize("name", [name for name in models.MODELS if name != "inception_v1"])
def test_base_holds_every_option_of_every_architecture(name):
    config = base.get_config(name)
    model = resolve.create_model(config, 400)
    options = {field.name for field in dataclasses.fields(model)} - {"parent", "name", "num_classes"}
    assert options == set(config.model) - {"name"}
    # All but the stream are the architecture's own values, and the clips are those of Table 1.
    plain = models.create(name)
    for option in options:
        assert getattr(model, option) == getattr(plain, option), option
    clip = (config.data.frames, config.data.stride, config.data.crop, config.data.network_short_side or None)
    assert clip == plain.training_clip
    assert config.evaluation.frames == plain.test_clip.frames


def test_an_image_network_is_no_recipe():
    config = base.get_config("inception_v1")
    with pytest.raises(UserError, match="network of single images"):
        resolve.check_clips(config, resolve.create_model(config, 2))


def test_the_split_that_is_evaluated(tmp_path):
    def chosen(train_split, *splits, empty=(), asked=None):
        config = base.get_config("i3d")
        config.data.train_split, config.evaluation.split = train_split, asked
        sizes = {split: Split(videos=split not in empty, frames=0, shards=0, skipped=0) for split in splits}
        data = Dataset(directory=tmp_path, name="", labels=(), splits=sizes, preprocessing=Preprocessing())
        return resolve.evaluation_split(config, data)

    assert chosen("train", "train", "test", "val") == "val"
    assert chosen("train", "train", "test", "val", empty=["val"]) == "test"
    assert chosen("train01", "train01", "test01", "train02", "test02") == "test01"
    assert chosen("train02", "train01", "test01", "train02", "test02") == "test02"
    assert chosen("train03", "train03", "test01", "val") == "val"
    assert chosen("train03", "train03", "test03", "val", empty=["test03"]) == "val"
    assert chosen("train", "train", "train01", "test01") == "train"
    assert chosen("train01", "train01", "test01", "test02", asked="test02") == "test02"


def test_a_dataset_of_one_class_is_not_trained_on(tmp_path):
    data = write_dataset(tmp_path / "data", [3, 4])
    write_description(data.directory, name="one", labels=["jump"], splits=data.splits, preprocessing=data.preprocessing)
    config = base.get_config("i3d")
    config.data.directory = str(data.directory)
    with pytest.raises(UserError, match=r"two classes or more was expected, .*data has 'jump' alone"):
        build(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"checkpoints.keep_last": 0}, "checkpoints.keep_last must be at least 1, found 0"),
        ({"data.max_damaged_share": 2.0}, "max_damaged_share must be 0 to 1, found 2.0"),
    ],
)
def test_what_is_out_of_range_is_found_before_data_is_drawn(tmp_path, change, words):
    config = quickstart.get_config("i3d")
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=words):
        build(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
