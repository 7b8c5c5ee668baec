"""How frames are resized by other programs' rules, and which frames are a clip."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from i3d_jax.data import cpu_tensorflow
from i3d_jax.fvd import protocols
from i3d_jax.fvd.bilinear import resize
from i3d_jax.fvd.options import GENERATED, REAL, Options
from i3d_jax.system.errors import UserError


@pytest.mark.parametrize("library", [np, jnp])
@pytest.mark.parametrize("half_pixel", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (256, 341), (500, 300), (224, 224), (9, 1000), (223, 225)])
def test_as_tensorflow_resizes(size, half_pixel, library):
    """The old one, and the one whose pixels lie as PyTorch's do."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    expected = cpu_tensorflow.load().compat.v1.image.resize_bilinear(
        pixels, (224, 224), align_corners=False, half_pixel_centers=half_pixel
    )
    found = resize(library.asarray(pixels), 224, 224, half_pixel=half_pixel)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_frames_come_out_in_the_range_of_the_network():
    for protocol in protocols.PROTOCOLS.values():
        for value in (0, 255):
            frames = np.full((2, 60, 90, 3), value, np.uint8)
            prepared = protocol.prepare(frames)
            assert prepared.shape == (2, 224, 224, 3)
            np.testing.assert_allclose(prepared, value / 127.5 - 1, atol=1e-6)


def test_the_crop_is_the_middle():
    """A picture whose columns rise: the shorter side is as it was, and a quarter is cut off on either side."""
    frames = np.broadcast_to(np.arange(448, dtype=np.float32)[None, None, :, None] / 2, (1, 224, 448, 3))
    cropped = protocols.named("common_metrics").prepare(frames)
    np.testing.assert_allclose((cropped[0, 0, :, 0] + 1) * 127.5, np.arange(112, 336) / 2, atol=1e-3)
    squashed = protocols.named("cdfvd").prepare(frames)
    np.testing.assert_allclose((squashed[0, 0, :, 0] + 1) * 127.5, np.arange(224) + 0.25, atol=1e-3)
    cornered = protocols.named("reference").prepare(frames)
    np.testing.assert_allclose((cornered[0, 0, :, 0] + 1) * 127.5, np.arange(224), atol=1e-3)


def test_clips_begin_where_they_are_drawn():
    cut = Options(clips="random", frames=9, stride=3, seed=4).cut
    begins = [int(cut.of(60, place, 9)[0]) for place in range(200)]
    assert {begins[0], *begins} == set(range(60 - 24))
    assert begins == [int(cut.of(60, place, 9)[0]) for place in range(200)]
    assert cut.of(25, 3, 9).tolist() == list(range(0, 25, 3))
    assert Options(frames=9, stride=3).cut.of(60, 3, 9).tolist() == list(range(0, 25, 3))
    assert Options(frames="all", stride=2).cut.of(21, 0, 9).tolist() == list(range(0, 21, 2))
    for count, one in ((24, cut), (17, Options(frames="all", stride=2).cut)):
        with pytest.raises(ValueError, match=r"found \d+"):
            one.of(count, 0, 10)


def test_videos_are_drawn():
    assert Options().taken(5, REAL, "set").tolist() == [0, 1, 2, 3, 4]
    few = [Options(videos=3, seed=seed).taken(5, REAL, "set") for seed in range(40)]
    assert all(len(set(one)) == 3 and sorted(one) == one.tolist() for one in few)
    assert {number for one in few for number in one} == set(range(5))
    assert len(Options(protocol="styleganv").taken(3000, REAL, "set")) == 2048
    assert len(Options(protocol="styleganv").taken(30, GENERATED, "set")) == 30
    assert len(Options(protocol="cdfvd").taken(3000, REAL, "set")) == 3000
    assert np.bincount(Options(protocol="cdfvd").taken(1024, GENERATED, "set")).tolist() == [2] * 1024
    with pytest.raises(UserError, match="set: 6 videos were asked of it, and it has 5"):
        Options(videos=6).taken(5, REAL, "set")
    with pytest.raises(UserError, match="set: 2 videos or more were expected, found 1"):
        Options().taken(1, REAL, "set")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "referense"}, r"the protocol must be one of .*did you mean 'reference'"),
        ({"frames": 8}, "frames must be a whole number from 9 on"),
        ({"frames": 9, "protocol": "common_metrics"}, "from 10 on for common_metrics"),
        ({"frames": 16.0}, "found 16.0"),
        ({"stride": 0}, "stride must be a whole number from 1 on, found 0"),
        ({"seed": -1}, "seed must be"),
        ({"videos": 1}, "videos must be a whole number from 2 on, found 1"),
        ({"batch_size": None}, "batch_size must be"),
        ({"clips": "last"}, "clips must be 'first' or 'random', found 'last'"),
        ({"shard": (2, 2)}, "a shard I/N with I from 0 to N - 1 was expected, found 2/2"),
        ({"value_range": (1, 0)}, "value_range must be"),
        ({"frames": "all", "clips": "random"}, "frames 'all' goes with clips 'first'"),
    ],
)
def test_options_that_are_none(options, words):
    with pytest.raises(UserError, match=words):
        Options(**options)
