"""The final size of a picture, its orientation and its colours, against numbers worked out by hand."""

from fractions import Fraction

import av
import numpy as np
import pytest

from i3d_jax.video.picture import picture, scaled_size


@pytest.mark.parametrize(
    ("stored", "sample_aspect_ratio", "short_side", "expected"),
    [
        ((320, 240), 1, 256, (341, 256)),  # 341.3
        ((240, 320), 1, 256, (256, 341)),
        ((426, 240), 1, 256, (454, 256)),  # 454.4
        ((1920, 1080), 1, 256, (455, 256)),  # 455.1
        ((340, 256), Fraction(64, 51), 256, (427, 256)),  # Shown 426.7 pixels wide.
        ((340, 256), Fraction(1024, 765), 256, (455, 256)),
        ((720, 576), Fraction(16, 15), 256, (341, 256)),  # PAL: 768 x 576.
        ((480, 480), Fraction(1, 2), 256, (256, 512)),  # Shown 240 x 480.
        ((224, 224), 1, 224, (224, 224)),
        ((64, 48), 1, 32, (43, 32)),  # 42.7
    ],
)
def test_the_shorter_side_as_shown_is_exact(stored, sample_aspect_ratio, short_side, expected):
    assert scaled_size(*stored, Fraction(sample_aspect_ratio), short_side) == expected


COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40], [255, 255, 255], [0, 0, 0]], np.uint8)
BARS = COLOURS.repeat(16, axis=0)[None].repeat(32, axis=0)  # [32, 96, 3]


@pytest.mark.parametrize("pixel_format", ["rgb24", "rgb48le", "rgba", "gbrp10le", "yuv444p", "yuv444p10le", "yuva444p"])
def test_colours_of_any_pixel_format(pixel_format):
    frame = av.VideoFrame.from_ndarray(BARS, format="rgb24").reformat(format=pixel_format)
    pixels = picture(frame, (96, 32))
    assert pixels.shape == (32, 96, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[16, 8::16].astype(int), COLOURS, atol=2)


@pytest.mark.parametrize(("pixel_format", "depth"), [("gray", np.uint8), ("gray16le", np.uint16)])
def test_grey_becomes_three_equal_channels(pixel_format, depth):
    ramp = np.linspace(0, np.iinfo(depth).max, 32).astype(depth)[None].repeat(16, axis=0)
    pixels = picture(av.VideoFrame.from_ndarray(ramp, format=pixel_format), (32, 16))
    assert (pixels == pixels[..., :1]).all()
    np.testing.assert_allclose(pixels[0, :, 0], np.linspace(0, 255, 32), atol=1.5)


# Orange by hand: luma .299 R + .587 G + .114 B (BT.601) or .2126 R + .7152 G + .0722 B (BT.709) of (200, 120, 40).
@pytest.mark.parametrize(
    ("colour_space", "full_range", "yuv"),
    [(5, False, (132, 81, 169)), (1, False, (129, 85, 166)), (5, True, (135, 75, 174)), (1, True, (131, 79, 172))],
)
def test_the_stated_colour_matrix_and_range_are_followed(colour_space, full_range, yuv):
    planes = np.array(yuv, np.uint8)[:, None, None].repeat(16, axis=1).repeat(16, axis=2)
    frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
    frame.colorspace = colour_space
    frame.color_range = 2 if full_range else 1
    np.testing.assert_allclose(picture(frame, (16, 16))[8, 8].astype(int), (200, 120, 40), atol=2)


def test_resizing_is_bilinear_with_pixel_centres():
    frame = av.VideoFrame.from_ndarray(np.array([[[0] * 3, [100] * 3]] * 2, np.uint8), format="rgb24")
    # The centres of four pixels stand at -.25, .25, .75 and 1.25 of the two.
    assert picture(frame, (4, 2))[0, :, 0].tolist() == [0, 25, 75, 100]
