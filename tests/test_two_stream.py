"""Two-Stream and 3D-Fused: what each stream sees, their shapes, and their averages."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_networks import SHALLOW, small

from i3d_jax import models

# Of Inception-v1 at 224 pixels, by TF-Slim's names.
TRUNK = {
    "Conv2d_1a_7x7": (112, 112, 64),
    "MaxPool_2a_3x3": (56, 56, 64),
    "Conv2d_2b_1x1": (56, 56, 64),
    "Conv2d_2c_3x3": (56, 56, 192),
    "MaxPool_3a_3x3": (28, 28, 192),
    "Mixed_3b": (28, 28, 256),
    "Mixed_3c": (28, 28, 480),
    "MaxPool_4a_3x3": (14, 14, 480),
    "Mixed_4b": (14, 14, 512),
    "Mixed_4c": (14, 14, 512),
    "Mixed_4d": (14, 14, 512),
    "Mixed_4e": (14, 14, 528),
    "Mixed_4f": (14, 14, 832),
    "MaxPool_5a_2x2": (7, 7, 832),
    "Mixed_5b": (7, 7, 832),
    "Mixed_5c": (7, 7, 1024),
}


def shapes(name, frames, stream="both"):
    model = models.create(name, stream=stream)
    inputs = {
        "rgb": jax.ShapeDtypeStruct((2, frames, 224, 224, 3), jnp.float32),
        "flow": jax.ShapeDtypeStruct((2, 10 * frames, 224, 224, 2), jnp.float32),
    }
    inputs = {one: inputs[one] for one in inputs if stream in ("both", one)}
    _, endpoints = jax.eval_shape(model.apply, models.template(model), inputs)
    return {name: endpoint.shape[1:] for name, endpoint in endpoints.items()}


@pytest.mark.parametrize("frames", [1, 25])
def test_endpoints_of_two_stream(frames):
    streams = {
        f"{stream}/{name}": (frames, *shape)
        for stream in ("RGB", "Flow")
        for name, shape in {**TRUNK, "features": (1024,), "Logits": (400,), "Predictions": (400,)}.items()
    }
    assert shapes("two_stream", frames) == {**streams, "Logits": (400,), "Predictions": (400,)}


@pytest.mark.parametrize("clips", [1, 5])
def test_endpoints_of_fused(clips):
    streams = {f"{stream}/{name}": (5 * clips, *shape) for stream in ("RGB", "Flow") for name, shape in TRUNK.items()}
    assert shapes("fused", 5 * clips) == {
        **streams,
        "Concatenated": (5 * clips, 7, 7, 2048),
        "Fusion": (5 * clips, 7, 7, 512),
        "MaxPool": (3 * clips, 4, 4, 512),
        "features": (clips, 512),
        "Logits": (400,),
        "Predictions": (400,),
    }


@pytest.mark.parametrize(("stream", "scope"), [("rgb", "RGB"), ("flow", "Flow")])
def test_endpoints_of_one_stream(stream, scope):
    heads = {"features": (1024,), "Logits": (400,), "Predictions": (400,)}
    own = {f"{scope}/{name}": (2, *shape) for name, shape in {**TRUNK, **heads}.items()}
    assert shapes("two_stream", 2, stream) == {**own, "Logits": (400,), "Predictions": (400,)}
    assert shapes("fused", 10, stream) == {
        **{f"{scope}/{name}": (10, *shape) for name, shape in TRUNK.items()},
        "Concatenated": (10, 7, 7, 1024),
        "Fusion": (10, 7, 7, 512),
        "MaxPool": (6, 4, 4, 512),
        "features": (2, 512),
        "Logits": (400,),
        "Predictions": (400,),
    }


@pytest.mark.parametrize(
    ("stream", "streams", "fields", "trunks"),
    [
        ("both", ("rgb", "flow"), 10, ("RGB", "Flow")),
        ("rgb", ("rgb",), 0, ("RGB",)),
        ("flow", ("flow",), 10, ("Flow",)),
    ],
)
def test_what_the_networks_of_snapshots_see(stream, streams, fields, trunks):
    for name in ("two_stream", "fused"):
        model = models.create(name, stream=stream)
        assert (model.streams, model.flow_per_frame, model.image_trunks) == (streams, fields, trunks)
        assert set(models.template(model)["params"]) - {"Fusion", "Logits"} == set(trunks)


def test_each_frame_gets_its_ten_fields():
    # Every value tells its field and its component.
    flow = np.zeros((1, 20, 32, 32, 2), np.float32)
    flow[0, :, :, :, 0] = np.arange(20)[:, None, None]
    flow[0, :, :, :, 1] = 100 + np.arange(20)[:, None, None]
    frames = np.zeros((1, 2, 32, 32, 3), np.float32)
    inputs = {"rgb": jnp.asarray(frames), "flow": jnp.asarray(flow)}
    stacks = models.create("two_stream").snapshots(inputs, model="it", frames_per_clip=1)["flow"]
    assert stacks[0, 0, 3, 4].tolist() == [
        0,
        100,
        1,
        101,
        2,
        102,
        3,
        103,
        4,
        104,
        5,
        105,
        6,
        106,
        7,
        107,
        8,
        108,
        9,
        109,
    ]
    assert stacks[0, 1, 3, 4].tolist()[:4] == [10, 110, 11, 111]


def test_two_stream_is_the_average_of_its_image_networks():
    model, variables, inputs = small("two_stream")
    logits, _ = jax.jit(model.apply)(variables, inputs)
    stacks = inputs["flow"].transpose(0, 2, 3, 1, 4).reshape(4, 32, 32, 20)
    total = 0
    for stream, scope, images in (("rgb", "RGB", inputs["rgb"][:, 0]), ("flow", "Flow", stacks)):
        alone = models.create("inception_v1", num_classes=3, width_multiplier=0.125, stream=stream, **SHALLOW)
        own = {collection: tree[scope] for collection, tree in variables.items()}
        scores = jax.jit(alone.apply)(own, {stream: images})[0]
        total += scores
    chex.assert_trees_all_close(logits, total / 2, rtol=1e-5, atol=1e-6)
    # With one stream it is that network, under the same names.
    one = model.clone(stream="flow")
    own = {collection: {"Flow": tree["Flow"]} for collection, tree in variables.items()}
    found, endpoints = jax.jit(one.apply)(own, {"flow": inputs["flow"]})
    chex.assert_trees_all_close(found, scores, rtol=0, atol=1e-5 * jnp.abs(scores).max())
    assert one.stream_logits(endpoints) == {}


def test_fused_of_one_stream_convolves_its_channels_alone():
    model, variables, inputs = small("fused")

    def scores(model):
        # By the batch's statistics: those of a new network, not of these images, leave hardly anything of the scores.
        return jax.jit(lambda *inputs: model.apply(*inputs, train=True, mutable=["batch_stats"])[0][0])

    whole, kernel = scores(model), variables["params"]["Fusion"]["conv_3d"]["kernel"]
    # The part of the kernel that meets the stream's channels, an eighth of 480; they are concatenated RGB first.
    for stream, other, part in (("rgb", "Flow", slice(0, 60)), ("flow", "RGB", slice(60, 120))):
        own = {
            collection: {name: leaves for name, leaves in tree.items() if name != other}
            for collection, tree in variables.items()
        }
        own["params"]["Fusion"] = {**own["params"]["Fusion"], "conv_3d": {"kernel": kernel[..., part, :]}}
        found = scores(model.clone(stream=stream))(own, {stream: inputs[stream]})
        # Zeros in the rest of the kernel: the whole network does not see the other stream.
        blind = jnp.zeros_like(kernel).at[..., part, :].set(kernel[..., part, :])
        params = {**variables["params"], "Fusion": {**variables["params"]["Fusion"], "conv_3d": {"kernel": blind}}}
        expected = whole({**variables, "params": params}, inputs)
        assert jnp.ptp(expected, axis=0).max() > 0.1
        chex.assert_trees_all_close(found, expected, rtol=0, atol=1e-4 * jnp.abs(expected).max())


@pytest.mark.parametrize(("name", "frames"), [("two_stream", 1), ("fused", 5)])
def test_a_longer_video_is_the_average_of_its_clips(name, frames):
    model, variables, inputs = small(name)
    apply = jax.jit(lambda inputs: model.apply(variables, inputs)[0])
    # The four clips of the batch, one after the other as one video.
    video = {stream: clips.reshape(1, -1, *clips.shape[2:]) for stream, clips in inputs.items()}
    assert video["rgb"].shape[1] == 4 * frames
    chex.assert_trees_all_close(apply(video)[0], apply(inputs).mean(0), rtol=1e-4, atol=1e-5)
