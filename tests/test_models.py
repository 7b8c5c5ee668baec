"""What holds for every architecture: parameter counts, Table 1, gradients, learning, dtypes; and wrong options."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small_networks import SHALLOW, SMALL, small

from i3d_jax import models
from i3d_jax.models import inception
from i3d_jax.models.layers import ConvolutionUnit, run_block
from i3d_jax.models.network import cross_entropy
from i3d_jax.system.errors import UserError

# Computed from the layer lists, for 400 classes; (e) is confirmed by the release's checkpoints. The LSTM has 8,945,600
# and two gains for each of its 4 x 512 gates. Two-Stream is two Inception-v1, one of which has 17 input channels more:
# (12,058,560 - 17 * 49 * 64) / 2.
PARAMETERS = {
    "inception_v1": 6_002_624,
    "conv_lstm": 8_945_600 + 2 * 4 * 512,
    "c3d": 79_634_576,
    "two_stream": 12_058_560,
    "fused": 39_755_824,
    "i3d": 12_689_984,
    "two_stream_i3d": 25_358_016,
}

# Frames in: the paper's Table 1, training and test.
TABLE_1 = {
    "inception_v1": ({"rgb": (224, 224, 3)}, {"rgb": (224, 224, 3)}),
    "conv_lstm": ({"rgb": (25, 224, 224, 3)}, {"rgb": (50, 224, 224, 3)}),
    "c3d": ({"rgb": (16, 112, 112, 3)}, {"rgb": (240, 112, 112, 3)}),
    "two_stream": (
        {"rgb": (1, 224, 224, 3), "flow": (10, 224, 224, 2)},
        {"rgb": (25, 224, 224, 3), "flow": (250, 224, 224, 2)},
    ),
    "fused": (
        {"rgb": (5, 224, 224, 3), "flow": (50, 224, 224, 2)},
        {"rgb": (25, 224, 224, 3), "flow": (250, 224, 224, 2)},
    ),
    "i3d": ({"rgb": (64, 224, 224, 3)}, {"rgb": (250, 224, 224, 3)}),
    "two_stream_i3d": (
        {"rgb": (64, 224, 224, 3), "flow": (64, 224, 224, 2)},
        {"rgb": (250, 224, 224, 3), "flow": (250, 224, 224, 2)},
    ),
}


def test_every_model_has_its_rows():
    assert set(models.MODELS) == set(PARAMETERS) == set(TABLE_1)


def number_of_parameters(model) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(models.template(model)["params"]))


@pytest.mark.parametrize("name", models.MODELS)
def test_number_of_parameters(name):
    assert number_of_parameters(models.create(name)) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("i3d", {"num_classes": 101}, 12_383_509),
        ("i3d", {"num_classes": 51}, 12_332_259),
        ("i3d", {"num_classes": 600}, 12_894_984),
        ("i3d", {"stream": "flow"}, 12_668_032),
        # The two halves of Two-Stream.
        ("inception_v1", {"stream": "flow"}, 12_058_560 - PARAMETERS["inception_v1"]),
        ("two_stream", {"stream": "rgb"}, PARAMETERS["inception_v1"]),
        ("two_stream", {"stream": "flow"}, 12_058_560 - PARAMETERS["inception_v1"]),
        # A trunk is Inception-v1 without its classifier; what is new is a 3x3x3 convolution of its 1024 channels to
        # 512, with offsets, and a classifier of those.
        ("fused", {"stream": "rgb"}, PARAMETERS["inception_v1"] - 1025 * 400 + (27 * 1024 + 1) * 512 + 513 * 400),
        (
            "fused",
            {"stream": "flow"},
            PARAMETERS["inception_v1"] + 17 * 49 * 64 - 1025 * 400 + (27 * 1024 + 1) * 512 + 513 * 400,
        ),
    ],
)
def test_number_of_parameters_with_options(name, options, parameters):
    assert number_of_parameters(models.create(name, **options)) == parameters


def test_inception_v1_has_torchvisions_number_of_kernels():
    # torchvision's GoogLeNet has 6,624,904 parameters without its auxiliary classifiers, for 1000 classes, of which
    # 7,280 are gains, that ours has not.
    assert number_of_parameters(models.create("inception_v1", num_classes=1000)) == 6_624_904 - 7_280


@pytest.mark.parametrize("test", [False, True], ids=["training", "test"])
@pytest.mark.parametrize("name", models.MODELS)
def test_table_1(name, test):
    model = models.create(name)
    clip = model.test_clip if test else model.training_clip
    shapes = model.input_shapes(clip.frames, clip.size)
    assert shapes == TABLE_1[name][test]
    inputs = {stream: jax.ShapeDtypeStruct((2, *shape), jnp.float32) for stream, shape in shapes.items()}
    variables = models.template(model)
    train = functools.partial(model.apply, train=not test, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
    (logits, endpoints), changed = jax.eval_shape(train, variables, inputs)
    assert (logits.shape, logits.dtype) == ((2, 400), jnp.float32)
    assert endpoints["Predictions"].shape == endpoints["Logits"].shape == (2, 400)
    chex.assert_trees_all_equal_shapes(changed["batch_stats"], variables["batch_stats"])


LABELS = jnp.array([1, 0, 2, 1])


@pytest.mark.parametrize("name", models.MODELS)
def test_gradients_are_finite_and_a_step_lowers_the_loss(name):
    model, variables, inputs = small(name)

    @jax.jit
    def loss_and_gradients(params):
        def loss(params):
            (logits, endpoints), _ = model.apply(
                {**variables, "params": params}, inputs, train=True, mutable=["batch_stats"]
            )
            losses = model.clip_losses(logits, endpoints, LABELS)
            chex.assert_shape(losses, (4,))
            return losses.mean()

        return jax.value_and_grad(loss)(params)

    # With NumPy, which compiles nothing for the shape of every leaf.
    params = jax.device_get(variables["params"])
    before, gradients = jax.device_get(loss_and_gradients(params))
    chex.assert_tree_all_finite(gradients)
    nothing = [name for name, leaf in jax.tree.leaves_with_path(gradients) if not leaf.any()]
    assert not nothing, f"no gradient reaches {nothing}"
    # A step that the gradient promises to lower the loss by a thousandth of it.
    square = sum(np.vdot(leaf, leaf) for leaf in jax.tree.leaves(gradients))
    moved = jax.tree.map(lambda leaf, gradient: leaf - 1e-3 * before / square * gradient, params, gradients)
    assert loss_and_gradients(moved)[0] < before


@pytest.mark.parametrize("name", models.MODELS)
def test_bfloat16_is_near_float32_and_keeps_float32_variables(name):
    model, variables, inputs = small(name)
    half = model.clone(dtype=jnp.bfloat16)
    chex.assert_trees_all_equal_dtypes(models.template(half), models.template(model))
    expected, _ = jax.jit(model.apply)(variables, inputs)
    logits, endpoints = jax.jit(half.apply)(variables, inputs)
    assert logits.dtype == jnp.float32
    assert any(endpoint.dtype == jnp.bfloat16 for endpoint in endpoints.values())
    assert jnp.abs(logits - expected).max() <= 0.02 * jnp.abs(expected).max()


def training_application(model):
    """(params, batch_stats, inputs) -> (logits, changed statistics) in training."""

    def apply(params, batch_stats, inputs):
        (logits, _), changed = model.apply(
            {"params": params, "batch_stats": batch_stats},
            inputs,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return logits, changed["batch_stats"]

    return apply


def narrow(name: str, **options):
    """A narrow network, the shapes of its parameters and statistics, and of four of its smallest clips."""
    frames, size, more = SMALL[name]
    model = models.create(name, num_classes=3, width_multiplier=0.125, **more, **options)
    inputs = {
        stream: jax.ShapeDtypeStruct((4, *shape), jnp.float32)
        for stream, shape in model.input_shapes(frames, size).items()
    }
    variables = models.template(model)
    return model, (variables["params"], variables["batch_stats"], inputs)


@pytest.mark.parametrize("name", models.MODELS)
def test_frozen_statistics_go_through_training_untouched(name):
    model, arguments = narrow(name, batch_norm="frozen")
    program = jax.make_jaxpr(lambda *arguments: training_application(model)(*arguments)[1])(*arguments).jaxpr
    parameters, statistics = (len(jax.tree.leaves(tree)) for tree in arguments[:2])
    assert program.outvars == program.invars[parameters : parameters + statistics]
    assert statistics


@pytest.mark.parametrize("name", ["c3d", "fused", "i3d"])
def test_a_rematerialised_network_keeps_less(name):
    """Of the same variables; what it keeps besides them is at most 0.7 of the other's (measured: 0.57 to 0.64)."""
    kept = {}
    _, (params, batch_stats, inputs) = narrow(name)
    for again in (False, True):
        apply = training_application(narrow(name, rematerialise=again)[0])

        def residuals(params, batch_stats, inputs, apply=apply):
            return jax.vjp(lambda params: apply(params, batch_stats, inputs)[0], params)[1]

        leaves = jax.tree.leaves(jax.eval_shape(residuals, params, batch_stats, inputs))
        # Kernels are among them too.
        kept[again] = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        kept[again] -= sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    assert 0 < kept[True] < 0.7 * kept[False]


class Stack(nn.Module):
    """A mixed block and a unit: seven convolutions."""

    rematerialise: bool

    @nn.compact
    def __call__(self, inputs, train):
        unit = functools.partial(ConvolutionUnit, batch_norm_decay=0.9)
        mixed = inception.MixedBlock(inception.Mixed(4, (4, 4), (4, 4), 4), 1.0, unit, name="mixed")
        outputs, _ = run_block(mixed, inputs, train, rematerialise=self.rematerialise)
        outputs, _ = run_block(unit(16, (3, 3), name="unit"), outputs, train, rematerialise=self.rematerialise)
        return outputs


def test_rematerialised_blocks_compute_again_and_give_the_same_numbers():
    inputs = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 16)), jnp.float32)
    variables = Stack(False).init(jax.random.key(0), inputs, False)
    found, convolutions = [], []
    for model in (Stack(False), Stack(True)):

        def loss(params, model=model):
            outputs, changed = model.apply({**variables, "params": params}, inputs, True, mutable=["batch_stats"])
            return (outputs**3).mean(), changed

        lowered = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(variables["params"])
        # Before XLA, which finds on a CPU that some need not be computed twice.
        convolutions.append(lowered.as_text().count("dot_general") + lowered.as_text().count("stablehlo.convolution"))
        found.append(lowered.compile()(variables["params"]))
    chex.assert_trees_all_close(found[1], found[0], rtol=1e-5, atol=1e-7)
    assert convolutions[1] == convolutions[0] + 7


def test_cross_entropy_by_hand():
    logits, labels = jnp.array([[0.0, 0.0], [np.log(3.0), 0.0]]), jnp.array([1, 0])
    np.testing.assert_allclose(cross_entropy(logits, labels), [np.log(2), np.log(4 / 3)], rtol=1e-6)
    # A tenth of the label is spread over both classes: 0.95 of it stays.
    expected = [np.log(2), 0.95 * np.log(4 / 3) + 0.05 * np.log(4)]
    np.testing.assert_allclose(cross_entropy(logits, labels, 0.1), expected, rtol=1e-6)


def test_label_smoothing_is_optaxs_in_every_architecture():
    random = np.random.default_rng(0)
    logits, steps, rgb, flow = jnp.asarray(random.normal(size=(4, 2, 5)), jnp.float32)
    labels = jnp.array([3, 0])
    endpoints = {"StepLogits": jnp.stack([steps, rgb, flow], axis=1), "RGB/Logits": rgb, "Flow/Logits": flow}

    def smoothed(logits):
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(jax.nn.one_hot(labels, 5), 0.2))

    expected = dict.fromkeys(models.MODELS, smoothed(logits))
    expected["conv_lstm"] = (smoothed(steps) + smoothed(rgb) + smoothed(flow)) / 3
    expected["two_stream_i3d"] = smoothed(rgb) + smoothed(flow)
    for name, losses in expected.items():
        found = models.create(name, num_classes=5).clip_losses(logits, endpoints, labels, 0.2)
        np.testing.assert_allclose(found, losses, rtol=1e-6, err_msg=name)


def test_the_streams_of_two_stream_i3d_are_trained_apart():
    model = models.create("two_stream_i3d", num_classes=2)
    endpoints = {"RGB/Logits": jnp.array([[0.0, 0.0]]), "Flow/Logits": jnp.array([[0.0, np.log(3.0)]])}
    # ln 2 of the one and ln 4/3 of the other, whatever their sum says.
    np.testing.assert_allclose(
        model.clip_losses(jnp.zeros((1, 2)), endpoints, jnp.array([1])), [np.log(8 / 3)], rtol=1e-6
    )


def test_two_stream_i3d_is_the_sum_of_its_streams():
    model, variables, inputs = small("two_stream_i3d")
    logits, _ = jax.jit(model.apply)(variables, inputs)
    total = 0
    for stream, scope in (("rgb", "RGB"), ("flow", "Flow")):
        alone = models.create("i3d", num_classes=3, width_multiplier=0.125, stream=stream, **SHALLOW)
        own = {collection: tree[scope] for collection, tree in variables.items()}
        total += jax.jit(alone.apply)(own, {stream: inputs[stream]})[0]
    chex.assert_trees_all_close(logits, total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        ("i3d", {"rgb": (8, 64, 64, 3)}, "at least 9 frames, found 8"),
        ("i3d", {"rgb": (16, 64, 31, 3)}, "at least 32 pixels a side, found 31x64"),
        ("i3d", {"rgb": (16, 64, 64, 1)}, r"found \[1, 16, 64, 64, 1\]"),
        ("i3d", {"flow": (16, 64, 64, 2)}, "expects the stream 'rgb', found flow"),
        ("two_stream_i3d", {"rgb": (16, 64, 64, 3)}, "expects the stream 'flow', found rgb"),
        ("inception_v1", {"rgb": (1, 64, 64, 3)}, r"\[batch, height, width, 3\], found \[1, 1, 64, 64, 3\]"),
        ("inception_v1", {"flow": (64, 64, 20)}, "expects 'rgb', found flow"),
        ("inception_v1", {"rgb": (31, 64, 3)}, "at least 32 pixels a side, found 64x31"),
        ("conv_lstm", {"rgb": (0, 64, 64, 3)}, "at least 1 frame, found 0"),
        ("c3d", {"rgb": (15, 112, 112, 3)}, "at least 16 frames, found 15"),
        ("c3d", {"rgb": (16, 112, 96, 3)}, "112x112 pixels .*, found 96x112"),
        ("two_stream", {"rgb": (2, 64, 64, 3), "flow": (10, 64, 64, 2)}, "10 fields .* found 10 for 2"),
        ("two_stream", {"rgb": (0, 64, 64, 3), "flow": (0, 64, 64, 2)}, "found 0"),
        ("fused", {"rgb": (4, 64, 64, 3), "flow": (40, 64, 64, 2)}, "frames that 5 divides, found 4"),
        ("fused", {"rgb": (5, 64, 64, 3), "flow": (49, 64, 64, 2)}, "10 fields .* found 49 for 5"),
        ("two_stream stream=flow", {"flow": (15, 64, 64, 2)}, "10 fields .* found 15 fields"),
        ("two_stream stream=flow", {"flow": (0, 64, 64, 2)}, "found 0"),
        ("two_stream stream=flow", {"rgb": (1, 64, 64, 3)}, "expects the stream 'flow', found rgb"),
        ("fused stream=flow", {"flow": (40, 64, 64, 2)}, "frames that 5 divides, found 4"),
        ("fused stream=rgb", {"rgb": (4, 64, 64, 3)}, "frames that 5 divides, found 4"),
    ],
)
def test_wrong_inputs(name, inputs, words):
    name, *option = name.split()
    options = dict(one.split("=") for one in option)
    inputs = {stream: jax.ShapeDtypeStruct((1, *shape), jnp.float32) for stream, shape in inputs.items()}
    with pytest.raises(UserError, match=words):
        jax.eval_shape(models.create(name, **options).init, jax.random.key(0), inputs)


@pytest.mark.parametrize("name", [name for name in models.MODELS if name != "c3d"])
def test_a_trunk_that_ends_earlier(name):
    """All that it has is what the whole network has, but for the layers that see its last block's channels."""
    options = {"width_multiplier": 0.125}
    whole, short = (models.create(name, **options, last_block=last) for last in ("Mixed_5c", "Mixed_3c"))

    def shapes(model):
        params = flax.traverse_util.flatten_dict(models.template(model)["params"], sep="/")
        return {path: leaf.shape for path, leaf in params.items()}

    ours, theirs = shapes(short), shapes(whole)
    assert set(ours) < set(theirs)
    different = {path for path, shape in ours.items() if shape != theirs[path]}
    assert all(any(layer in path for layer in ("Logits", "Fusion", "LSTM")) for path in different)
    assert {path.split("Mixed_")[1][:2] for path in ours if "Mixed_" in path} == {"3b", "3c"}


def test_the_endpoints_of_a_trunk_that_ends_earlier_are_the_whole_ones():
    options = {"num_classes": 3, "width_multiplier": 0.125}
    whole, short = (models.create("i3d", **options, last_block=last) for last in ("Mixed_5c", "Mixed_3c"))
    clip = {"rgb": np.random.default_rng(0).uniform(-1, 1, (1, 9, 32, 32, 3)).astype(np.float32)}
    variables = whole.init(jax.random.key(0), clip)
    params = {name: variables["params"][name] for name in models.template(short)["params"] if name != "Logits"}
    # 480 channels at width 1.
    params["Logits"] = {"Conv3d_0c_1x1": {"kernel": np.ones((1, 1, 1, 60, 3)), "bias": np.zeros(3)}}
    expected = jax.jit(whole.apply)(variables, clip)[1]
    _, found = jax.jit(short.apply)({"params": params, "batch_stats": variables["batch_stats"]}, clip)
    layers = list(inception.TRUNK)[: list(inception.TRUNK).index("Mixed_3c") + 1]
    assert set(found) == {*layers, "features", "Logits", "Predictions"}
    for endpoint in layers:
        np.testing.assert_allclose(found[endpoint], expected[endpoint], rtol=0, atol=1e-6)
    # What is pooled is two steps of time and all of the 4x4 that is left.
    pooled = np.asarray(expected["Mixed_3c"]).mean((2, 3))
    np.testing.assert_allclose(found["features"], (pooled[:, 1:] + pooled[:, :-1]) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("i3", {}, "did you mean 'i3d'"),
        ("two-stream", {}, "did you mean 'two_stream'"),
        ("i3d", {"dropout": 0.1}, "did you mean 'dropout_rate'"),
        ("c3d", {"stream": "rgb"}, "'c3d' has no option 'stream'"),
        ("i3d", {"dropout_rate": 1.0}, "found 1.0"),
        ("i3d", {"num_classes": 0}, "num_classes 0"),
        ("i3d", {"dtype": "float16"}, "found 'float16'"),
        ("i3d", {"dtype": "bf16"}, "one of float32, bfloat16, found 'bf16'"),
        ("i3d", {"dtype": ""}, "one of float32, bfloat16, found ''"),
        ("i3d", {"dtype": None}, "one of float32, bfloat16, found None"),
        ("i3d", {"batch_norm_decay": 1.0}, "batch_norm_decay must be at least 0 and below 1, found 1.0"),
        ("i3d", {"width_multiplier": 0}, "found 0"),
        ("i3d", {"stream": "depth"}, "one of rgb, flow, found 'depth'"),
        ("i3d", {"stream": "both"}, "one of rgb, flow, found 'both'"),
        ("fused", {"stream": "depth"}, "one of rgb, flow, both, found 'depth'"),
        ("i3d", {"temporal_padding": "reflect"}, "one of zeros, replicate, found 'reflect'"),
        ("i3d", {"stem_padding": "valid"}, "one of same, symmetric, found 'valid'"),
        ("i3d", {"last_block": "Mixed_5d"}, "one of Mixed_3b, .*, Mixed_5c, found 'Mixed_5d'"),
        ("c3d", {"last_block": "Mixed_3b"}, "'c3d' has no option 'last_block'"),
        ("c3d", {"frame_size": 0}, "frame_size must be at least 1, found 0"),
        ("i3d", {"batch_norm": "eval"}, "batch_norm must be one of train, frozen, found 'eval'"),
        ("i3d", {"rematerialise": []}, r"rematerialise was expected to be of the kind bool, found \[\]"),
        ("c3d", {"frame_size": True}, "frame_size was expected to be of the kind int, found True"),
        ("conv_lstm", {"statistics_steps": 0}, "statistics_steps must be at least 1, found 0"),
    ],
)
def test_wrong_options(name, options, words):
    with pytest.raises(UserError, match=words):
        models.create(name, **options)


@pytest.mark.parametrize("name", models.MODELS)
def test_variables_are_those_that_flax_draws(name):
    """In one program, by shapes alone; and where the key is traced. Kernels of other sizes beside change nothing."""
    model = models.create(
        name, 3, rematerialise=True, width_multiplier=0.0625, **({} if name == "c3d" else {"last_block": "Mixed_3b"})
    )
    shapes = {
        stream: jax.ShapeDtypeStruct((1, *shape), jnp.float32) for stream, shape in model.example_shapes().items()
    }
    found = model.init(jax.random.key(5), shapes)

    def by_flax(key):
        return nn.Module.init(model, key, {stream: jnp.zeros(one.shape, one.dtype) for stream, one in shapes.items()})

    expected = jax.jit(by_flax, compiler_options={"xla_backend_optimization_level": 0})(jax.random.key(5))
    # The compiler multiplies by the deviation in another order.
    chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=1e-7)
    chex.assert_trees_all_equal_shapes(jax.eval_shape(by_flax, jax.random.key(5)), found)
