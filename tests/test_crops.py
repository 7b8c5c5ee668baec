"""Crops: where they lie by hand, and that what is mirrored is the mirror image, of flow with u the other way."""

from __future__ import annotations

import numpy as np
import pytest

from i3d_jax.data.preprocessing import centre_crop, crops, mirrored
from i3d_jax.flow import codec
from i3d_jax.system.errors import UserError

# Every pixel says where it stands: (row, column).
WIDE = np.stack(np.meshgrid(np.arange(6), np.arange(9), indexing="ij"), -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "number", "corners"),
    [
        (WIDE, 1, [(1, 2)]),
        (WIDE, 3, [(1, 0), (1, 2), (1, 5)]),
        (WIDE[:, :5], 3, [(0, 0), (1, 0), (2, 0)]),
        (WIDE[:, :6], 3, [(1, 0), (1, 1), (1, 2)]),
        (WIDE, 5, [(0, 0), (0, 5), (1, 2), (2, 0), (2, 5)]),
    ],
)
def test_where_crops_lie(pixels, number, corners):
    cut = crops(pixels, 4, number)
    assert cut.shape == (number, 4, 4, 2)
    assert [tuple(one[0, 0]) for one in cut] == corners
    assert [tuple(one[-1, -1]) for one in cut] == [(row + 3, column + 3) for row, column in corners]


def test_the_last_five_of_ten_mirror_the_first_five():
    clip = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 9, 3), np.uint8)
    ten = crops(clip, 4, 10)
    assert ten.shape == (10, 2, 3, 4, 4, 3)
    np.testing.assert_array_equal(ten[:5], crops(clip, 4, 5))
    np.testing.assert_array_equal(ten[5:], ten[:5, ..., ::-1, :])
    np.testing.assert_array_equal(centre_crop(clip, 4), ten[2])


@pytest.mark.parametrize("rounding", codec.ROUNDINGS)
def test_mirrored_flow_leads_the_other_way(rounding):
    flow = np.random.default_rng(0).integers(1, 254, (3, 6, 9, 2), np.uint8)
    ten = crops(flow, 4, 10, flow_rounding=rounding)
    before, after = (codec.to_pixels(half, rounding) for half in (ten[:5], ten[5:]))
    np.testing.assert_allclose(after[..., 0], -before[..., ::-1, 0], atol=1e-5)
    np.testing.assert_array_equal(after[..., 1], before[..., ::-1, 1])
    np.testing.assert_array_equal(mirrored(mirrored(flow, flow_rounding=rounding), flow_rounding=rounding), flow)


def test_what_cannot_be_cut():
    with pytest.raises(UserError, match="a crop of 7 pixels was asked of frames of 9x6"):
        crops(WIDE, 7, 5)
    with pytest.raises(UserError, match="crops must be one of 1, 3, 5, 10, found 2"):
        crops(WIDE, 4, 2)
